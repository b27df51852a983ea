"""Which layer of the model each step of a plan works for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgec.targets.lowering.plan import KernelCall, Place, Plan

__all__ = ["call_layers"]

_SUFFIX = "_product"
"""What the integer form appends to the name of a value whose product it computes with integers."""


def call_layers(plan: Plan, factors: Mapping[bytes, tuple[int, list[str]]]) -> list[str | None]:
    """The convolution or product that each call belongs to, by the name of the value that it computes.

    A kernel belongs to the layer whose weights it reads. One that reads none (a copy of the input into another layout,
    a pool) belongs to the layer that first reads its result. What no layer reads has None.

    Args:
        plan: Of the whole model.
        factors: Of the emitter that made its kernels.
    """
    at = {plan.constants[digest]: row for digest, row in factors.items() if digest in plan.constants}
    waiting = {position: list(dict.fromkeys(names)) for position, (_, names) in at.items()}
    found: list[str | None] = []
    for call in plan.calls:
        read = [a.position for a in call.arguments if a.place is Place.PARAMS and a.position in at]
        if not read:
            found.append(None)
            continue
        names = waiting[max(read, key=lambda position: at[position][0])]
        # Layers with the same weights share them: their kernels come in the layers' order.
        found.append((names.pop(0) if len(names) > 1 else names[0]).removesuffix(_SUFFIX))
    for step in reversed(range(len(plan.calls))):
        if found[step] is None:
            reader = _first_reader(plan.calls, step)
            found[step] = None if reader is None else found[reader]
    return found


def _first_reader(calls: Sequence[KernelCall], step: int) -> int | None:
    """The next step that reads what this one writes; the very next where views hide which it is."""
    written = calls[step].arguments[-1]
    for later in range(step + 1, len(calls)):
        if any((a.place, a.position) == (written.place, written.position) for a in calls[later].arguments[:-1]):
            return later
    return step + 1 if written.place is Place.ARENA and step + 1 < len(calls) else None
