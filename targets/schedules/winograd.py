"""Winograd convolution: the transform of the input, and the product with the transform back.

The product works on a chunk of rows of tiles and of channel blocks at a time, whose products stay in the level-2
cache until they are transformed back; within it, each point is a matrix product with a register tile of image tiles ×
channel blocks.
"""

from __future__ import annotations

import math

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site, workload
from edgec.targets.schedules.conv2d import Row, choose_tile
from edgec.targets.schedules.kernel import Blocks, analyse, bound_extents, parallelize

__all__ = ["schedule"]

CHUNK_BYTES = 192 * 1024
"""Products that wait for their transform back; with the operands they should fit a level-2 cache."""

LEAST_CHUNKS = 4
"""So many threads find something to do in any layer that has as many rows and blocks."""


def schedule(sch: Schedule, profile: Profile, choose: Chooser) -> bool:
    """Schedule a kernel whose main block is annotated ``winograd_input`` or ``winograd``."""
    blocks = analyse(sch)
    if blocks.family == "winograd_input":
        _schedule_input(sch, blocks)
        return True
    if blocks.family == "winograd":
        _schedule_product(sch, profile, blocks, choose)
        return True
    return False


def _schedule_input(sch: Schedule, blocks: Blocks) -> None:
    """One row of tiles at a time: first all its columns vertically, then the tiles horizontally."""
    pad, rows, last = blocks.all
    sch.compute_inline(pad)
    work = 4 * math.prod(bound_extents(sch, last))
    parallelize(sch, sch.fuse(*_transform_input(sch, rows, last)), work)


def _transform_input(sch: Schedule, rows: SBlockRV, last: SBlockRV) -> list[LoopRV]:
    """Schedule the transform, wherever it stands; returns its loops over blocks, batch and rows of tiles."""
    k, l, o, n, ty, tx, c = sch.get_loops(last)[-7:]  # noqa: E741
    sch.reorder(o, n, ty, tx, k, l, c)
    sch.compute_at(rows, ty, preserve_unit_loops=True)
    *_, row_k, row_x, row_c = sch.get_loops(rows)
    sch.reorder(row_x, row_k, row_c)
    for loop in (k, l, row_k):
        sch.unroll(loop)
    for loop in (c, row_c):
        sch.vectorize(loop)
    return [o, n, ty]


def _schedule_product(sch: Schedule, profile: Profile, blocks: Blocks, choose: Chooser) -> None:
    product, rows, *rest = blocks.all[blocks.main_index :]
    inputs: list[SBlockRV] = []
    if blocks.main_index:  # the transform of the input is a part of this kernel
        pad, *inputs, flat = blocks.all[: blocks.main_index]
        for block in (pad, flat):
            sch.compute_inline(block)
    described = workload(sch, blocks)
    for block in rest[:-1]:
        sch.compute_inline(block)
    last = rest[-1]
    _, _, tile_rows, tile_columns, m, _, lanes = bound_extents(sch, rows)
    points, channel_blocks, tiles, _, *reduction = bound_extents(sch, product)
    registers = profile.instruction_set.vector_registers
    default = default_chunk(tile_rows, tile_columns, channel_blocks, points * lanes * 4, registers)
    choice = choose(
        Site.of("winograd", described, default, candidates(tile_rows, tile_columns, channel_blocks, registers))
    )
    n, o, y, x, c = sch.get_loops(last)
    o_outer, o_chunk = sch.split(o, [None, choice["chunk_blocks"]])
    y_outer, y_chunk, y_inner = sch.split(y, [None, choice["chunk_rows"], m])
    x_outer, x_inner = sch.split(x, [None, m])
    outer = [n, y_outer, o_outer] if inputs else [n, o_outer, y_outer]
    sch.reorder(*outer, o_chunk, y_chunk, x_outer, y_inner, x_inner, c)
    sch.compute_at(rows, x_outer, preserve_unit_loops=True)
    sch.compute_at(product, outer[-1], preserve_unit_loops=True)
    if inputs:
        sch.compute_at(inputs[-1], y_outer, preserve_unit_loops=True)
    for loop in (y_inner, x_inner):
        sch.unroll(loop)
    sch.vectorize(c)
    *_, row_i, row_l, row_c = sch.get_loops(rows)
    for loop in (row_i, row_l):
        sch.unroll(loop)
    sch.vectorize(row_c)
    work = math.prod([points, channel_blocks, tiles, lanes, *reduction])
    parallelize(sch, sch.fuse(*(outer[:2] if inputs else outer)), work // 8)
    if inputs:
        _transform_input(sch, *inputs)
    _tile_product(sch, product, choice)


def _tile_product(sch: Schedule, product: object, choice: Choice) -> None:
    """A register tile over the whole reduction, then a copy of it to the waiting products."""
    tile = sch.cache_write(product, 0, "local")
    k, o, t, c, *reduced = sch.get_loops(product)[-len(sch.get(product).iter_vars) :]
    o_outer, o_inner = sch.split(o, [None, choice["blocks"]])
    t_outer, t_inner = sch.split(t, [None, choice["columns"]])
    sch.reorder(k, o_outer, t_outer, *reduced, t_inner, o_inner, c)
    sch.reverse_compute_at(tile, t_outer, preserve_unit_loops=True)
    for loop in (t_inner, o_inner):
        sch.unroll(loop)
    sch.vectorize(c)
    *_, copied_o, copied_t, copied_c = sch.get_loops(tile)
    for loop in (copied_o, copied_t):
        sch.unroll(loop)
    sch.vectorize(copied_c)
    sch.decompose_reduction(product, reduced[0])


def default_chunk(
    tile_rows: int, tile_columns: int, channel_blocks: int, bytes_per_tile: int, registers: int
) -> Choice:
    """As many rows of tiles and channel blocks as the cache holds, and the register tile of a direct convolution."""
    best, best_size = (1, 1), 0
    for rows in _divisors(tile_rows):
        for blocks in _divisors(channel_blocks):
            size = rows * blocks * tile_columns * bytes_per_tile
            chunks = tile_rows // rows * (channel_blocks // blocks)
            if best_size < size <= CHUNK_BYTES and chunks >= min(LEAST_CHUNKS, tile_rows * channel_blocks):
                best, best_size = (rows, blocks), size
    rows, blocks = best
    columns, tile_blocks = choose_tile(Row(rows * tile_columns, blocks), registers)
    return {"chunk_rows": rows, "chunk_blocks": blocks, "columns": columns, "blocks": tile_blocks}


def candidates(tile_rows: int, tile_columns: int, channel_blocks: int, registers: int) -> list[Choice]:
    """Chunks and register tiles worth measuring."""
    return [
        {"chunk_rows": rows, "chunk_blocks": blocks, "columns": columns, "blocks": tile_blocks}
        for rows in _divisors(tile_rows)
        for blocks in _divisors(channel_blocks)
        for tile_blocks in _divisors(blocks)
        for columns in range(1, min(rows * tile_columns, registers) + 1)
        if 4 <= columns * tile_blocks <= registers - 2 and tile_blocks <= 8
    ]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
