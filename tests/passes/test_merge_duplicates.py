from __future__ import annotations

import numpy as np

from edgec.passes import MergeDuplicates


def test_equal_nodes_and_constants_are_merged(build, apply_pass, operators):
    model = build(
        "g (float[2, 3] x) => (float[6] y) { a = Reshape(x, s) b = Reshape(x, t) c = Exp(a) d = Exp(b) y = Add(c, d) }",
        s=np.array([6]),
        t=np.array([6]),
    )
    result = apply_pass(MergeDuplicates(), model)
    assert operators(model) == ["Reshape", "Exp", "Add"]
    assert result.changes == {"initializer": 1, "node": 2}


def test_equal_small_biases_are_not_tied(build, apply_pass):
    model = build(
        "g (float[2, 3] x) => (float[2, 3] y) { a = Add(x, s) y = Mul(a, t) }",
        s=np.zeros(3, np.float32),
        t=np.zeros(3, np.float32),
    )
    assert not MergeDuplicates()(model).modified
    apply_pass(MergeDuplicates(tied_size=2), model)
    assert list(model.graph.initializers) == ["s"]


def test_the_same_bytes_of_another_type_differ(build):
    model = build(
        "g (int32[4] x, int64[2] z) => (int32[4] y, int64[2] u) { y = Add(x, s) u = Add(z, t) }",
        s=np.zeros(4, np.int32),
        t=np.zeros(2, np.int64),
    )
    assert not MergeDuplicates()(model).modified


def test_two_outputs_of_the_same_value_keep_their_names(build, run_onnxruntime):
    model = build("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Neg(x) }")
    MergeDuplicates()(model)
    results = run_onnxruntime(model, {"x": np.array([1, 2], np.float32)})
    assert [array.tolist() for array in results.values()] == [[-1, -2], [-1, -2]]
    for _ in range(3):
        modified = MergeDuplicates()(model).modified
    assert not modified


def test_random_numbers_are_drawn_twice(build):
    model = build("g (float[2] x) => (float[2] y) { a = Bernoulli(x) b = Bernoulli(x) y = Add(a, b) }")
    assert not MergeDuplicates()(model).modified
