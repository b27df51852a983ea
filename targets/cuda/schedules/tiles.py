"""Tiles of an implicit GEMM: which there are, and which one a GPU should be fastest with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product

from edgec.targets.cuda.architectures import ARCHITECTURES, Architecture
from edgec.targets.profile import Gpu
from edgec.targets.schedules.choice import Choice

__all__ = ["Problem", "Tile", "candidates", "default_tile"]

CHUNK_BYTES = 16
"""What a thread copies to shared memory at once, and the unit that the reduction is divided into."""

SHARED_BYTES = 48 << 10
"""Shared memory that a block has without asking for more at its launch."""

REGISTERS = 1 << 16
"""Of a multiprocessor, 32 bits each (CUDA C++ Programming Guide, technical specifications; 5.0 to 12.0)."""

MAX_CANDIDATES = 24

MOST_COPIES = 16
"""Chunks of a stage that a thread copies: without asynchronous copies, they pass through its registers."""

# Parts of rows and columns of a warp, on tensor cores and on CUDA cores: with more, the sums and operands do not fit
# the registers of a thread (asserted in tests for each architecture).
_PARTS = {
    True: [(m, n) for m, n in product((1, 2, 4), (2, 4, 8)) if m * n <= 16],
    False: [(m, n) for m, n in product((1, 2), (2, 4)) if m * n <= 8],
}

_DEPTH_BLOCKS = (1, 2, 4, 8, 16)

LEAST_STEPS = 4
"""Of a block that has a part of the depth."""

MOST_PARTIAL_BYTES = 2 << 20
"""Of the sums that blocks leave for the last one."""

THREAD_REGISTERS = 255
"""Most that a thread can have (from 3.2 on)."""

# Warps that share rows, columns and the depth, and chunks of a stage, of which each warp has whole pairs.
_DIVISIONS = [
    (m, n, k, chunks)
    for m, n, k, chunks in product((1, 2, 4), (1, 2, 4), (1, 2, 4), (4, 8))
    if m * n * k <= 8 and chunks % (2 * k) == 0
]


@dataclass(frozen=True)
class Problem:
    """A product of matrices: ``groups`` times (rows, depth) by (depth, columns).

    Attributes:
        depth: Chunks of 16 bytes per row.
        dtype: Of the operands' buffers; ``int32`` are words of bytes.
        is_tf32: Whether float32 may be rounded to what tensor cores multiply.
    """

    rows: int
    columns: int
    groups: int
    depth: int
    dtype: str
    is_tf32: bool = False

    def blocks_of(self, tile: Tile) -> int:
        """How many tiles the results are divided into."""
        return -(-self.rows // tile.rows) * -(-self.columns // tile.columns) * self.groups

    def on_tensor_cores(self, row: Architecture) -> bool:
        """Whether the architecture has tensor cores for these operands."""
        factors = {"int32": "int8", "float32": "tf32" if self.is_tf32 else "float32"}.get(self.dtype, self.dtype)
        return factors in row.tensor_core_types

    def padding_bytes(self, row: Architecture) -> int:
        """Of a stage: what lies between chunks where those of all rows lie together (`ByChunk` in `tile.cuh`)."""
        is_by_chunk = self.dtype == "int32" and self.on_tensor_cores(row) and not row.has_ldmatrix
        return 2 * 8 * CHUNK_BYTES if is_by_chunk else 0


@dataclass(frozen=True)
class Tile:
    """How a block of threads works, see `tile.cuh`.

    Attributes:
        row_parts, column_parts: A warp's sums, in parts of 16 rows and of 8 columns.
        row_warps, column_warps: How many warps share the rows and columns of a tile.
        depth_warps: How many share each stage's chunks and add up their sums: split-K within a block, where there are
            too few rows and columns for all warps.
        depth_blocks: How many blocks share the depth; the last one to finish adds up their sums. Split-K for large
            GPUs, whose multiprocessors would have nothing to do.
        chunks: Of a stage.
        stages: In flight, where copies are asynchronous.
        tensor_cores: 1 to multiply on these, 0 on CUDA cores.
    """

    row_parts: int
    column_parts: int
    row_warps: int
    column_warps: int
    depth_warps: int
    depth_blocks: int
    chunks: int
    stages: int
    tensor_cores: int

    @cached_property
    def rows(self) -> int:
        return self.row_parts * 16 * self.row_warps

    @cached_property
    def columns(self) -> int:
        return self.column_parts * 8 * self.column_warps

    @property
    def warps(self) -> int:
        return self.row_warps * self.column_warps * self.depth_warps

    @property
    def threads(self) -> int:
        return 32 * self.warps

    def shared_bytes(self, padding_bytes: int) -> int:
        """With so much of each stage for other things than chunks."""
        sums = self.rows * self.columns * 4 if self.depth_warps > 1 else 0
        return max(self.stages * ((self.rows + self.columns) * self.chunks * CHUNK_BYTES + padding_bytes), sums)

    @property
    def spelled(self) -> str:
        """The C++ type."""
        *numbers, unit = (str(getattr(self, part.name)) for part in fields(self))
        return f"edgec::Tile<{', '.join(numbers)}, edgec::Unit::{'kTensorCore' if unit == '1' else 'kCudaCore'}>"

    def choice(self) -> Choice:
        """Named integers, for records of tuning."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def of(cls, choice: Choice) -> Tile:
        """The tile of such integers."""
        return cls(**choice)


