from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgec.frontend import execute
from edgec.passes import ConvertPrecision

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
RNG = np.random.default_rng(3)
WEIGHTS = (RNG.standard_normal((4, 3, 3, 3)) / 5).astype(np.float32)
TWICE = np.array([2])
MATRIX = RNG.standard_normal((4, 4)).astype(np.float32)


def types(model: ir.Model) -> dict[str, ir.DataType]:
    """What each operator but the casts gives out."""
    return {node.op_type: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}


def test_a_network_keeps_its_sums_and_its_interface(build, apply_pass):
    model = build(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 1, 1] y) {
            c = Conv (x, w) r = Relu (c) p = GlobalAveragePool (r) t = Transpose <perm = [0, 2, 3, 1]> (p)
            m = MatMul (t, v) b = Transpose <perm = [0, 3, 1, 2]> (m) y = Softmax <axis = 1> (b)
        }""",
        w=WEIGHTS,
        v=MATRIX,
    )
    result = apply_pass(ConvertPrecision(), model, relative=1e-2)
    found = [(node.op_type, node.outputs[0].dtype) for node in model.graph if node.op_type != "Cast"]
    assert found == [
        ("Conv", FLOAT16),
        ("Relu", FLOAT16),
        ("GlobalAveragePool", FLOAT),
        ("Transpose", FLOAT),  # moves what is float32
        ("MatMul", FLOAT16),
        ("Transpose", FLOAT),  # for a float32 output
        ("Softmax", FLOAT),
    ]
    assert {value.dtype for value in model.graph.initializers.values()} == {FLOAT16}
    assert any("Softmax" in line and "11 bits" in line for line in result.refused)


def test_statistics_that_are_written_out_stay(build):
    """The variance as E[x * x] - E[x]^2, as JAX writes it: squares overflow in float16, the difference cancels out."""
    model = build(
        """g (float[4, 64] x) => (float[4, 4] y) {
            r = Relu (x) s = Mul (r, r) m = ReduceMean (r, axis) q = ReduceMean (s, axis) p = Mul (m, m)
            v = Sub (q, p) w = Add (v, epsilon) d = Sqrt (w) c = Sub (r, m) n = Div (c, d) y = MatMul (n, weights)
        }""",
        axis=np.array([1]),
        epsilon=np.float32(1e-3),
        weights=RNG.standard_normal((64, 4)).astype(np.float32),
    )
    x = {"x": (RNG.standard_normal((4, 64)) * 3 + 100).astype(np.float32)}
    exact = execute(model, x)["y"]
    ConvertPrecision(has_wide_sums=True)(model)
    made = {node.outputs[0].name: node.outputs[0].dtype for node in model.graph}
    assert {name for name in "rsmqpvwdcn" if made[name] == FLOAT16} == {"r", "c"}
    np.testing.assert_allclose(execute(model, x)["y"], exact, rtol=0, atol=0.2)


def test_arithmetic_is_that_of_numpy(build):
    body = "a = Mul (x, z) b = Add (a, x) r = Relu (b) y = Tile (r, n)"
    model = build(f"g (float[8] x, float[8] z) => (float[16] y) {{ {body} }}", n=TWICE)
    ConvertPrecision()(model)
    x, z = (RNG.standard_normal(8).astype(np.float32) for _ in range(2))
    half, other = x.astype(np.float16), z.astype(np.float16)
    expected = np.tile(np.maximum(half * other + half, np.float16(0)).astype(np.float32), 2)
    np.testing.assert_array_equal(execute(model, {"x": x, "z": z})["y"], expected)


@pytest.mark.parametrize(
    ("number", "kept"),
    [(3.0, None), (1e5, "1e+05, more than"), (-np.finfo(np.float32).max, "more than"), (1e-9, "less than")],
)
def test_constants_that_do_not_fit(build, apply_pass, number, kept):
    body = "a = Add (x, c) y = Tile (a, n)"
    model = build(f"g (float[4] x) => (float[8] y) {{ {body} }}", c=np.array(number, np.float32), n=TWICE)
    result = apply_pass(ConvertPrecision(), model, relative=2e-3)
    assert types(model)["Add"] == (FLOAT16 if kept is None else FLOAT)
    assert bool(result.refused) == (kept is not None)
    assert kept is None or kept in result.refused[0]


@pytest.mark.parametrize("hidden", ["h = Where (seen, zero, low)", "u = Sub (one, flags) h = Mul (u, low)"])
def test_masks_of_the_lowest_float32_stay_finite(build, hidden):
    """As minus infinity they would make NaN of a row in which all is hidden."""
    body = f"{hidden} e = Unsqueeze (h, axes) s = MatMul (x, z) m = Add (s, e) p = Softmax (m) y = Tile (p, n)"
    interface = "float[1, 4, 4] x, float[1, 4, 4] z, bool[1, 4] seen, float[1, 4] flags"
    model = build(
        f"g ({interface}) => (float[1, 4, 8] y) {{ {body} }}",
        n=np.array([1, 1, 2]),
        zero=np.float32(0),
        one=np.float32(1),
        low=np.finfo(np.float32).min,
        axes=np.array([1]),
    )
    ConvertPrecision(has_wide_sums=True)(model)
    assert types(model)["Add"] == FLOAT
    x, z = (RNG.standard_normal((1, 4, 4)).astype(np.float32) for _ in range(2))
    inputs = {"x": x, "z": z, "seen": np.zeros((1, 4), bool), "flags": np.zeros((1, 4), np.float32)}
    np.testing.assert_allclose(execute(model, inputs)["y"], np.full((1, 4, 8), 0.25), rtol=0, atol=1e-6)


def test_infinite_constants_fit(build, apply_pass):
    body = "m = Max (x, c) y = Tile (m, n)"
    model = build(f"g (float[4] x) => (float[8] y) {{ {body} }}", c=np.array(-np.inf, np.float32), n=TWICE)
    apply_pass(ConvertPrecision(), model, relative=2e-3)
    assert types(model)["Max"] == FLOAT16


def test_tensors_that_must_be_float32_stay(build, apply_pass):
    model = build(
        'g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) { y = Resize <mode = "linear"> (x, , s) }',
        s=np.array([1, 1, 2, 2], np.float32),
    )
    apply_pass(ConvertPrecision(), model, relative=1e-2)
    assert types(model)["Resize"] == FLOAT16
    assert model.graph.initializers["s"].dtype == FLOAT


def test_what_lies_between_integers_stays(build):
    model = build(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 1, 1] y) {
            q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) h = Mul (d, d)
            p = QuantizeLinear (h, s, z) e = DequantizeLinear (p, s, z) c = Conv (e, w)
            r = Conv <kernel_shape = [4, 4]> (c, u) y = Relu (r)
        }""",
        s=np.array(0.05, np.float32),
        z=np.array(128, np.uint8),
        w=WEIGHTS,
        u=RNG.standard_normal((4, 4, 4, 4)).astype(np.float32),
    )
    ConvertPrecision()(model)
    made = {node.outputs[0].name: node.outputs[0].dtype for node in model.graph}
    assert made["d"] == made["h"] == made["c"] == FLOAT  # the product of what was integers, too
    assert made["r"] == FLOAT16
    assert model.graph.initializers["s"].dtype == FLOAT


