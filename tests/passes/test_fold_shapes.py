from __future__ import annotations

import onnx_ir as ir

from edgec.passes import FoldShapes, simplify


def test_shape_and_size_are_answered(build, apply_pass, operators):
    model = build("""g (float[2, 3, 4] x) => (int64[1] y, int64 z) <int64[1] one = {1}> {
        a = Shape<start = 1, end = -1>(x)
        y = Mul(a, one)
        b = Size(x)
        z = Neg(b)
    }""")
    result = apply_pass(FoldShapes(), model)
    assert operators(model) == ["Mul", "Neg"]
    assert result.changes == {"Shape": 1, "Size": 1}
    assert model.graph.initializers["a"].const_value.numpy().tolist() == [3]
    assert model.graph.initializers["b"].const_value.numpy().tolist() == 24


def test_known_dimensions_of_a_shape_that_is_open_elsewhere():
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 22]>
    g (float[n, 3, 4] x) => (int64 y, int64[2] z, int64 w)
    <int64 i = {-1}, int64[1] one = {1}, int64[1] three = {3}, int64 zero = {0}> {
        a = Shape(x)
        b = Gather<axis = 0>(a, i)
        y = Neg(b)
        c = Slice(a, one, three)
        z = Neg(c)
        d = Gather<axis = 0>(a, zero)
        w = Neg(d)
    }""")
    result = FoldShapes()(model)
    assert result.changes == {"Gather": 1, "Slice": 1}
    assert [node.op_type for node in model.graph] == ["Shape", "Neg", "Neg", "Gather", "Neg"]
    assert model.graph.initializers["b"].const_value.numpy().tolist() == 4
    assert model.graph.initializers["c"].const_value.numpy().tolist() == [3, 4]
    assert "the shape of 'x' is not static" in result.refused[0]


def test_shape_arithmetic_vanishes(build, operators):
    model = build("""g (float[2, 3, 4] x) => (float[2, 12] y)
    <int64 i = {0}, int64[1] axis = {0}, int64[1] rest = {-1}> {
        s = Shape(x)
        n = Gather<axis = 0>(s, i)
        u = Unsqueeze(n, axis)
        t = Concat<axis = 0>(u, rest)
        y = Reshape(x, t)
    }""")
    smaller, _ = simplify(model)
    assert operators(smaller) == ["Reshape"]
