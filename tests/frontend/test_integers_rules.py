"""What happens between the products: movement, scales, means, tables, names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto

from edgec.engine import Tensor
from edgec.frontend import execute, execute_tensors, integer_form
from tests.frontend.quantized_graphs import (
    graph,
    operators,
    random_inputs_of,
    scales_of_quantizers,
    with_integer_outputs,
)

UINT8, INT8, FLOAT = TensorProto.UINT8, TensorProto.INT8, TensorProto.FLOAT


def check(model, run_onnxruntime, *, steps=1, share=0.01):
    """The form in ONNX Runtime is the form in the engine, and nearly what ONNX Runtime makes of the literal graph."""
    form, inputs = integer_form(model), random_inputs_of(model)
    actual, literal = execute(model, inputs), run_onnxruntime(model, inputs)
    in_onnxruntime = run_onnxruntime(form, inputs)
    assert list(actual) == list(literal)
    for name, array in actual.items():
        assert array.dtype == literal[name].dtype
        np.testing.assert_array_equal(array, in_onnxruntime[name])
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, literal[name], rtol=1e-5, atol=1e-5)
        else:
            difference = np.abs(array.astype(int) - literal[name].astype(int))
            assert difference.max() <= steps
            assert (difference > 0).mean() <= share
    assert operators(integer_form(form)) == operators(form)
    return form


def between(nodes, shape, *, last="v", scale=(0.05, 0.05), zero=(77, 77), quantized=True, **constants):
    """DequantizeLinear, some nodes from u to ``last``, QuantizeLinear."""
    body = f"""u = DequantizeLinear(q_x, s_in, z_in)
    {nodes}"""
    outputs = {last: FLOAT}
    if quantized:
        body, outputs = f"{body}\ny = QuantizeLinear({last}, s_out, z_out)", {"y": UINT8}
        constants |= {"s_out": scale[1], "z_out": np.uint8(zero[1])}
    return graph(body, {"q_x": shape}, outputs, s_in=scale[0], z_in=np.uint8(zero[0]), **constants)


MOVEMENTS = {
    "max_pool": ("v = MaxPool<kernel_shape = [2, 3], pads = [1, 1, 0, 1], strides = [2, 1]>(u)", {}),
    "reshape": ("v = Reshape(u, sizes)", {"sizes": np.array([2, -1])}),
    "flatten": ("v = Flatten<axis = 2>(u)", {}),
    "transpose": ("v = Transpose<perm = [0, 2, 3, 1]>(u)", {}),
    "squeeze": ("a = Unsqueeze(u, axes)\nv = Squeeze(a, axes)", {"axes": np.array([2])}),
    "slice": ("v = Slice(u, low, high, axes)", {"low": np.array([1]), "high": np.array([5]), "axes": np.array([3])}),
    "gather": ("v = Gather<axis = 1>(u, index)", {"index": np.array([2, 0])}),
    "expand": ("v = Expand(u, sizes)", {"sizes": np.array([2, 1, 1, 1, 1])}),
    "tile": ("v = Tile(u, repeats)", {"repeats": np.array([1, 2, 1, 1])}),
    "identity": ("a = Identity(u)\nv = Dropout(a)", {}),
    "depth": ("v = DepthToSpace<blocksize = 2>(u)", {}),
    "space": ("v = SpaceToDepth<blocksize = 2>(u)", {}),
    "resize": ("v = Resize<mode = \"nearest\">(u, , factors)", {"factors": np.float32([1, 1, 2, 2])}),
    "pad": ("v = Pad(u, pads)", {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
    "edge": ("v = Pad<mode = \"edge\">(u, pads)", {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
    "concat": ("v = Concat<axis = 1>(u, u)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVEMENTS)
def test_bytes_are_moved_instead_of_floats(name, run_onnxruntime):
    nodes, constants = MOVEMENTS[name]
    literal = between(nodes, [2, 4, 6, 8], **constants)
    form = check(literal, run_onnxruntime, steps=0)
    assert not {"DequantizeLinear", "QuantizeLinear"} & set(operators(form))
    assert form.graph.outputs[0].name == "y"


@pytest.mark.parametrize("name", MOVEMENTS)
def test_the_dequantizer_goes_behind_a_movement(name, run_onnxruntime):
    nodes, constants = MOVEMENTS[name]
    form = check(between(nodes, [2, 4, 6, 8], quantized=False, **constants), run_onnxruntime)
    (dequantize,) = (node for node in form.graph if node.op_type == "DequantizeLinear")
    assert dequantize.outputs[0] is form.graph.outputs[0]


@pytest.mark.parametrize("name", MOVEMENTS)
def test_the_quantizer_goes_before_a_movement(name):
    nodes, constants = MOVEMENTS[name]
    model = graph(
        f"u = Softmax(x)\n{nodes}\ny = QuantizeLinear(v, scale, zero)",
        {"x": [2, 4, 6, 8]}, {"y": UINT8}, scale=1 / 200, zero=np.uint8(20), **constants,
    )  # fmt: skip
    form = integer_form(model)
    assert all(
        node.inputs[0].producer().op_type == "Softmax" for node in form.graph if node.op_type == "QuantizeLinear"
    )
    inputs = random_inputs_of(model)
    np.testing.assert_array_equal(execute(model, inputs)["y"], execute(model, inputs, integers=False)["y"])


def test_a_split_of_bytes(run_onnxruntime):
    model = graph(
        """u = DequantizeLinear(q_x, scale, zero)
        a, b = Split<axis = 1, num_outputs = 2>(u)
        y = QuantizeLinear(a, scale, zero)
        z = QuantizeLinear(b, other, zero)""",
        {"q_x": [1, 6, 3]}, {"y": UINT8, "z": UINT8}, scale=0.1, other=0.17, zero=np.uint8(3),
    )  # fmt: skip
    assert operators(check(model, run_onnxruntime)) == {"Split": 1, "DequantizeLinear": 1, "QuantizeLinear": 1}


def test_concat_of_different_scales_requantizes_what_differs(run_onnxruntime):
    model = graph(
        """a = DequantizeLinear(q_a, s_a, zero)
        b = DequantizeLinear(q_b, s_b, zero)
        c = Concat<axis = 1>(a, b)
        y = QuantizeLinear(c, s_b, zero)""",
        {"q_a": [1, 2, 3], "q_b": [1, 4, 3]}, {"y": UINT8}, s_a=0.05, s_b=0.11, zero=np.uint8(128),
    )  # fmt: skip
    form = check(model, run_onnxruntime)
    assert operators(form) == {"DequantizeLinear": 1, "QuantizeLinear": 1, "Concat": 1}
    assert scales_of_quantizers(form) == [1]


FOLDED = {
    "relu": ("v = Relu(u)", {}),
    "leaky": ("v = LeakyRelu<alpha = 0.1>(u)", {}),
    "prelu": ("v = PRelu(u, slope)", {"slope": np.float32([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1)}),
    "clip": ("v = Clip(u, low, high)", {"low": -0.5, "high": 1.5}),
    "add": ("v = Add(u, other)", {"other": np.float32([0.1, -0.2, 0.3, 0.4]).reshape(4, 1, 1)}),
    "sub": ("v = Sub(other, u)", {"other": 0.7}),
    "mul": ("v = Mul(other, u)", {"other": -1.3}),
    "div": ("v = Div(u, other)", {"other": 1.7}),
    "max": ("v = Max(u, other)", {"other": 0.2}),
    "square": ("v = Mul(u, u)", {}),
    "hard_swish": ("v = HardSwish(u)", {}),
    "hard_swish_written_out": ("a = HardSigmoid<alpha = 0.1666667, beta = 0.5>(u)\nv = Mul(u, a)", {}),
    "chain": (
        "a = Add(u, other)\nb = Relu(a)\nc = Mul(b, two)\nv = Clip(c, , high)", {"other": 0.3, "two": 2.0, "high": 4.0}
    ),
    "resize": (
        "v = Resize<mode = \"linear\">(u, , factors)", {"factors": np.float32([1, 1, 2, 2])}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
def test_the_scale_goes_into_what_is_quantized(name, run_onnxruntime):
    nodes, constants = FOLDED[name]
    model = between(nodes, [1, 4, 5, 5], scale=(0.05, 0.083), zero=(70, 31), **constants)
    assert scales_of_quantizers(check(model, run_onnxruntime, share=0.02)) == [1]


def test_a_residual_sum_of_three_scales(run_onnxruntime):
    model = graph(
        """a = DequantizeLinear(q_a, s_a, z_a)
        b = DequantizeLinear(s_b, scale_b)
        c = Add(a, b)
        d = Relu(c)
        y = QuantizeLinear(d, s_y, z_y)
        z = QuantizeLinear(b, s_z, z_z)""",
        {"q_a": [1, 8, 4, 4], "s_b": [1, 8, 4, 4]}, {"y": UINT8, "z": INT8}, s_a=0.07, z_a=np.uint8(100),
        scale_b=0.03, s_y=0.033, z_y=np.uint8(0), s_z=0.05, z_z=np.int8(4),
    )  # fmt: skip
    form = check(model, run_onnxruntime)
    assert scales_of_quantizers(form) == [1, 1]
    assert "Relu" not in operators(form)


@pytest.mark.parametrize("nodes", ["v = Softmax(u)", "v = HardSigmoid(u)", "a = Relu(u)\nb = Exp(a)\nv = Add(a, b)"])
def test_the_scale_stays_where_the_function_is_not_homogeneous(nodes, run_onnxruntime):
    model = between(nodes, [1, 4, 5], scale=(0.01, 0.02))
    form = check(model, run_onnxruntime)
    if "Gather" not in operators(form):
        assert scales_of_quantizers(form) == [np.float32(0.02)]


MEANS = {
    "global": "v = GlobalAveragePool(u)",
    "mean": "v = ReduceMean<keepdims = 0>(u, axes)",
    "all": "v = AveragePool<kernel_shape = [7, 6]>(u)",
    "windows": "v = AveragePool<kernel_shape = [3, 2], strides = [2, 1]>(u)",
    "pads": "v = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 0, 1]>(u)",
    "counted_pads": "v = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(u)",
    "same": "v = AveragePool<kernel_shape = [3, 4], strides = [2, 3], auto_pad = \"SAME_LOWER\">(u)",
    "ceiling": "v = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(u)",
    "dilated": "v = AveragePool<kernel_shape = [2, 3], dilations = [3, 2]>(u)",
}  # fmt: skip


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("name", MEANS)
def test_means_are_sums_of_integers(name, quantized, run_onnxruntime):
    constants = {"axes": np.array([2, -1])} if name == "mean" else {}
    model = between(MEANS[name], [2, 5, 7, 6], scale=(0.05, 0.031), zero=(77, 12), quantized=quantized, **constants)
    form = check(model, run_onnxruntime)
    assert {"ReduceSum", "ConvInteger"} & set(operators(form))
    assert not {"GlobalAveragePool", "ReduceMean", "AveragePool"} & set(operators(form))


FUNCTIONS = {
    "sigmoid": "v = Sigmoid(u)",
    "silu": "a = Sigmoid(u)\nv = Mul(u, a)",
    "mish": "a = Softplus(u)\nb = Tanh(a)\nv = Mul(u, b)",
    "gelu": "v = Gelu(u)",
    "shifted": "a = Add(u, one)\nb = Exp(a)\nv = Div(b, one)",
    "quantized_twice": "a = Sigmoid(u)\nb = QuantizeLinear(a, s_b)\nc = DequantizeLinear(b, s_b)\nv = Mul(u, c)",
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", ["q", "s"])
def test_functions_of_a_byte_are_tables(name, kind, run_onnxruntime):
    constants = {"one": 1.0} if name == "shifted" else {"s_b": 1 / 255} if name == "quantized_twice" else {}
    body = f"u = DequantizeLinear({kind}_x, s_in, z_in)\n{FUNCTIONS[name]}\ny = QuantizeLinear(v, s_out, z_out)"
    zero = np.uint8(130) if kind == "q" else np.int8(4)
    model = graph(
        body, {f"{kind}_x": [2, 300]}, {"y": INT8}, s_in=0.03, z_in=zero, s_out=0.02, z_out=np.int8(-3), **constants
    )
    form = check(model, run_onnxruntime)
    assert operators(form) == {"Cast": 1, "Gather": 1} | ({"Add": 1} if kind == "s" else {})
    every = {f"{kind}_x": np.arange(600).astype(zero.dtype).reshape(2, 300)}
    np.testing.assert_array_equal(execute(model, every)["y"], execute(model, every, integers=False)["y"])


def test_a_function_that_stays_in_float(run_onnxruntime):
    form = check(between("v = Sigmoid(u)", [3, 50], quantized=False), run_onnxruntime)
    assert operators(form) == {"Cast": 1, "Gather": 1}


def test_a_function_of_two_tensors_is_no_table(run_onnxruntime):
    model = graph(
        """a = DequantizeLinear(q_a, scale)
        b = DequantizeLinear(q_b, scale)
        c = Add(a, b)
        d = Tanh(c)
        y = QuantizeLinear(d, scale)""",
        {"q_a": [9, 9], "q_b": [9, 9]}, {"y": UINT8}, scale=0.004,
    )  # fmt: skip
    assert operators(check(model, run_onnxruntime))["Tanh"] == 1


INNER = """u = DequantizeLinear(q_x, s_in, z_in)
w = DequantizeLinear(w_int, s_w)
c = Conv(u, w)
r = Relu(c)
q = QuantizeLinear(r, s_out, z_out)
d = DequantizeLinear(q, s_out, z_out)
m = MaxPool<kernel_shape = [2, 2]>(d)
y = QuantizeLinear(m, s_out, z_out)"""


def inner():
    return graph(
        INNER, {"q_x": [1, 2, 6, 6]}, {"y": UINT8}, s_in=0.02, z_in=np.uint8(9), s_w=0.01, s_out=0.013,
        z_out=np.uint8(0), w_int=np.arange(-18, 18, dtype=np.int8).reshape(2, 2, 3, 3),
    )  # fmt: skip


def test_inner_values_that_are_wanted_keep_their_meaning():
    model = inner()
    inputs = random_inputs_of(model)
    names = ["u", "c", "r", "q", "d", "m", "y", "w_int", "q_x"]
    wanted, literal = execute(model, inputs, outputs=names), execute(model, inputs, outputs=names, integers=False)
    assert list(wanted) == names
    for name in names:
        assert wanted[name].dtype == literal[name].dtype
        np.testing.assert_allclose(wanted[name], literal[name], rtol=1e-5, atol=1e-5)


def test_integers_keep_their_names_and_rescaled_values_do_not():
    seen = {}
    model = inner()
    execute(model, random_inputs_of(model), hook=lambda name, array: seen.update({name: array.dtype}))
    assert seen["q"] == seen["y"] == np.uint8
    assert not {"c", "r", "m"} & set(seen)


def test_the_model_is_not_changed():
    model = inner()
    before = ir.to_proto(model).SerializeToString()
    form = integer_form(model)
    assert form is not model
    assert ir.to_proto(model).SerializeToString() == before


def test_a_model_in_float_is_returned_as_it_is():
    model = graph("y = Relu(x)", {"x": [2, 3]}, {"y": FLOAT})
    assert integer_form(model) is model


def test_shapes_and_types_are_known_and_right():
    """ONNX's own inference, strict, agrees with what the form says."""
    form = integer_form(inner())
    assert all(value.shape is not None and value.dtype is not None for node in form.graph for value in node.outputs)
    session = onnxruntime.InferenceSession(with_integer_outputs(form).SerializeToString())
    shapes = {output.name: output.shape for output in session.get_outputs()}
    for node in form.graph:
        for value in node.outputs:
            assert shapes.get(value.name, list(value.shape)) == list(value.shape)


def test_quantized_graphs_are_still_trained_as_they_are_written():
    model = graph(
        """q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)""",
        {"x": [4]}, {"y": FLOAT}, scale=0.1, zero=np.uint8(128),
    )  # fmt: skip
    x = Tensor(np.float32([-1, 0.5, 2, 90]), requires_grad=True)
    execute_tensors(model, {"x": x})["y"].sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1, 1, 1, 0], rtol=1e-5)
