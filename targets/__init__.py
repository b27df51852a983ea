"""From the IR to native code: boards, schedules, lowering, code generation, linking."""
