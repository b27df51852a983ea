"""Kernels without a reduction: one flat loop over the result, in vectors."""

from __future__ import annotations

from tvm.s_tir import Schedule

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser
from edgec.targets.schedules.kernel import analyse, bound_extents, parallelize, vector_lanes

__all__ = ["schedule"]


def schedule(sch: Schedule, profile: Profile, _choose: Chooser) -> bool:
    """Schedule a kernel whose blocks are all element-wise or rearrangements."""
    blocks = analyse(sch)
    if blocks.main is not None:
        return False
    for block in blocks.all[:-1]:
        sch.compute_inline(block)
    flatten(sch, blocks.all[-1], profile)
    return True


def flatten(sch: Schedule, block: object, profile: Profile) -> None:
    """Vectorize the innermost axis where it is long enough, spread the rest over the threads."""
    extents = bound_extents(sch, block)
    loops = sch.get_loops(block)
    if not loops:
        return
    work = 1
    for extent in extents:
        work *= extent
    lanes = vector_lanes(sch, block, profile)
    if extents[-1] % lanes == 0:
        outer_loops, vector = loops[:-1], loops[-1]
        if extents[-1] != lanes:
            split, vector = sch.split(loops[-1], [None, lanes])
            outer_loops = [*outer_loops, split]
        sch.vectorize(vector)
        if outer_loops:
            parallelize(sch, sch.fuse(*outer_loops), work)
        return
    if len(loops) > 1:
        parallelize(sch, sch.fuse(*loops[:-1]), work)
