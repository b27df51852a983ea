"""The arena: no two live tensors overlap, and little is wasted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.targets.lowering.memory import ARENA_ALIGNMENT_BYTES, Interval, aligned, assign_offsets, live_bound

intervals = st.lists(
    st.builds(
        lambda size, first, length: Interval(size, first, first + length),
        st.integers(1, 5000),
        st.integers(0, 30),
        st.integers(0, 8),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(intervals)
def test_live_tensors_do_not_overlap(tensors: list[Interval]) -> None:
    offsets, arena = assign_offsets(tensors)
    for i, a in enumerate(tensors):
        assert offsets[i] % ARENA_ALIGNMENT_BYTES == 0
        assert offsets[i] + a.size_bytes <= arena
        for j, b in enumerate(tensors[:i]):
            if a.first <= b.last and b.first <= a.last:
                apart = offsets[i] + a.size_bytes <= offsets[j] or offsets[j] + b.size_bytes <= offsets[i]
                assert apart, (a, offsets[i], b, offsets[j])
    assert live_bound(tensors) <= arena <= sum(aligned(t.size_bytes) for t in tensors)


def test_a_chain_needs_two_buffers() -> None:
    chain = [Interval(640, i, i + 1) for i in range(10)]
    assert assign_offsets(chain)[1] == live_bound(chain) == 1280


def test_nothing_to_place() -> None:
    assert assign_offsets([]) == ([], 0)
    assert live_bound([]) == 0
