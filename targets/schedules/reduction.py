"""Every other kernel with a reduction: pools, means, softmax, and products that no rule above takes.

Each stage runs over its own result; a result whose last axis is a vector is vectorized along it, so that a blocked
pool reduces whole vectors. Stages before the last keep their results in scratch memory.
"""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser
from edgec.targets.schedules.kernel import analyse, parallelize, vector_lanes

__all__ = ["schedule"]

BLOCKED = 5
"""Axes of a blocked tensor: batch, block of channels, row, column, lane."""

SPATIAL = 0
"""IterVar.iter_type of an axis that is not reduced."""


def schedule(sch: Schedule, profile: Profile, _choose: Chooser) -> bool:
    """Schedule any kernel; the last rule of the list."""
    blocks = analyse(sch)
    for block in _inline_rearrangements(sch, blocks.all):
        _schedule_stage(sch, block, profile)
    return True


def _inline_rearrangements(sch: Schedule, blocks: tuple[SBlockRV, ...]) -> list[SBlockRV]:
    """Inline the stages without a reduction into those that read them; returns the stages that remain."""
    remaining = []
    for block in blocks[:-1]:
        if all(axis.iter_type == SPATIAL for axis in sch.get(block).iter_vars) and not _is_expensive(sch, block):
            sch.compute_inline(block)
        else:
            remaining.append(block)
    return [*remaining, blocks[-1]]


def _is_expensive(sch: Schedule, block: SBlockRV) -> bool:
    """Whether computing an element again costs more than storing it: it calls a function."""
    return "T.exp" in str(sch.get(block).body) or "T.erf" in str(sch.get(block).body)


def _schedule_stage(sch: Schedule, block: SBlockRV, profile: Profile) -> None:
    loops = sch.get_loops(block)
    kinds = [axis.iter_type for axis in sch.get(block).iter_vars]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == SPATIAL]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != SPATIAL]
    work = 1
    for loop in loops:
        work *= int(sch.get(loop).extent)
    if not spatial:
        return
    last = int(sch.get(spatial[-1]).extent)
    lanes = vector_lanes(sch, block, profile)
    if len(spatial) == BLOCKED:  # a block of bytes may be shorter than a vector
        lanes = min(lanes, last)
    if last % lanes == 0:
        outer, vector = sch.split(spatial[-1], [None, lanes])
        if reduced:
            sch.reorder(*spatial[:-1], outer, *reduced, vector)
        sch.vectorize(vector)
        spatial = [*spatial[:-1], outer]
    elif reduced:
        sch.reorder(*spatial, *reduced)
    outermost = sch.fuse(*spatial) if len(spatial) > 1 else spatial[0]
    parallelize(sch, outermost, work)
    if reduced:
        sch.decompose_reduction(block, reduced[0])
