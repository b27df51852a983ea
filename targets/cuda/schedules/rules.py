"""The list of GPU schedule rules, tried in order until one takes the kernel."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from edgec.targets.cuda.schedules import attention, implicit_gemm, recurrent, reduction, window
from edgec.targets.lowering.recurrent import CELL
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser, default_choice

__all__ = ["RULES", "schedule_kernel"]

Rule = Callable[[Schedule, Profile, Chooser], Schedule | None]

# A rule returns None when the kernel is not its own.
RULES: tuple[Rule, ...] = (attention.schedule, implicit_gemm.schedule, window.schedule, reduction.schedule)


def schedule_kernel(function: tirx.PrimFunc, profile: Profile, choose: Chooser = default_choice) -> tirx.PrimFunc:
    """The kernel with its loops bound to blocks and threads of a GPU.

    Raises:
        UnsupportedError: It needs more than a block of threads can have.
    """
    if CELL in function.attrs:
        return recurrent.scheduled(function, profile, choose)
    module = tvm.IRModule({"main": function})
    for rule in RULES:
        scheduled = rule(Schedule(module), profile, choose)
        if scheduled is not None:
            return scheduled.mod["main"]
    raise AssertionError("the last rule takes every kernel")