def candidates(problem: Problem, gpu: Gpu) -> list[Tile]:
    """The tiles that the cost model thinks best, the best one first."""
    return sorted(_tiles(problem, gpu), key=lambda tile: estimated_cycles(problem, tile, gpu))[:MAX_CANDIDATES]


def default_tile(problem: Problem, gpu: Gpu) -> Tile:
    """The tile with the fewest estimated cycles."""
    return min(_tiles(problem, gpu), key=lambda tile: estimated_cycles(problem, tile, gpu))


def _tiles(problem: Problem, gpu: Gpu) -> Iterator[Tile]:
    row = ARCHITECTURES[gpu.capability]
    tensor_cores = problem.on_tensor_cores(row)
    for row_parts, column_parts in _PARTS[tensor_cores]:
        for row_warps, column_warps, depth_warps, chunks in _DIVISIONS:
            lines = row_parts * row_warps * 16 + column_parts * column_warps * 8
            stages = _stages(problem, row, lines, chunks)
            for depth_blocks in _DEPTH_BLOCKS:
                divisions = (row_warps, column_warps, depth_warps, depth_blocks)
                tile = Tile(row_parts, column_parts, *divisions, chunks, stages, int(tensor_cores))
                if tile.threads * THREAD_REGISTERS <= row.block_registers and _is_sensible(problem, row, tile):
                    yield tile


