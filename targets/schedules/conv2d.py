"""Convolution and depthwise convolution in NCHWc: a register tile of output columns × channel blocks.

The tile's accumulators stay in vector registers over the whole reduction; the epilogue (bias, residual, activation)
is applied to the tile before it is stored. Loop order: batch, tile of channel blocks and row in parallel, then the
tiles of a row; the structure follows Y. Liu et al., "Optimizing CNN Model Inference on CPUs", arXiv 1809.02697.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV
from tvm.tirx import IndexMap

from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site, workload
from edgec.targets.schedules.kernel import (
    analyse,
    bound_extents,
    inline_epilogue,
    parallelize,
    unroll_elements,
    vector_lanes,
)

__all__ = ["Row", "choose_tile", "schedule"]


PAGE_BYTES = 4096
"""Addresses that are so far apart look the same to the first level of the cache and to the queue of stores."""

ALIASED_STORE = 14
"""What such a store costs, in multiply-adds of a vector (measured on 1×1 convolutions, Zen 4)."""

HALF_RESULT = 0.6
"""What it costs to finish and store half of a channel block at a time, in dot products of a vector of results."""

MAX_UNROLLED_TAPS = 9
"""Kernels of at most so many taps are unrolled whole, larger ones along their columns."""


def schedule(sch: Schedule, profile: Profile, choose: Chooser) -> bool:
    """Schedule a kernel whose main block is annotated ``conv2d``, ``depthwise`` or ``pointwise`` (1×1, stride 1).

    The result has the axes (n, o, y, x, c). Padding is inlined: at the border its conditions are constants, once the
    tiles and the taps are unrolled, and inside they are true.
    """
    blocks = analyse(sch)
    if blocks.family not in ("conv2d", "depthwise", "pointwise"):
        return False
    for block in blocks.all[: blocks.main_index]:
        sch.compute_inline(block)
    described = workload(sch, blocks)
    conv, last = blocks.main, inline_epilogue(sch, blocks)
    reduction = bound_extents(sch, conv)[5:]
    taps = [axis.var.name.removeprefix("v_") in ("ky", "kx") for axis in sch.get(conv).iter_vars[5:]]
    if blocks.family == "pointwise":
        _join_rows(sch, conv, last)
    extents = bound_extents(sch, last)
    tap_extents = [extent for extent, is_tap in zip(reduction, taps, strict=True) if is_tap]
    mixed_blocks = 1 if blocks.family == "depthwise" else extents[1]
    lanes = min(vector_lanes(sch, conv, profile), extents[-1])
    registers = profile.instruction_set.vector_registers
    sums, result = (np.dtype(str(sch.get(block).writes[0].source.dtype)) for block in (conv, last))
    if sums == np.float16:  # their totals need some too, and elements to multiply by lie in the first sixteen only
        registers = registers * 3 // 4
    by_element = profile.instruction_set.by_element and not taps[-1]
    row = Row(
        width=extents[-2],
        channel_blocks=mixed_blocks,
        products=math.prod(reduction),
        is_shared=taps[-1] and sums.kind == "f",
        is_aliased=result.itemsize > 1 and math.prod(extents[2:]) * result.itemsize % PAGE_BYTES == 0,
        vectors=extents[-1] // lanes,
        by_element=by_element,
        by_words=by_element and sums.kind != "f" and bool(profile.instruction_set.dot_product),
        step=int(sch.get(conv).annotations.get("edgec.column_step", 1)),
        most_blocks=2 if sums == np.float16 else 4,
    )
    default = default_tile(row, registers, tap_extents)
    if sums.kind != "f":  # a word is broadcast by an instruction of its own, and LLVM keeps those that taps share
        dot = profile.dot_product
        are_shared = blocks.family == "depthwise" or profile.instruction_set.by_element or dot is None or dot.prepares
        default["unrolled_axes"] = min(default["unrolled_axes"], 1 if are_shared else 0)
    choice = choose(Site.of(blocks.family, described, default, candidates(row, registers, tap_extents)))
    columns, channel_blocks = choice["columns"], choice["blocks"]
    n, o, *rows, x, c = sch.get_loops(last)
    o_outer, o_inner = sch.split(o, [None, channel_blocks])
    x_outer, x_inner = sch.split(x, [None, columns])
    part, c = sch.split(c, [choice.get("parts", 1), None])
    sch.reorder(n, o_outer, *rows, x_outer, part, x_inner, o_inner, c)
    sch.compute_at(conv, part, preserve_unit_loops=True)
    inner = sch.get_loops(conv)[-len(extents) - len(reduction) :]
    spatial, reduced = inner[: len(extents)], inner[len(extents) :]
    parallelize(sch, sch.fuse(n, o_outer, *(rows or [x_outer])), math.prod([*extents, *reduction]) // 8)
    for loop in (x_inner, o_inner):
        sch.unroll(loop)
    sch.vectorize(c)
    if row.vectors > 1:
        spatial[-1:] = sch.split(spatial[-1], [None, lanes])
    # Vectorize and unroll before decompose_reduction: afterwards the loops belong to two blocks.
    tap_loops = [loop for loop, is_tap in zip(reduced, taps, strict=True) if is_tap]
    if row.by_element:
        reduced[-1:] = unroll_elements(sch, reduced[-1], profile, sums.name)
    sch.reorder(*reduced, *spatial)
    sch.vectorize(spatial[-1])
    unrolled = tap_loops[len(tap_loops) - choice["unrolled_axes"] :]
    for loop in (*unrolled, *spatial[:-1]):
        sch.unroll(loop)
    sch.decompose_reduction(conv, reduced[0])
    return True


def _join_rows(sch: Schedule, conv: SBlockRV, last: SBlockRV) -> None:
    """Make rows and columns one axis: a 1×1 convolution is a matrix product, its tiles may cross rows."""
    width = bound_extents(sch, last)[3]
    sch.transform_layout(conv, ("write", 0), lambda n, o, y, x, c: [n, o, y * width + x, c])
    for block in (conv, last):
        axes = len(sch.get(block).iter_vars)
        joined = IndexMap.from_func(lambda n, o, y, x, *rest: [n, o, y * width + x, *rest], ndim=axes)
        sch.transform_block_layout(block, joined)


@dataclass(frozen=True)
class Row:
    """What the best register tile depends on.

    Attributes:
        width: Columns of the result.
        channel_blocks: Blocks of its channels that read the same input.
        products: Multiply-adds per result.
        is_shared: The window is the innermost part of the reduction: unrolled, its taps share what they read, and
            LLVM keeps it in registers.
        is_aliased: The planes of two channel blocks lie a multiple of a page apart, so that their stores meet in the
            same set of the cache and stop loads whose addresses end alike. Those of bytes do no harm.
        vectors: Vectors that a channel block takes.
        by_element: What is read lies in vectors, which stay in registers while their elements are multiplied by.
        by_words: By elements of four bytes each, with one instruction (SDOT).
        step: A tile has a multiple of so many columns, or the whole row.
        most_blocks: A tile has at most so many channel blocks.
    """

    width: int
    channel_blocks: int
    products: int = 1
    is_shared: bool = False
    is_aliased: bool = False
    vectors: int = 1
    by_element: bool = False
    by_words: bool = False
    step: int = 1
    most_blocks: int = 4

    def may_have(self, columns: int) -> bool:
        """Whether a tile may have so many columns."""
        return columns % self.step == 0 or columns == self.width

    @property
    def half(self) -> Row | None:
        """The row in halves of a channel block, twice as many columns of which fit into the registers."""
        if not self.by_words or self.vectors % 4:
            return None
        return replace(self, vectors=self.vectors // 2, most_blocks=1)


def default_tile(row: Row, registers: int, taps: list[int]) -> Choice:
    """The cost model's tile, and how many axes of the kernel window are unrolled, from its columns outwards."""
    columns, blocks = choose_tile(row, registers)
    unrolled_axes = _unrollable(taps) if math.prod(taps) <= MAX_UNROLLED_TAPS else [0, 1]
    choice = {"columns": columns, "blocks": blocks, "unrolled_axes": unrolled_axes[-1]}
    if row.half is not None:
        half_columns, _ = choose_tile(row.half, registers)
        cost = _row_cost(row.half, half_columns, row.half.vectors) + HALF_RESULT / row.products
        if cost < _row_cost(row, columns, blocks * row.vectors):
            return choice | {"columns": half_columns, "blocks": 1, "parts": 2}
    return choice


