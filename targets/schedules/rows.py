"""Kernels of stages along rows: all stages of one row, then the next row; each stage in vectors along the row."""

from __future__ import annotations

import math

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser
from edgec.targets.schedules.kernel import analyse, bound_extents, parallelize, reduces, vector_lanes

__all__ = ["schedule"]


def schedule(sch: Schedule, profile: Profile, _choose: Chooser) -> bool:
    """Schedule a kernel with stages annotated ``rows``; the last axis of each stage lies in the row."""
    blocks = analyse(sch)
    if blocks.family != "rows":
        return False
    *earlier, last = blocks.all
    kept = []
    for block in earlier:
        if "edgec.kernel" in sch.get(block).annotations:
            kept.append(block)
        else:
            sch.compute_inline(block)
    work = math.prod(bound_extents(sch, last)) * len(kept)
    loops = sch.get_loops(last)
    outer = loops[:-1] or [sch.add_unit_loop(last)]
    row = sch.fuse(*outer)
    parallelize(sch, row, work)
    for block in reversed(kept):
        sch.compute_at(block, row, preserve_unit_loops=True)
    for block in (*kept, last):
        _vectorize(sch, block, vector_lanes(sch, block, profile))
    return True


def _vectorize(sch: Schedule, block: SBlockRV, lanes: int) -> None:
    """Vectors along the row; a reduction runs outside of them, all of its vectors at once."""
    loops = sch.get_loops(block)[1:]
    along, reduction = (loops[-2], loops[-1]) if reduces(sch, block) else (loops[-1], None)
    extent = int(sch.get(along).extent)
    chains = None
    if extent > lanes:
        chains, along = sch.split(along, [None, lanes])
    if reduction is not None:
        sch.reorder(reduction, *([chains] if chains is not None else []), along)
        if chains is not None:
            sch.unroll(chains)
    if extent > 1:
        sch.vectorize(along)
    if reduction is not None:
        sch.decompose_reduction(block, reduction)
