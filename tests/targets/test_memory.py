"""The arena: no two live tensors overlap, and little is wasted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm_ffi.structural import structural_visit

from edgec.compiler import plan_model
from edgec.targets.lowering import Plan
from edgec.targets.lowering.memory import ARENA_ALIGNMENT_BYTES, Interval, aligned, assign_offsets, live_bound
from edgec.targets.lowering.plan import Place
from tests.conftest import REAL_MODELS

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


def test_another_order_where_the_largest_first_leaves_gaps() -> None:
    """The two of 512 bytes end up at the bottom, and those between them above each other: 1216 bytes instead of 896."""
    tensors = [Interval(512, 0, 1), Interval(320, 1, 2), Interval(384, 2, 3), Interval(512, 3, 3)]
    assert assign_offsets(tensors)[1] == live_bound(tensors) == 896


def test_nothing_to_place() -> None:
    assert assign_offsets([]) == ([], 0)
    assert live_bound([]) == 0


def largest_live_set(plan: Plan) -> int:
    """Bytes that the calls need at once, from the calls alone: a byte lives from its write to its last read."""
    lives: list[tuple[int, int, int]] = []  # size, first call, last call
    at: dict[int, int] = {}  # offset -> number of the tensor that was written there
    for step, call in enumerate(plan.calls):
        function = plan.kernels[call.kernel]
        written: set[int] = set()
        structural_visit(function.body, [(tirx.BufferStore, lambda n, _, w=written: w.add(n.buffer.__chandle__()))])
        for buffer, argument in zip(function.params, call.arguments, strict=True):
            if argument.place is not Place.ARENA:
                continue
            size = math.prod(map(int, buffer.shape)) * np.dtype(str(buffer.dtype)).itemsize
            begin, end = argument.position, argument.position + size
            touched = [start for start in at if start < end and begin < start + lives[at[start]][0]]
            if buffer.__chandle__() in written:
                for start in touched:
                    del at[start]
                at[begin] = len(lives)
                lives.append((size, step, step))
            else:  # several, where a kernel reads what others wrote side by side
                for start in touched:
                    length, first, _ = lives[at[start]]
                    lives[at[start]] = (length, first, step)
    return max(sum(size for size, first, last in lives if first <= step <= last) for step in range(len(plan.calls)))


@pytest.mark.parametrize("model", ["models.MobileNetV2", "models.TransformerClassifier", "models.UNet"])
def test_the_arena_of_a_network(model: str) -> None:
    assert_tight(plan_model(model, "native", None, "m")[0])


@pytest.mark.parametrize("name", ["fastestdet", "superres10", "yunet_n_320"])
def test_the_arena_of_a_real_network(name: str, data_dir: Path) -> None:
    path, shapes = REAL_MODELS[name]
    assert_tight(plan_model(data_dir / "models" / path, "native", shapes, "m")[0])


def assert_tight(plan: Plan) -> None:
    live = largest_live_set(plan)
    assert 0 < live <= plan.arena_bound_bytes
    assert plan.arena_size_bytes <= 1.15 * live
