from __future__ import annotations

import re

import numpy as np
import pytest

from edgec.passes import EliminateIdentities

REMOVED = [
    "Identity(x)",
    "Dropout(x)",
    "Dropout(x, ratio, no)",
    "Cast<to = 1>(x)",
    "CastLike(x, x)",
    "Transpose<perm = [0, 1, 2]>(x)",
    "Reshape(x, same)",
    "Flatten<axis = 1>(flat)",
    "Expand(x, same)",
    "Expand(x, ones)",
    "Tile(x, ones)",
    "Add(x, zeros)",
    "Add(zeros, x)",
    "Sub(x, zeros)",
    "Mul(x, unit)",
    "Mul(unit, x)",
    "Div(x, unit)",
    "Pow(x, unit)",
    "Slice(x, starts, ends)",
    "Pad(x, nothing)",
    "Clip(x)",
    "Clip(x, , infinity)",
    "Resize(x, , scales)",
    "Concat<axis = 0>(x)",
    "Sum(x)",
    "Mean(x)",
    "Max(x)",
    "Min(x)",
    "ReduceSum<noop_with_empty_axes = 1>(x)",
    "MaxPool<kernel_shape = [1]>(x)",
    "AveragePool<kernel_shape = [1], strides = [1]>(x)",
]
KEPT = [
    "Cast<to = 11>(x)",
    "Transpose<perm = [0, 2, 1]>(x)",
    "Reshape(x, other)",
    "Add(x, unit)",
    "Sub(zeros, x)",
    "Div(unit, x)",
    "Add(x, widening)",
    "Slice(x, starts, ends, axes, backwards)",
    "Pad(x, something)",
    "Clip(x, zeros)",
    "Tile(x, twice)",
    "Softmax(x)",
    "ReduceSum(x)",
    "MaxPool<kernel_shape = [2]>(x)",
    "MaxPool<kernel_shape = [1], strides = [2]>(x)",
]
CONSTANTS = {
    "ratio": np.array(0.5, np.float32),
    "no": np.array(False),
    "same": np.array([2, 3, 4]),
    "other": np.array([4, 3, 2]),
    "ones": np.array([1, 1, 1]),
    "twice": np.array([1, 2, 1]),
    "zeros": np.array(0, np.float32),
    "unit": np.ones((1, 1), np.float32),
    "widening": np.zeros((2, 2, 3, 4), np.float32),
    "starts": np.array([0, 0, 0]),
    "ends": np.array([9, 3, 4]),
    "axes": np.array([0, 1, 2]),
    "backwards": np.array([-1, -1, -1]),
    "nothing": np.zeros(6, np.int64),
    "something": np.array([0, 0, 1, 0, 0, 0]),
    "infinity": np.array(np.inf, np.float32),
    "scales": np.ones(3, np.float32),
}


def model_of(build, expression):
    source = "float[2, 12] flat" if "flat" in expression else "float[2, 3, 4] x"
    used = {name: array for name, array in CONSTANTS.items() if re.search(rf"\b{name}\b", expression)}
    if "backwards" in used:
        used |= {"starts": np.full(3, -1), "ends": np.full(3, -9), "backwards": np.full(3, -1)}
    output = "double" if "to = 11" in expression else "float"
    return build(f"g ({source}) => ({output}[] y) {{ a = {expression} y = Neg(a) }}", **used)


@pytest.mark.parametrize("expression", REMOVED)
def test_what_is_removed(build, apply_pass, operators, expression):
    model = model_of(build, expression)
    result = apply_pass(EliminateIdentities(), model)
    assert operators(model) == ["Neg"]
    assert result.changes == {expression.split("(")[0].split("<")[0]: 1}


@pytest.mark.parametrize("expression", KEPT)
def test_what_stays(build, expression):
    model = model_of(build, expression)
    assert not EliminateIdentities()(model).modified


def test_names_of_outputs_survive(build, apply_pass, operators):
    model = build("""g (float[2] x) => (float[2] y, float[2] z, float[2] u) {
        y = Identity(x)
        a = Neg(x)
        z = Identity(a)
        u = Dropout(z)
    }""")
    result = apply_pass(EliminateIdentities(), model)
    assert operators(model) == ["Identity", "Neg", "Dropout"]
    assert result.refused == ("Dropout 'Dropout': it names the output 'u'",)


def test_a_mask_in_use_keeps_dropout(build):
    model = build("g (float[2] x) => (float[2] y, bool[2] m) { a, m = Dropout(x) y = Neg(a) }")
    assert not EliminateIdentities()(model).modified


def test_inside_a_subgraph(build):
    model = build("""g (float[2] x, bool[1] c) => (float[2] y) {
        y = If(c) <
            then_branch = t () => (float[2] u) { a = Identity(x) b = Neg(a) u = Identity(b) },
            else_branch = e () => (float[2] v) { v = Identity(x) }
        >
    }""")
    result = EliminateIdentities()(model)
    assert result.changes == {"Identity": 2}
    branches = model.graph.node(0).attributes
    assert [node.op_type for node in branches["then_branch"].as_graph()] == ["Neg"]
    assert [node.op_type for node in branches["else_branch"].as_graph()] == ["Identity"]