def _stages(problem: Problem, row: Architecture, lines: int, chunks: int) -> int:
    fitting = SHARED_BYTES // (lines * chunks * CHUNK_BYTES + problem.padding_bytes(row))
    wanted = 4 if row.has_async_copy else 2
    return min(fitting, wanted, max(2, -(-problem.depth // chunks)))


def _is_sensible(problem: Problem, row: Architecture, tile: Tile) -> bool:
    """Whether the tile fits shared memory, and no warp has nothing but rows or columns beyond the last, or no depth."""
    return (
        tile.stages >= 2
        and (tile.rows + tile.columns) * tile.chunks <= MOST_COPIES * tile.threads
        and tile.shared_bytes(problem.padding_bytes(row)) <= SHARED_BYTES
        and (tile.depth_warps == 1 or problem.depth >= 8 * tile.depth_warps)
        and (tile.depth_blocks == 1 or _parts_pay(problem, tile))
        and (tile.row_warps == 1 or (tile.row_warps - 1) * tile.row_parts * 16 < problem.rows)
        and (tile.column_warps == 1 or (tile.column_warps - 1) * tile.column_parts * 8 < problem.columns)
        and (tile.row_parts == 1 or (tile.row_parts - 1) * 16 < problem.rows)
        and (tile.column_parts == 2 or (tile.column_parts - 2) * 8 < problem.columns)
    )


def _parts_pay(problem: Problem, tile: Tile) -> bool:
    """Whether each block has steps enough to hide its latency, and the sums take no more memory than they may."""
    steps = problem.depth // tile.chunks // tile.depth_blocks
    blocks = problem.blocks_of(tile) * tile.depth_blocks
    return steps >= LEAST_STEPS and blocks * tile.rows * tile.columns * 4 <= MOST_PARTIAL_BYTES


def _products_per_cycle(problem: Problem, row: Architecture) -> int:
    """Multiply-adds of a multiprocessor per cycle.

    Source: NVIDIA's white papers on Volta (V100), Turing and Ampere; for bytes on Volta, the data sheet of Jetson AGX
    Xavier: 11 TFLOPS of halves, 22 TOPS of bytes; of CUDA cores, the table of arithmetic throughput in the CUDA C++
    Programming Guide.
    """
    if problem.on_tensor_cores(row):
        halves = 1024 if row.has_async_copy else 512
        return {"float16": halves, "float32": halves // 2}.get(problem.dtype, 2 * halves)
    if problem.dtype in ("float16", "float32"):
        return 128
    return 256 if row.has_dot_product else 32


def estimated_cycles(problem: Problem, tile: Tile, gpu: Gpu) -> float:
    """Estimated cycles of the whole product.

    Waves of resident blocks; in each step of a wave the multiprocessor multiplies, reads shared memory and is fed by
    the L2 cache, of which the slowest counts, but a step takes no less than what latency the stages leave uncovered.
    """
    row = ARCHITECTURES[gpu.capability]
    blocks = problem.blocks_of(tile) * tile.depth_blocks
    registers = 48 + tile.row_parts * tile.column_parts * 4 + 6 * (tile.row_parts + tile.column_parts)
    resident = min(
        row.resident_threads // tile.threads,
        REGISTERS // (registers * tile.threads),
        max(1, row.shared_bytes // tile.shared_bytes(problem.padding_bytes(row))),
    )
    share = -(-blocks // gpu.multiprocessors)
    together = max(1, min(resident, share))
    size = {"float16": 2, "float32": 4}.get(problem.dtype, 1)
    products = tile.rows * tile.columns * tile.chunks * CHUNK_BYTES // size
    read = tile.warps // tile.depth_warps * (tile.row_parts * 16 + tile.column_parts * 8) * tile.chunks * CHUNK_BYTES
    if problem.dtype == "float16" and problem.on_tensor_cores(row) and not row.has_ldmatrix:
        read *= 2  # two groups of lanes load the same rows, or the same columns
    copied = (tile.rows + tile.columns) * tile.chunks * CHUNK_BYTES
    # A warp scheduler of four issues one tensor instruction after the other only with enough warps to choose from.
    busy = min(1.0, together * tile.warps / 8)
    step = max(products / _products_per_cycle(problem, row) / busy, read / 128, copied / 64)
    latency = 600 / max(1, tile.stages - 1) + 80
    steps = -(-problem.depth // tile.chunks // tile.depth_blocks)
    reduction = 1.0 * (tile.depth_warps - 1) * (tile.row_parts * tile.column_parts * 4 * 2 + 60)
    # Through the L2 cache: what a block stores, a counter, and what the last one reads.
    if tile.depth_blocks > 1:
        reduction += 2000 + (tile.depth_blocks + 1) * tile.rows * tile.columns * 4 / 64
    return -(-share // together) * (steps * max(together * step, latency) + 1500 + together * reduction)
