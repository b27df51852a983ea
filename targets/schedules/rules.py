"""The list of schedule rules, tried in order until one takes the kernel."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from edgec.targets.lowering.recurrent import WRITTEN_OUT
from edgec.targets.profile import Profile
from edgec.targets.schedules import conv2d, elementwise, matmul, reduction, rows, winograd
from edgec.targets.schedules.choice import Chooser, default_choice

__all__ = ["RULES", "schedule_kernel"]

Rule = Callable[[Schedule, Profile, Chooser], bool]

# A rule returns False when the kernel is not its own, and leaves the schedule untouched then.
RULES: tuple[Rule, ...] = (
    conv2d.schedule,
    winograd.schedule,
    matmul.schedule,
    rows.schedule,
    elementwise.schedule,
    reduction.schedule,
)


def schedule_kernel(function: tirx.PrimFunc, profile: Profile, choose: Chooser = default_choice) -> tirx.PrimFunc:
    """The kernel with its loops tiled, vectorized and parallelized for ``profile``.

    A rule that has a choice asks ``choose``, which takes one of the candidates: the cost model's by default.
    """
    if WRITTEN_OUT in function.attrs:
        return function
    module = tvm.IRModule({"main": function})
    for rule in RULES:
        schedule = Schedule(module)
        if rule(schedule, profile, choose):
            return schedule.mod["main"]
    raise AssertionError("the last rule takes every kernel")
