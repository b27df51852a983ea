"""Matrix product with constant weights packed (N/n, K, n), and between two activations.

The register tile is rows × vectors of the result; the result has the axes (..., m, n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site, workload
from edgec.targets.schedules.kernel import analyse, bound_extents, inline_epilogue, parallelize, vector_lanes

__all__ = ["choose_tile", "schedule"]

VECTORS = (1, 2, 3, 4, 5, 6, 8)
"""Vectors that a tile may have."""

SHORT = 32
"""LLVM may unroll a loop over a depth of at most this."""

PANEL, PARTIAL, PAIRS = "edgec.panel", "edgec.partial", "edgec.pairs"
"""Attributes that `lowering.quantized_weights` writes: of numbers that are made of integers once for all rows, of sums
that the product adds up, and whether two rows share a byte."""

FEW = 16
"""Vector registers of SSE and AVX2."""


def schedule(sch: Schedule, profile: Profile, choose: Chooser) -> bool:
    """Schedule a kernel whose main block is annotated ``matmul``."""
    blocks = analyse(sch)
    if blocks.family != "matmul":
        return False
    panel = partial = None
    for block in blocks.all[: blocks.main_index]:
        if PANEL in sch.get(block).annotations:
            panel = block
        elif PARTIAL in sch.get(block).annotations:
            partial = block
        else:
            sch.compute_inline(block)
    described = workload(sch, blocks)
    product, last = blocks.main, inline_epilogue(sch, blocks)
    extents = bound_extents(sch, last)
    product_extents = bound_extents(sch, product)
    columns, reduction = product_extents[len(extents) - 1], product_extents[len(extents) :]
    *batch, n = sch.get_loops(last)
    row_axis = _row_axis(sch, product, extents)
    m = batch.pop(row_axis) if batch else None
    rows_total = extents[row_axis] if m is not None else 1
    lanes = min(vector_lanes(sch, product, profile), columns)
    vectors_total, registers = -(-columns // lanes), profile.instruction_set.vector_registers
    # Where columns are dropped, the product has more of them than the result, and tiles must not pass its end.
    widths = [v for v in VECTORS if v <= vectors_total and (columns == extents[-1] or vectors_total % v == 0)]
    rows, vectors = choose_tile(rows_total, vectors_total, math.prod(reduction), registers, widths)
    default = {"rows": rows, "vectors": vectors}
    choice = choose(Site.of("matmul", described, default, candidates(rows_total, registers, widths)))
    rows, vectors = choice["rows"], choice["vectors"]
    n_outer, n_vectors, n_lanes = sch.split(n, [None, vectors, lanes])
    if m is None:
        order, anchor = [n_outer, n_vectors, n_lanes], n_outer
    else:
        m_outer, m_inner = sch.split(m, [None, rows])
        if rows_total % rows:
            sch.annotate(m_outer, "pragma_loop_partition_hint", 1)
        order, anchor = [*batch, n_outer, m_outer, m_inner, n_vectors, n_lanes], m_outer
    sch.reorder(*order)
    sch.compute_at(product, anchor, preserve_unit_loops=True)
    inner = sch.get_loops(product)[-len(extents) - len(reduction) :]
    spatial, reduced = inner[: len(extents)], inner[len(extents) :]
    work = math.prod((*extents, *reduction))
    parallelize(sch, sch.fuse(*batch, n_outer) if batch else n_outer, work // 8)
    if m is not None:
        sch.unroll(m_inner)
    sch.unroll(n_vectors)
    sch.vectorize(n_lanes)
    if panel is not None:
        _keep_panel(sch, panel, sch.get_loops(last)[0 if batch else order.index(n_outer)])
    _tile_product(sch, product, spatial, reduced, lanes, partial)
    return True


def _keep_panel(sch: Schedule, panel: SBlockRV, columns: LoopRV) -> None:
    """Compute the numbers of some columns of quantized weights once for all rows."""
    sch.compute_at(panel, columns, preserve_unit_loops=True)
    *_, depth, lanes = sch.get_loops(panel)
    sch.vectorize(lanes)
    if int(sch.get(depth).extent) % 2 == 0:  # they may share a byte
        sch.unroll(sch.split(depth, [None, 2])[1])


def _row_axis(sch: Schedule, product: SBlockRV, extents: list[int]) -> int:
    """The axis whose elements share the right operand; with one row per matrix, the last batch axis may be it."""
    block = sch.get(product)
    right = block.reads[1].region
    for axis in range(len(extents) - 2, -1, -1):
        if any(part.min.same_as(block.iter_vars[axis].var) for part in right):
            break
        if extents[axis] > 1:
            return axis
    return len(extents) - 2


def _tile_product(
    sch: Schedule,
    product: SBlockRV,
    spatial: list[LoopRV],
    reduced: list[LoopRV],
    lanes: int,
    partial: SBlockRV | None = None,
) -> None:
    """Keep the tile in registers: reduction outermost, rows and vectors unrolled, lanes vectorized.

    The partial sums that it is made of, if there are any, are a tile of their own, for each step of the reduction.
    """
    vectors, vector = sch.split(spatial[-1], [None, lanes])
    sch.reorder(*reduced, *spatial[:-1], vectors, vector)
    if partial is not None:
        sch.set_scope(partial, 0, "local")
        sch.compute_at(partial, reduced[-1], preserve_unit_loops=True)
        *inner, depth = sch.get_loops(partial)[-len(spatial) - 2 :]
        _tile_product(sch, partial, inner, [depth], lanes)
    if PAIRS in (annotations := sch.get(product).annotations) and int(annotations[PAIRS]):
        *_, depth = reduced
        if int(sch.get(depth).extent) % 2 == 0:
            reduced = [*reduced[:-1], *sch.split(depth, [None, 2])]
            sch.unroll(reduced[-1])
    sch.vectorize(vector)
    for loop in (*spatial[:-1], vectors):
        sch.unroll(loop)
    sch.decompose_reduction(product, reduced[0])


def candidates(rows: int, registers: int, widths: Sequence[int]) -> list[Choice]:
    """The register tiles worth measuring: those that leave two registers for operands."""
    return [
        {"rows": tile_rows, "vectors": tile_vectors}
        for tile_vectors in widths
        for tile_rows in range(1, min(rows, registers) + 1)
        if 4 <= tile_rows * tile_vectors <= registers - 2
    ]


def choose_tile(rows: int, vectors: int, depth: int, registers: int, widths: Sequence[int]) -> tuple[int, int]:
    """Rows and vectors of the register tile with the fewest loads per multiply-add that fits the registers.

    LLVM spills where accumulators take more than three quarters of the registers, or where what a step loads finds no
    room beside them: the vectors, and the elements if more than one vector is multiplied by them (measured on AVX-512:
    at depth 15 a tile of 8 x 3 runs at 85 % of the speed of 5 x 3). Where registers are few, elements are loaded one
    by one as long as the loop over the depth is not unrolled.

    Args:
        rows: Rows of the product.
        vectors: Its columns, in vectors.
        depth: Products per element.
        registers: Vector registers of the CPU.
        widths: The numbers of vectors to choose from.
    """
    spare = 2 if registers > FEW or depth <= SHORT else 4
    best, best_cost = (1, 1), float("inf")
    for tile_vectors in widths:
        if tile_vectors > vectors:
            break
        for tile_rows in range(1, min(rows, registers) + 1):
            accumulators = tile_rows * tile_vectors
            if accumulators > min(registers * 3 // 4, registers - tile_vectors - 1) or (
                tile_vectors > 1 and accumulators + tile_vectors + tile_rows > registers + spare
            ):
                break
            waste = -(-rows // tile_rows) * tile_rows / rows * -(-vectors // tile_vectors) * tile_vectors / vectors
            starvation = max(1.0, 8 / accumulators)
            # A vector may lie across two cache lines, an element may not.
            cost = (1 + 0.7 / tile_rows + 0.5 / tile_vectors) * waste * starvation
            if cost < best_cost:
                best, best_cost = (tile_rows, tile_vectors), cost
    return best
