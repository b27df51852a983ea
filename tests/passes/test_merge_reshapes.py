from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import EliminateIdentities, MergeReshapes


@pytest.mark.parametrize("first", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("second", [(1, 2, 0), (2, 1, 0)])
def test_transposes_compose(build, apply_pass, operators, first, second):
    model = build(
        "g (float[2, 3, 4] x) => (float[a, b, c] y) "
        f"{{ t = Transpose<perm = {list(first)}>(x) y = Transpose<perm = {list(second)}>(t) }}"
    )
    apply_pass(MergeReshapes(), model)
    assert operators(model) == ["Transpose"]


def test_a_transpose_and_its_inverse_vanish(build, apply_pass, operators):
    model = build("""g (float[2, 3, 4] x) => (float[2, 3, 4] y) {
        a = Transpose<perm = [1, 2, 0]>(x)
        b = Transpose<perm = [2, 0, 1]>(a)
        y = Neg(b)
    }""")
    MergeReshapes()(model)
    apply_pass(EliminateIdentities(), model)
    assert operators(model) == ["Neg"]


def test_axes_are_renamed_once(build, apply_pass, operators):
    model = build(
        """g (float[2, 3, 4] x) => (float[6, 4] y) {
        a = Flatten<axis = 1>(x)
        b = Unsqueeze(a, axis)
        c = Squeeze(b)
        y = Reshape(c, shape)
    }""",
        axis=np.array([0]),
        shape=np.array([6, -1]),
    )
    result = apply_pass(MergeReshapes(), model)
    assert operators(model) == ["Reshape"]
    assert result.changes == {"Reshape of Reshape": 3}


def test_the_first_stays_where_others_read_it(build, apply_pass, operators):
    model = build(
        "g (float[2, 3, 4] x) => (float[2, 12] a, float[24] y) { a = Flatten(x) y = Reshape(a, shape) }",
        shape=np.array([-1]),
    )
    apply_pass(MergeReshapes(), model)
    assert operators(model) == ["Flatten", "Reshape"]
    assert model.graph.node(1).inputs[0] is model.graph.inputs[0]


def test_moving_axes_of_size_one_is_a_reshape(build, apply_pass, operators):
    model = build("g (float[2, 1, 4] x) => (float[2, 4, 1] y) { y = Transpose<perm = [0, 2, 1]>(x) }")
    apply_pass(MergeReshapes(), model)
    assert operators(model) == ["Reshape"]
