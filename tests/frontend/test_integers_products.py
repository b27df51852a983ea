"""Quantized convolutions and matrix products in integers, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from edgec.frontend import execute, integer_form
from tests.frontend.quantized_graphs import graph, operators, random_inputs_of, scales_of_quantizers

QDQ = """
x = DequantizeLinear({x}, x_scale, x_zero)
w = DequantizeLinear<axis = {axis}>(w_int, w_scale, w_zero)
b = DequantizeLinear<axis = 0>(b_int, b_scale)
p = {product}
y = QuantizeLinear(p, y_scale, y_zero)
"""


def _range(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _parameters(rng, channels, weight_shape, reduced):
    """Scales over ten powers of ten, zero points anywhere, an output well inside or far outside its range."""
    x_dtype, w_dtype, y_dtype = (rng.choice([np.uint8, np.int8]) for _ in range(3))
    is_per_channel = rng.random() < 0.6
    shape = (channels,) if is_per_channel else ()
    x_scale = np.float32(10 ** rng.uniform(-6, 4))
    w_scale = (10 ** rng.uniform(-6, 1) * rng.uniform(0.1, 1, shape)).astype(np.float32)
    factor = x_scale * w_scale
    y_scale = np.float32(factor.max() * 50 * np.sqrt(reduced) * 10 ** rng.uniform(-1, 1))
    zero = rng.integers(*_range(w_dtype), size=shape if rng.random() < 0.5 else (), dtype=w_dtype, endpoint=True)
    parameters = {
        "x_scale": x_scale,
        "x_zero": rng.integers(*_range(x_dtype), dtype=x_dtype, endpoint=True),
        "w_int": rng.integers(*_range(w_dtype), size=weight_shape, dtype=w_dtype, endpoint=True),
        "w_scale": w_scale,
        "w_zero": np.full(shape, zero, w_dtype) if zero.ndim == 0 else zero,
        "b_int": rng.integers(-5000, 5000, channels).astype(np.int32),
        "b_scale": np.asarray(factor, np.float32),
        "y_scale": y_scale,
        "y_zero": rng.integers(*_range(y_dtype), dtype=y_dtype, endpoint=True),
    }
    return parameters, "q_x" if x_dtype == np.uint8 else "s_x"


def _type_of(y_zero):
    return TensorProto.UINT8 if y_zero.dtype == np.uint8 else TensorProto.INT8


def random_convolution(seed):
    rng = np.random.default_rng(seed)
    group = int(rng.choice([1, 1, 2, 4]))
    inputs, channels = group * int(rng.integers(1, 5)), group * int(rng.integers(1, 4))
    if rng.random() < 0.25:  # depthwise
        group = channels = inputs
    rank = int(rng.choice([1, 2, 2]))
    kernel = [int(rng.integers(1, 4)) for _ in range(rank)]
    parameters, x = _parameters(
        rng, channels, (channels, inputs // group, *kernel), inputs // group * int(np.prod(kernel))
    )
    padding = rng.choice(
        ["", ', auto_pad = "SAME_UPPER"', f", pads = {[int(p) for p in rng.integers(0, 2, 2 * rank)]}"]
    )
    attributes = f"group = {group}, strides = {[int(s) for s in rng.integers(1, 3, rank)]}{padding}"
    nodes = QDQ.format(x=x, axis=0, product=f"Conv<{attributes}>(x, w, b)")
    return graph(nodes, {x: [2, inputs, *[9, 8][:rank]]}, {"y": _type_of(parameters["y_zero"])}, **parameters)


def random_gemm(seed):
    rng = np.random.default_rng(seed)
    rows, columns, is_transposed = int(rng.integers(1, 60)), int(rng.integers(1, 20)), bool(rng.random() < 0.5)
    shape = (columns, rows) if is_transposed else (rows, columns)
    parameters, x = _parameters(rng, columns, shape, rows)
    nodes = QDQ.format(x=x, axis=0 if is_transposed else 1, product=f"Gemm<transB = {int(is_transposed)}>(x, w, b)")
    return graph(nodes, {x: [3, rows]}, {"y": _type_of(parameters["y_zero"])}, **parameters)


def assert_within_a_step(actual, expected):
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.01


def check(model, run_onnxruntime, product):
    form, inputs = integer_form(model), random_inputs_of(model)
    assert operators(form)[product] == 1
    assert scales_of_quantizers(form) == [1]
    assert not {"Conv", "Gemm", "MatMul"} & set(operators(form))
    actual = execute(model, inputs)["y"]
    assert_within_a_step(actual, run_onnxruntime(model, inputs)["y"])
    assert_within_a_step(actual, execute(model, inputs, integers=False)["y"])
    return form, inputs, actual


@pytest.mark.parametrize("seed", range(24))
def test_convolutions(seed, run_onnxruntime):
    form, inputs, actual = check(random_convolution(seed), run_onnxruntime, "ConvInteger")
    (product,) = (node for node in form.graph if node.op_type == "ConvInteger")
    if len(product.inputs) > 3 and product.inputs[3].shape.rank():
        return  # ONNX Runtime's ConvInteger takes one zero point for all weights
    np.testing.assert_array_equal(run_onnxruntime(form, inputs)["y"], actual)


@pytest.mark.parametrize("seed", range(16))
def test_fully_connected_layers(seed, run_onnxruntime):
    form, inputs, actual = check(random_gemm(seed), run_onnxruntime, "MatMulInteger")
    np.testing.assert_array_equal(run_onnxruntime(form, inputs)["y"], actual)


def test_the_product_of_two_activations(run_onnxruntime):
    model = graph(
        """a = DequantizeLinear(q_a, a_scale, a_zero)
        b = DequantizeLinear(s_b, b_scale)
        p = MatMul(a, b)
        y = QuantizeLinear(p, y_scale, y_zero)""",
        {"q_a": [2, 3, 7, 5], "s_b": [3, 5, 4]},
        {"y": TensorProto.INT8},
        a_scale=0.02, a_zero=np.uint8(119), b_scale=0.3, y_scale=1.7, y_zero=np.int8(-9),
    )  # fmt: skip
    form, inputs = integer_form(model), random_inputs_of(model)
    assert operators(form) == {"MatMulInteger": 1, "DequantizeLinear": 1, "QuantizeLinear": 1}
    actual = execute(model, inputs)["y"]
    np.testing.assert_array_equal(run_onnxruntime(form, inputs)["y"], actual)
    assert_within_a_step(actual, run_onnxruntime(model, inputs)["y"])


def convolution(bias, *, weights=None, activation="", y_scale=0.3, y_zero=90, **bounds):
    weights = np.arange(-18, 18, dtype=np.int8).reshape(2, 2, 3, 3) if weights is None else weights
    nodes = f"""x = DequantizeLinear(q_x, x_scale, x_zero)
        w = DequantizeLinear<axis = 0>(w_int, w_scale)
        p = Conv(x, w, b)
        {activation}
        y = QuantizeLinear({"r" if activation else "p"}, y_scale, y_zero)"""
    nodes = "\n".join(line for line in nodes.splitlines() if line.strip())
    return graph(
        nodes, {"q_x": [1, weights.shape[1], 6, 6]}, {"y": TensorProto.UINT8}, x_scale=0.01, x_zero=np.uint8(7),
        w_int=weights, w_scale=np.float32([0.02, 0.04]), b=bias, y_scale=y_scale, y_zero=np.uint8(y_zero), **bounds,
    )  # fmt: skip


def test_a_float_bias_becomes_steps_of_the_sum():
    form = integer_form(convolution(np.float32([1.0, -2.0])))
    (bias,) = (node.inputs[1] for node in form.graph if node.op_type == "Add")
    np.testing.assert_array_equal(bias.const_value.numpy(), np.int32([5000, -5000]).reshape(1, 2, 1, 1))


def test_a_bias_beyond_int32_is_added_in_float(run_onnxruntime):
    model = convolution(np.float32([3e5, -2e5]), y_scale=3000.0)
    form, inputs = integer_form(model), random_inputs_of(model)
    (bias,) = (node.inputs[1] for node in form.graph if node.op_type == "Add")
    assert bias.dtype == ir.DataType.FLOAT
    assert_within_a_step(execute(model, inputs)["y"], run_onnxruntime(model, inputs)["y"])


def test_a_sum_beyond_int32_stays_in_float():
    wide = np.full((2, 66000, 3, 3), 127, np.int8)
    form = integer_form(convolution(np.zeros(2, np.float32), weights=wide))
    assert operators(form)["Conv"] == 1
    assert "ConvInteger" not in operators(form)


def test_a_channel_whose_weights_have_died_out_counts_for_nothing(run_onnxruntime):
    model = convolution(np.float32([1.0, 0.0]))
    model.graph.initializers["w_scale"].const_value = ir.tensor(np.float32([0.02, 1e-44]))
    form, inputs = integer_form(model), random_inputs_of(model)
    assert operators(form)["ConvInteger"] == 1
    np.testing.assert_array_equal(execute(model, inputs)["y"], run_onnxruntime(model, inputs)["y"])


def test_the_contract_to_the_letter():
    """saturate(rint(float32(sum) * float32(float32(s_x * s_w) / s_y)) + z_y), in NumPy alone."""
    model = convolution(np.float32([0.5, -0.25]))
    inputs = random_inputs_of(model)
    x = inputs["q_x"].astype(np.int64) - 7
    w = np.arange(-18, 18).reshape(2, 2, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    total = np.einsum("nchwij,ocij->nohw", windows, w) + np.array([2500, -625]).reshape(1, 2, 1, 1)
    multiplier = np.float32(0.01) * np.float32([0.02, 0.04]) / np.float32(0.3)
    steps = np.rint(total.astype(np.float32) * multiplier.reshape(1, 2, 1, 1)) + np.float32(90)
    np.testing.assert_array_equal(execute(model, inputs)["y"], np.clip(steps, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("activation", "zero", "is_dropped"), [
    ("r = Relu(p)", 0, True),
    ("r = Relu(p)", 3, False),
    ("r = Clip(p, low, high)", 0, True),
    ("r = Clip(p, low, high)", 1, False),
])  # fmt: skip
def test_clamps_that_saturation_makes_are_dropped(activation, zero, is_dropped, run_onnxruntime):
    bounds = {"low": 0.0, "high": 6.0} if "Clip" in activation else {}
    model = convolution(np.float32([1.0, 2.0]), activation=activation, y_scale=6 / 255, y_zero=zero, **bounds)
    form, inputs = integer_form(model), random_inputs_of(model)
    assert (operators(form)["Relu"] + operators(form)["Clip"] == 0) == is_dropped
    np.testing.assert_array_equal(run_onnxruntime(form, inputs)["y"], execute(model, inputs)["y"])
    assert_within_a_step(execute(model, inputs)["y"], run_onnxruntime(model, inputs)["y"])


def test_weights_that_are_quantized_in_the_graph_and_transposed(run_onnxruntime):
    """As TensorRT's and PyTorch's exporters write them."""
    model = graph(
        """x = DequantizeLinear(s_x, x_scale)
        q = QuantizeLinear<axis = 0>(w, w_scale, w_zero)
        d = DequantizeLinear<axis = 0>(q, w_scale, w_zero)
        t = Transpose<perm = [1, 0]>(d)
        p = MatMul(x, t)
        y = QuantizeLinear(p, y_scale, y_zero)""",
        {"s_x": [5, 6]},
        {"y": TensorProto.INT8},
        x_scale=0.02, w=np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
        w_scale=np.float32([0.008, 0.004, 0.005, 0.008]), w_zero=np.zeros(4, np.int8), y_scale=0.05, y_zero=np.int8(0),
    )  # fmt: skip
    form, inputs = integer_form(model), random_inputs_of(model)
    assert operators(form) == {"MatMulInteger": 1, "DequantizeLinear": 1, "QuantizeLinear": 1}
    assert_within_a_step(execute(model, inputs)["y"], run_onnxruntime(model, inputs)["y"])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_sixteen_bits_stay_in_float(dtype):
    model = graph(
        """q = QuantizeLinear(x, scale, zero)
        d = DequantizeLinear(q, scale, zero)
        w = DequantizeLinear(w_int, scale)
        y = Conv(d, w)""",
        {"x": [1, 2, 5, 5]},
        {"y": TensorProto.FLOAT},
        scale=0.001, zero=dtype(9), w_int=np.ones((3, 2, 3, 3), np.int8),
    )  # fmt: skip
    assert operators(integer_form(model)) == operators(model)


@pytest.mark.parametrize("seed", range(4))
def test_linear_operators(seed, run_onnxruntime):
    """QLinearConv and QLinearMatMul, written out, compute the integers of the operators themselves."""
    rng = np.random.default_rng(seed)
    dtype = (np.uint8, np.int8)[seed % 2]
    weights = rng.integers(*_range(dtype), size=(4, 3, 3, 3), dtype=dtype)
    model = graph(
        """c = QLinearConv<pads = [1, 1, 1, 1]>(q_x, x_scale, x_zero, w, w_scale, w_zero, c_scale, c_zero, b)
        y = QLinearMatMul(c, c_scale, c_zero, v, v_scale, v_zero, y_scale, y_zero)""",
        {"q_x": [2, 3, 6, 5]},
        {"y": TensorProto.UINT8},
        x_scale=0.013, x_zero=np.uint8(100), w=weights, w_scale=rng.uniform(0.001, 0.01, 4).astype(np.float32),
        w_zero=np.zeros(4, dtype), b=rng.integers(-999, 999, 4).astype(np.int32), c_scale=0.05, c_zero=np.uint8(127),
        v=rng.integers(*_range(dtype), size=(5, 6), dtype=dtype), v_scale=np.float32(0.01), v_zero=dtype(5),
        y_scale=0.17, y_zero=np.uint8(99),
    )  # fmt: skip
    form, inputs = integer_form(model), random_inputs_of(model)
    assert {"ConvInteger", "MatMulInteger"} <= set(operators(form))
    literal = execute(model, inputs, integers=False, outputs=["c", "y"])
    for name, array in execute(model, inputs, outputs=["c", "y"]).items():
        np.testing.assert_array_equal(array, literal[name])
    assert_within_a_step(literal["y"], run_onnxruntime(model, inputs)["y"])