def test_a_float16_model_in_float32(build, apply_pass):
    model = build(
        "g (float16[1, 3, 6, 6] x) => (float16[1, 4, 4, 4] y) { c = Conv (x, w) y = Relu (c) }",
        w=WEIGHTS.astype(np.float16),
    )
    apply_pass(ConvertPrecision(FLOAT), model, relative=2e-3)
    assert types(model) == {"Conv": FLOAT, "Relu": FLOAT}
    assert model.graph.outputs[0].dtype == FLOAT16


def test_float32_may_stay(build, apply_pass):
    body = (
        "c = Cast <to = 10> (x) d = Add (c, c) e = Cast <to = 1> (d) f = Mul (e, e) g = MatMul (f, w) y = Softmax (g)"
    )
    model = build(f"g (float[2, 4] x) => (float[2, 4] y) {{ {body} }}", w=MATRIX)
    assert not apply_pass(ConvertPrecision(keeps_float32=True), model, relative=1e-2).modified
    assert apply_pass(ConvertPrecision(), model, relative=1e-2).modified
    assert types(model) == {"Add": FLOAT16, "Mul": FLOAT16, "MatMul": FLOAT16, "Softmax": FLOAT}


def test_control_flow_is_left_alone(build):
    model = build(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <then_branch = t () => (float[2] a) { a = Relu (x) }, else_branch = e () => (float[2] b) {
            b = Neg (x) }>
        }"""
    )
    result = ConvertPrecision()(model)
    assert not result.modified and "control flow" in result.refused[0]


def test_wide_sums(build, apply_pass):
    model = build(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 4, 4] y) {
            c = Conv (x, w, b) r = Relu (c) p = MaxPool <kernel_shape = [1, 1]> (r)
            d = Conv <group = 4> (p, u, b) t = Transpose <perm = [0, 2, 3, 1]> (d) m = MatMul (t, v) a = Add (m, b)
            f = Mul (a, a) s = Transpose <perm = [0, 3, 1, 2]> (f) y = Sigmoid (s)
        }""",
        w=WEIGHTS,
        u=RNG.standard_normal((4, 1, 1, 1)).astype(np.float32),
        v=MATRIX,
        b=RNG.standard_normal(4).astype(np.float32),
    )
    exact = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    apply_pass(ConvertPrecision(has_wide_sums=True), model, relative=1e-2)
    made = {node.name or node.outputs[0].name: node for node in model.graph if node.op_type != "Cast"}
    found = [(node.op_type, node.outputs[0].dtype) for node in made.values()]
    assert found == [
        ("Conv", FLOAT),
        ("Relu", FLOAT16),
        ("MaxPool", FLOAT16),
        ("Conv", FLOAT),
        ("Transpose", FLOAT16),  # what moves a sum moves it rounded
        ("MatMul", FLOAT),
        ("Add", FLOAT),  # a bias
        ("Mul", FLOAT),  # for a float32 output, as all that follows
        ("Transpose", FLOAT),
        ("Sigmoid", FLOAT),
    ]
    dense, depthwise, product = (node for node in made.values() if node.op_type in ("Conv", "MatMul"))
    for node, name in ((dense, "w"), (product, "v")):
        held = node.inputs[1].const_value.numpy()
        np.testing.assert_array_equal(held, exact[name].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(depthwise.inputs[1].const_value.numpy(), exact["u"])
    np.testing.assert_array_equal(depthwise.inputs[2].const_value.numpy(), exact["b"])
    for node in (dense, depthwise, product):  # factors are float16, in float32
        assert [v.dtype for v in (node.inputs[0], node.inputs[0].producer().inputs[0])] == [FLOAT, FLOAT16]


def test_nodes_that_are_kept(build, apply_pass):
    model = build("g (float[2, 4] x) => (float[2, 4] y) { m = MatMul (x, v) y = MatMul (m, w) }", v=MATRIX, w=MATRIX.T)
    first, second = (node.name for node in model.graph)
    apply_pass(ConvertPrecision(kept=frozenset({second})), model, relative=1e-2)
    assert {node.name: node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul"} == {
        first: FLOAT16,
        second: FLOAT,
    }
