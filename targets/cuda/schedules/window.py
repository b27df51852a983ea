"""Kernels whose results each read a few elements: element-wise chains, rearrangements, pools, depthwise convolution.

A thread computes neighbouring elements of the last axis, 16 bytes of them at most, and goes over the window by itself;
its sums stay in registers until the epilogue is applied.
"""

from __future__ import annotations

import math

import numpy as np
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import REDUCED, Chooser
from edgec.targets.schedules.kernel import Blocks, analyse, bound_extents, inline_epilogue, reduces

__all__ = ["schedule"]

THREADS = 256
"""Most of a block: enough blocks for every multiprocessor, enough warps to hide latency."""

ACCESS_BYTES = 16
"""Most bytes that a thread reads or writes in one instruction (CUDA C++ Programming Guide, device memory accesses)."""

MAX_SERIAL = 1024
"""A sum of more terms is shared by the threads of a block where there are few results."""

FEW_RESULTS = 4096

_REDUCTIONS = ("", "pool", "reduce", "rows")
"""Families whose sums may be over much."""


def schedule(sch: Schedule, _profile: Profile, _choose: Chooser) -> Schedule | None:
    """Schedule a kernel with at most one reduction, if its results keep enough threads busy."""
    blocks = analyse(sch)
    reducing = [block for block in blocks.all if reduces(sch, block)]
    if len(reducing) > 1:
        return None
    if reducing and _wants_shared_sums(sch, blocks, reducing[0]):
        return None
    if reducing:
        blocks = Blocks(blocks.all, reducing[0], blocks.all.index(reducing[0]), blocks.family)
    main = blocks.main if reducing else None
    before = blocks.all[: blocks.main_index] if main is not None else blocks.all[:-1]
    for block in before:
        sch.compute_inline(block)
    last = inline_epilogue(sch, blocks) if main is not None else blocks.all[-1]
    lanes = _lanes(sch, last, sch.get(main) if main is not None else None)
    loops = sch.get_loops(last) or [sch.add_unit_loop(last)]
    outer, vector = sch.split(loops[-1], [None, lanes])
    if main is not None:  # while the loops are those of the axes: TVM does not see through joined ones
        sch.compute_at(main, outer, preserve_unit_loops=True)
        axes = sch.get(main).iter_vars
        inner = sch.get_loops(main)[-len(axes) :]
        spatial, reduced = inner[: len(loops)], inner[len(loops) :]
        sch.reorder(*reduced, *spatial)
        if lanes > 1:
            sch.vectorize(spatial[-1])
    if lanes > 1:
        sch.vectorize(vector)
    _bind(sch, [*loops[:-1], outer])
    if main is not None:
        sch.decompose_reduction(main, reduced[0])
    return sch


def _bind(sch: Schedule, loops: list[LoopRV]) -> None:
    """The innermost loops become threads, as many as are wanted, the others blocks; at most one loop is parted.

    Joined loops are never parted: TVM does not see through their divisions.
    """
    threads: list[LoopRV] = []
    count = 1
    while loops and count * int(sch.get(loops[-1]).extent) <= THREADS:
        count *= int(sch.get(loops[-1]).extent)
        threads.insert(0, loops.pop())
    if loops and 2 * count <= THREADS:
        extent = int(sch.get(loops[-1]).extent)
        parts = -(-extent // (THREADS // count))
        block, thread = sch.split(loops.pop(), [None, -(-extent // parts)])
        loops.append(block)
        threads.insert(0, thread)
    sch.bind(sch.fuse(*loops) if loops else sch.add_unit_loop(threads[0]), "blockIdx.x")
    sch.bind(sch.fuse(*threads), "threadIdx.x")


def _wants_shared_sums(sch: Schedule, blocks: Blocks, main: SBlockRV) -> bool:
    axes = sch.get(main).iter_vars
    results = math.prod(int(axis.dom.extent) for axis in axes if axis.iter_type != REDUCED)
    terms = math.prod(int(axis.dom.extent) for axis in axes if axis.iter_type == REDUCED)
    return results < FEW_RESULTS and terms * THREADS > MAX_SERIAL * 8 and blocks.family in _REDUCTIONS


def _lanes(sch: Schedule, block: SBlockRV, main: object | None) -> int:
    """Elements of the last axis that a thread computes: those of one access, in the widest type of the kernel.

    TVM 0.27 takes vectors of booleans for twice as wide as they are: such kernels compute single elements.
    """
    last_extent = bound_extents(sch, block)[-1] if sch.get_loops(block) else 1
    parts = [sch.get(block), *([] if main is None else [main])]
    dtypes = {str(region.source.dtype) for part in parts for region in (*part.reads, *part.writes)}
    if "bool" in dtypes:
        return 1
    widest = max(np.dtype(dtype).itemsize for dtype in dtypes)
    lanes = ACCESS_BYTES // max(widest, 4)
    if main is None and widest <= 2:
        lanes = ACCESS_BYTES // 4
    while last_extent % lanes:
        lanes //= 2
    return lanes
