"""Kernels without a reduction: one flat loop over the result, in vectors."""

from __future__ import annotations

import math

import numpy as np
from tvm import ir, prim, sym, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV
from tvm_ffi.structural import StructuralVisitor, structural_visit, structural_walk

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser
from edgec.targets.schedules.kernel import analyse, bound_extents, parallelize, vector_lanes

__all__ = ["schedule"]

BLOCKED = 5
"""Axes of a blocked tensor: batch, block of channels, row, column, lane."""

MAX_COPIES = 256
"""So many channels are written out at most."""


def schedule(sch: Schedule, profile: Profile, _choose: Chooser) -> bool:
    """Schedule a kernel whose blocks are all element-wise or rearrangements."""
    blocks = analyse(sch)
    if blocks.main is not None:
        return False
    for block in blocks.all[:-1]:
        sch.compute_inline(block)
    last = blocks.all[-1]
    if _exchanges_lanes(sch, last):
        _unroll_lanes(sch, last)
    else:
        flatten(sch, last, profile)
    return True


def _exchanges_lanes(sch: Schedule, block: SBlockRV) -> bool:
    """Whether elements go to other lanes of a blocked tensor, to the same column, from places known at compile time."""
    axes, extents = [axis.var for axis in sch.get(block).iter_vars], bound_extents(sch, block)
    if len(axes) != BLOCKED or extents[1] * extents[-1] > MAX_COPIES:
        return False
    *_, column, lane = axes
    analyzer = sym.Analyzer()
    for axis, extent in zip(axes, extents, strict=True):
        analyzer.bind(axis, ir.Range(0, extent))
    fits, exchanges = True, False

    def visit(load: ir.TensorLoad, visitor: StructuralVisitor) -> None:
        nonlocal fits, exchanges
        indices = [analyzer.simplify(index) for index in load.indices]
        fits = fits and len(indices) == BLOCKED and analyzer.can_prove_equal(indices[3], column)
        exchanges = exchanges or not analyzer.can_prove_equal(indices[-1], lane)
        visitor.default_visit(load)

    structural_visit(sch.get(block).body, (ir.TensorLoad, visit))
    return fits and exchanges


def _unroll_lanes(sch: Schedule, block: SBlockRV) -> None:
    """Write out the lanes of each channel block: their sources are constants then, which LLVM makes shuffles of."""
    work = math.prod(bound_extents(sch, block))
    n, blocks, y, x, lanes = sch.get_loops(block)
    sch.reorder(n, y, blocks, x, lanes)
    parallelize(sch, sch.fuse(n, y), work)
    sch.unroll(blocks)
    sch.unroll(lanes)


def flatten(sch: Schedule, block: SBlockRV, profile: Profile) -> None:
    """Vectorize the innermost axis where it is long enough, spread the rest over the threads.

    Where every operand has the shape of the result, the last axes are joined until they make whole vectors. (No more
    of them: TVM 0.27 does not see that an index is contiguous if it simplifies some of its divisions only.)
    """
    extents = bound_extents(sch, block)
    loops = sch.get_loops(block)
    if not loops:
        return
    work = math.prod(extents)
    lanes = min(vector_lanes(sch, block, profile), profile.lanes(_widest(sch, block)))
    is_map = _is_map(sch, block)
    if extents[-1] % lanes and is_map:
        joined = next((n for n in range(1, len(loops)) if math.prod(extents[-n:]) % lanes == 0), len(loops))
        loops = [*loops[:-joined], sch.fuse(*loops[-joined:])]
        extents = [*extents[:-joined], math.prod(extents[-joined:])]
    if extents[-1] % lanes and 2 * extents[-1] < lanes:  # left to LLVM
        if len(loops) > 1:
            parallelize(sch, sch.fuse(*loops[:-1]), work)
        return
    outer_loops, vector = loops[:-1], loops[-1]
    if extents[-1] > lanes:
        split, vector = sch.split(loops[-1], [None, lanes])
        outer_loops = [*outer_loops, split]
    sch.vectorize(vector)
    if not is_map and len(outer_loops) > 2:
        # A loop of its own for what would be divisions of the joined index, and in parts where padding begins and ends.
        sch.annotate(outer_loops[-1], "pragma_loop_partition_hint", 1)
        outer_loops = outer_loops[:-1]
    if outer_loops:
        parallelize(sch, sch.fuse(*outer_loops), work)


def _widest(sch: Schedule, block: SBlockRV) -> str:
    """The type of most bits that a number is computed in: bytes are as a rule computed in 32."""
    found = {str(sch.get(block).writes[0].source.dtype)}

    def visit(node: object, visitor: StructuralVisitor) -> None:
        if isinstance(node, prim.BinaryOpExpr | prim.Cast):
            found.add(str(node.ty.dtype))
        visitor.default_visit(node)

    def visit_load(load: ir.TensorLoad, _visitor: StructuralVisitor) -> None:
        found.add(str(load.source.dtype))  # its indices are no numbers of the tensor

    body = sch.get(block).body
    structural_visit(
        body.value if isinstance(body, tirx.BufferStore) else body, [(ir.TensorLoad, visit_load), (object, visit)]
    )
    return max(found, key=lambda dtype: np.dtype(dtype).itemsize)


def _is_map(sch: Schedule, block: SBlockRV) -> bool:
    """Whether each element depends on the elements at its own place alone."""
    axes = [axis.var for axis in sch.get(block).iter_vars]
    extents = bound_extents(sch, block)
    is_map = True

    def visit(load: ir.TensorLoad) -> None:
        nonlocal is_map
        same = len(load.indices) == len(axes) and all(i.same_as(a) for i, a in zip(load.indices, axes, strict=True))
        is_map = is_map and same and [int(extent) for extent in load.source.shape] == extents

    structural_walk(sch.get(block).body, (ir.TensorLoad, visit))
    return is_map
