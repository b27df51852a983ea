from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import MergeMovements

SHUFFLE = """g (float[1, 6, 2, 2] x) => (float[1, 3, 2, 2] y, float[1, 3, 2, 2] z) {
    a = Reshape(x, s)
    b = Transpose<perm = [1, 0, 2]>(a)
    c = Reshape(b, t)
    y = Gather<axis = 0>(c, first)
    z = Gather<axis = 0>(c, second)
}"""


def test_a_channel_shuffle_is_two_slices(build, apply_pass, operators):
    model = build(
        SHUFFLE,
        s=np.array([3, 2, 4]),
        t=np.array([2, -1, 3, 2, 2]),
        first=np.array(0),
        second=np.array(1),
    )
    apply_pass(MergeMovements(), model)
    assert operators(model) == ["Slice", "Slice"]
    assert [value.const_value.numpy().tolist() for value in model.graph.node(1).inputs[1:]] == [[1], [6], [1], [2]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Transpose<perm = [2, 0, 1]>(x) b = Transpose<perm = [1, 2, 0]>(a) y = Neg(b)", ["Neg"]),
        ("a = Reshape(x, flat) b = Reshape(a, same) y = Neg(b)", ["Neg"]),
        ("a = Transpose<perm = [0, 2, 1]>(x) b = Reshape(a, flat) y = Neg(b)", ["Transpose", "Reshape", "Neg"]),
        ("a = Slice(x, one, four, axis) b = Slice(a, one, four, axis) y = Neg(b)", ["Slice", "Neg"]),
        ("a = Slice(x, last, first, axis, back) b = Slice(a, last, first, axis, back) y = Neg(b)", ["Neg"]),
        ("a = Gather<axis = 2>(x, index) b = Unsqueeze(a, axis) y = Neg(b)", ["Slice", "Neg"]),
        ("a = Gather<axis = 2>(x, mixed) b = Reshape(a, flat) y = Neg(b)", ["Gather", "Reshape", "Neg"]),
    ],
)
def test_chains(build, apply_pass, operators, body, expected):
    constants = {
        "flat": np.array([-1]),
        "same": np.array([2, 3, 4]),
        "one": np.array([1]),
        "four": np.array([4]),
        "axis": np.array([2]),
        "last": np.array([-1]),
        "first": np.array([-9]),
        "back": np.array([-1]),
        "index": np.array(2),
        "mixed": np.array([2, 0, 1]),
    }
    used = {name: array for name, array in constants.items() if name in body}
    model = build(f"g (float[2, 3, 4] x) => (float[] y) {{ {body} }}", **used)
    apply_pass(MergeMovements(), model)
    assert operators(model) == expected


def test_long_values_are_left_alone(build):
    model = build(SHUFFLE, s=np.array([3, 2, 4]), t=np.array([2, -1, 3, 2, 2]), first=np.array(0), second=np.array(1))
    assert not MergeMovements(size_limit=20)(model).modified
