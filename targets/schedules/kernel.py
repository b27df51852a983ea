"""What the rules ask about a kernel: its blocks, which of them reduce, which is the last."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import ir, prim
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from edgec.targets.profile import Profile

__all__ = [
    "Blocks",
    "analyse",
    "bound_extents",
    "inline_epilogue",
    "parallelize",
    "reduces",
    "unroll_elements",
    "vector_lanes",
]

# Fewer elements than this per kernel are not worth waking the thread pool (about 5 µs).
PARALLEL_GRAIN = 16384


@dataclass(frozen=True)
class Blocks:
    """The blocks of a kernel in the order they are computed.

    Attributes:
        all: Every block.
        main: The block that carries the family annotation or the first that reduces; None if none does.
        main_index: Its position in ``all``.
    """

    all: tuple[SBlockRV, ...]
    main: SBlockRV | None
    main_index: int
    family: str


def analyse(schedule: Schedule) -> Blocks:
    """Find the blocks and the one that the kernel is about."""
    blocks = tuple(schedule.get_child_blocks(schedule.get_sblock("root")))
    main, index, family = None, len(blocks) - 1, ""
    for i, block in enumerate(blocks):
        annotation = schedule.get(block).annotations.get("edgec.kernel", None)
        if annotation is not None:
            return Blocks(blocks, block, i, str(annotation))
        if main is None and reduces(schedule, block):
            main, index = block, i
    return Blocks(blocks, main, index, family)


def reduces(schedule: Schedule, block: SBlockRV) -> bool:
    """Whether a block has an axis that is reduced."""
    return any(axis.iter_type == 2 for axis in schedule.get(block).iter_vars)


def inline_epilogue(schedule: Schedule, blocks: Blocks) -> SBlockRV:
    """Inline everything between the main block and the last one; returns the last one.

    Where nothing follows the main block, a copy out of a register tile is made to be the last one. Sums of integers
    begin with what is added to them: whatever the order, the result is the same.
    """
    assert blocks.main is not None
    between = list(blocks.all[blocks.main_index + 1 : -1])
    if between and _adds_to_integers(schedule, blocks.main, between[0]):
        schedule.fuse_reduction_epilogue(blocks.main, between.pop(0))
    for block in between:
        schedule.compute_inline(block)
    if blocks.main_index == len(blocks.all) - 1:
        return schedule.cache_write(blocks.main, 0, "local")
    schedule.set_scope(blocks.main, 0, "local")
    return blocks.all[-1]


def _adds_to_integers(schedule: Schedule, main: SBlockRV, block: SBlockRV) -> bool:
    """Whether a block adds the element of a tensor to an integer sum, and does nothing else."""
    total, value = schedule.get(main).writes[0].source, schedule.get(block).body.value
    if str(total.dtype) != "int32" or not isinstance(value, prim.Add):
        return False
    loads = [term for term in (value.a, value.b) if isinstance(term, ir.TensorLoad)]
    return len(loads) == 2 and sum(load.source.same_as(total) for load in loads) == 1


def bound_extents(schedule: Schedule, block: SBlockRV) -> list[int]:
    """Extents of the loops around a block."""
    return [int(schedule.get(loop).extent) for loop in schedule.get_loops(block)]


def vector_lanes(schedule: Schedule, block: SBlockRV, profile: Profile) -> int:
    """Lanes of one vector register for the block's result."""
    return profile.lanes(str(schedule.get(block).writes[0].source.dtype))


def parallelize(schedule: Schedule, loop: object, work: int) -> None:
    """Spread a loop over the thread pool if ``work`` elements are worth it."""
    if work >= PARALLEL_GRAIN:
        schedule.parallel(loop)


def unroll_elements(schedule: Schedule, loop: LoopRV, profile: Profile, dtype: str) -> list[LoopRV]:
    """Go through the elements of a reduction in vectors of ``dtype``, where the CPU multiplies by each element of one.

    Returns:
        The loops that there are now in the place of ``loop``, the inner one unrolled; ``loop`` itself elsewhere.
    """
    lanes = profile.lanes(dtype)
    extent = int(schedule.get(loop).extent)
    if not profile.instruction_set.by_element:
        return [loop]
    if extent % lanes:
        if extent <= 3 * lanes:
            schedule.unroll(loop)
        return [loop]
    outer, inner = schedule.split(loop, [None, lanes])
    schedule.unroll(inner)
    return [outer, inner]
