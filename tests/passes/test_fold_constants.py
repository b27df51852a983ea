from __future__ import annotations

import numpy as np

from edgec.passes import FoldConstants


def test_constants_are_computed_and_lifted(build, apply_pass, operators):
    model = build("""g (float[2] x) => (float[2] y) {
        a = Constant<value_floats = [1.0, 2.0]>()
        b = Constant<value_float = 3.0>()
        c = Mul(a, b)
        d = Exp(c)
        y = Add(x, d)
    }""")
    result = apply_pass(FoldConstants(), model)
    assert operators(model) == ["Add"]
    assert result.changes == {"Constant lifted": 1, "Mul": 1, "Exp": 1}
    np.testing.assert_allclose(model.graph.initializers["d"].const_value.numpy(), np.exp([3, 6]), rtol=1e-6)


def test_a_constant_output_keeps_its_name_through_identity(build, apply_pass, operators):
    model = build("g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { y = Neg(a) }")
    apply_pass(FoldConstants(), model)
    assert operators(model) == ["Identity"]


def test_small_inputs_do_not_become_large_files(build, apply_pass, operators):
    model = build(
        """g (float[200, 200] x) => (float[200, 200] y, float[200, 200] z, float[200, 200] v) {
        a = ConstantOfShape<value = float[1] {2.0}>(shape)
        y = Add(x, a)
        b = Expand(one, shape)
        z = Add(x, b)
        c = Tile(one, shape)
        v = Add(x, c)
    }""",
        shape=np.array([200, 200]),
        one=np.ones((1, 1), np.float32),
    )
    result = apply_pass(FoldConstants(size_limit=1000), model)
    assert operators(model) == ["ConstantOfShape", "Add", "Expand", "Add", "Tile", "Add"]
    assert result.refused[0] == "ConstantOfShape 'ConstantOfShape': the result has 40000 elements"
    apply_pass(FoldConstants(size_limit=50_000), model)
    assert operators(model) == ["Add", "Add", "Add"]


def test_a_large_weight_may_be_transposed(build, apply_pass, operators):
    model = build(
        "g (float[1, 200] x) => (float[1, 300] y) { a = Transpose(w) y = MatMul(x, a) }",
        w=np.ones((300, 200), np.float32),
    )
    apply_pass(FoldConstants(size_limit=10), model)
    assert operators(model) == ["MatMul"]


def test_results_that_are_not_numbers_stay_a_node(build, operators):
    model = build("g (float[1] x) => (float[1] y) <float[1] a = {-1.0}> { b = Log(a) y = Add(x, b) }")
    result = FoldConstants()(model)
    assert operators(model) == ["Log", "Add"]
    assert result.refused == ("Log 'Log': the result is not finite",)


def test_quantized_weights_stay_quantized(build, apply_pass, operators):
    model = build(
        """g (float[1, 2] x) => (float[1, 2] y) <float s = {0.5}, int8 z = {0}> {
        a = DequantizeLinear(w, s, z)
        y = MatMul(x, a)
    }""",
        w=np.array([[1, 2], [3, 4]], np.int8),
    )
    result = apply_pass(FoldConstants(), model)
    assert operators(model) == ["DequantizeLinear", "MatMul"]
    assert result.refused == ("DequantizeLinear 'DequantizeLinear': keeps weights quantized",)


def test_random_numbers_stay_random(build, operators):
    model = build("""g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> {
        b = RandomUniformLike(a)
        y = Add(x, b)
    }""")
    assert not FoldConstants()(model).modified
    assert operators(model) == ["RandomUniformLike", "Add"]


def test_half_precision_stays_half(build, apply_pass, operators):
    model = build("g (float16[2] x) => (float16[2] y) { b = Mul(a, a) y = Add(x, b) }", a=np.array([3, 5], np.float16))
    apply_pass(FoldConstants(), model)
    assert operators(model) == ["Add"]
    assert model.graph.initializers["b"].const_value.numpy().dtype == np.float16
