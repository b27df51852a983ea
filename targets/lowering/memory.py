"""One arena for all intermediate tensors: offsets chosen so that tensors alive at the same time do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ARENA_ALIGNMENT_BYTES", "Interval", "assign_offsets", "live_bound"]

ARENA_ALIGNMENT_BYTES = 64
_ATTEMPTS = 50


@dataclass(frozen=True)
class Interval:
    """A tensor's life: written by call ``first``, last read by call ``last``, both included."""

    size_bytes: int
    first: int
    last: int


def aligned(size_bytes: int) -> int:
    """The size rounded up to the arena's alignment."""
    return -(-size_bytes // ARENA_ALIGNMENT_BYTES) * ARENA_ALIGNMENT_BYTES


def assign_offsets(intervals: Sequence[Interval]) -> tuple[list[int], int]:
    """Offsets in bytes, in the order given, and the arena's size.

    Largest tensor first, each at the lowest offset where it meets no tensor that is alive at the same time
    ("greedy by size", Pisarchyk and Lee, arXiv 2001.03288, section 5.2). Where that leaves gaps, as long-lived tensors
    between others do, the tensor that ends highest goes first in another attempt; the best one counts.
    """
    order = sorted(range(len(intervals)), key=lambda i: (-intervals[i].size_bytes, intervals[i].first))
    bound = live_bound(intervals)
    offsets, arena = _place(intervals, order)
    best = offsets
    for _ in range(_ATTEMPTS):
        if arena == bound:
            break
        highest = max(order, key=lambda i: offsets[i] + aligned(intervals[i].size_bytes))
        order.remove(highest)
        order.insert(0, highest)
        offsets, size = _place(intervals, order)
        if size < arena:
            best, arena = offsets, size
    return best, arena


def _place(intervals: Sequence[Interval], order: Sequence[int]) -> tuple[list[int], int]:
    """Each tensor in this order at its lowest offset, and the arena's size."""
    offsets = [0] * len(intervals)
    placed: list[int] = []
    arena = 0
    for i in order:
        current = intervals[i]
        neighbours = sorted(
            (offsets[j], offsets[j] + aligned(intervals[j].size_bytes))
            for j in placed
            if intervals[j].first <= current.last and current.first <= intervals[j].last
        )
        offset = 0
        for begin, end in neighbours:
            if offset + aligned(current.size_bytes) <= begin:
                break
            offset = max(offset, end)
        offsets[i] = offset
        placed.append(i)
        arena = max(arena, offset + aligned(current.size_bytes))
    return offsets, arena


def live_bound(intervals: Sequence[Interval]) -> int:
    """Bytes of the largest set of tensors alive at the same time: no arena can be smaller."""
    moments = {interval.first for interval in intervals}
    return max(
        (sum(aligned(i.size_bytes) for i in intervals if i.first <= moment <= i.last) for moment in moments), default=0
    )