def _unrollable(taps: list[int]) -> list[int]:
    """How many axes of the window, from its columns outwards, it makes a difference to unroll."""
    return [0, *(n for n in range(1, len(taps) + 1) if taps[-n] > 1)]


def candidates(row: Row, registers: int, taps: list[int]) -> list[Choice]:
    """The choices worth measuring: tiles that leave two registers for operands, with each axis unrolled or not."""
    halves = [] if row.half is None else [choice | {"parts": 2} for choice in candidates(row.half, registers, taps)]
    unrolled = [n for n in _unrollable(taps) if math.prod(taps[len(taps) - n :]) <= 4 * MAX_UNROLLED_TAPS]
    whole = [
        {"columns": columns, "blocks": blocks, "unrolled_axes": unrolled_axes}
        for blocks in range(1, min(row.channel_blocks, 8) + 1)
        for columns in range(1, min(row.width, registers) + 1)
        for unrolled_axes in unrolled
        if row.channel_blocks % blocks == 0
        and columns * blocks >= 4
        and columns * blocks * row.vectors <= registers - 2
        and row.may_have(columns)
    ]
    return whole + halves


def choose_tile(row: Row, registers: int) -> tuple[int, int]:
    """Columns and channel blocks of the register tile.

    Each step of the reduction loads one vector of weights per channel block and one input element per column, for
    columns × blocks multiply-adds: the tile with the fewest loads per multiply-add wins. It takes at most three
    quarters of the registers, since LLVM spills beyond that (measured on AVX-512: a tile of 28 accumulators runs at
    70 % of the speed of one of 16). Where several blocks read the same elements LLVM loads these first, and spills if
    they do not fit beside the rest (measured: 6 columns × 2 blocks run at 75 % of the speed of 5 × 2 on AVX2, 12 × 2 at
    60 % of that of 10 × 2 on AVX-512). Columns that do not divide the row cost a remainder.
    """
    best, best_cost = (1, 1), float("inf")
    for blocks in range(1, row.most_blocks + 1):
        vectors = blocks * row.vectors
        if row.channel_blocks % blocks:
            continue
        is_read_again = row.is_shared or row.by_element or vectors > 1
        spare = 2
        if row.is_shared or row.by_element:
            spare = 0 if row.vectors == 1 else -4
        most = (registers + spare - vectors) // (vectors + 1) if is_read_again else registers * 3 // 4
        for columns in filter(row.may_have, range(1, min(row.width, most) + 1)):
            store = ALIASED_STORE if row.is_aliased and blocks > 1 else 0.0
            cost = _row_cost(row, columns, vectors) + store / row.products
            if cost < best_cost:
                best, best_cost = (columns, blocks), cost
    return best


def _row_cost(row: Row, columns: int, vectors: int) -> float:
    """Relative time of a row in tiles of so many columns and vectors."""

    def cost(width: int) -> float:
        # Too few independent accumulators leave the pipeline of the FMA unit (latency 4, two per cycle) empty; a column
        # of four vectors of bytes waits for its weights rather (llvm-mca: A55, A76).
        starvation = max(1.0, (4 if row.by_words else 8) / (width * vectors))
        return (1 + 0.3 / width + (0.05 if row.by_words else 0.2) / vectors) * starvation * width

    tiles, rest = divmod(row.width, columns)
    if row.by_element and row.vectors > 1:  # `part_remainders` makes a narrower tile of what remains
        return (tiles * cost(columns) + (cost(rest) if rest else 0.0)) / row.width
    return -(-row.width // columns) * cost(columns) / row.width * (1.05 if rest else 1.0)
