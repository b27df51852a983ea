"""What the lowerings make of a graph: layouts, fusion, refusals. Their results are in test_scheduled_cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

tvm = pytest.importorskip("tvm")


from edgec.errors import UnsupportedError  # noqa: E402
from edgec.targets.lowering import LOWERINGS, Emitter, fuse  # noqa: E402
from edgec.targets.profile import load_profile  # noqa: E402
from tests.targets.lowering_cases import CASES, Case, Constant, Image  # noqa: E402

PROFILE = load_profile("x86-64-v3")  # 8 float32 lanes


@dataclass
class Built:
    """A model of several nodes that have nothing in common, and what to feed it."""

    model: ir.Model
    inputs: dict[str, NDArray[Any]]


def build(cases: list[Case]) -> Built:
    """One model out of all cases of an operator: compiling once is what makes this file fast."""
    rng = np.random.default_rng(0)
    nodes, initializers, feeds = [], [], {}
    outputs = []
    for number, case in enumerate(cases):
        names = []
        for position, value in enumerate(case.inputs):
            name = "" if value is None else f"c{number}_{position}"
            if isinstance(value, Constant):
                initializers.append(numpy_helper.from_array(value.array, name))
            elif isinstance(value, Image):
                batch, channels, *spatial = value.shape
                low = 0.1 if value.positive else -1.0
                image = rng.uniform(0, 1, (batch, 3, *spatial)).astype(np.float32)
                weights = rng.uniform(low, 1, (channels, 3, *[1] * len(spatial))).astype(np.float32)
                if value.whole:
                    image, weights = np.rint(8 * image), np.rint(8 * weights)
                feeds[f"{name}_in"] = image
                initializers.append(numpy_helper.from_array(weights, f"{name}_w"))
                real = name if value.dtype == "float32" else f"{name}_real"
                nodes.append(helper.make_node("Conv", [f"{name}_in", f"{name}_w"], [real]))
                if real != name:
                    zero = np.array(90 if value.dtype == "uint8" else -30, value.dtype)
                    initializers.append(numpy_helper.from_array(np.ones((), np.float32), f"{name}_scale"))
                    initializers.append(numpy_helper.from_array(zero, f"{name}_zero"))
                    nodes.append(helper.make_node("QuantizeLinear", [real, f"{name}_scale", f"{name}_zero"], [name]))
            elif value is not None:
                feeds[name] = value
            names.append(name)
        results = [f"out{number}_{i}" for i in range(case.outputs)]
        nodes.append(helper.make_node(case.op_type, names, results, name=f"node{number}", **case.attributes))
        outputs += [helper.make_empty_tensor_value_info(result) for result in results]
    return Built(_finish(nodes, feeds, outputs, initializers), feeds)


def _finish(nodes: list[Any], feeds: dict[str, NDArray[Any]], outputs: list[Any], initializers: list[Any]) -> ir.Model:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(nodes, "cases", inputs, outputs, initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def lower(model: ir.Model) -> tvm.IRModule:
    return fuse(Emitter(PROFILE).emit_graph(model.graph))


def kernels(model: ir.Model) -> list[str]:
    """Names of the kernels, without their numbers."""
    names = (variable.name_hint for variable in lower(model).functions)
    return sorted(name.rstrip("0123456789") for name in names if name != "main")


def test_every_lowering_has_a_case() -> None:
    assert set(CASES) == set(LOWERINGS)


def test_what_follows_a_convolution_stays_blocked() -> None:
    """A chain of operators that keep channels apart needs one conversion, at its end."""
    w = np.ones((20, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Mul", ["d", "e"], ["f"]),
        helper.make_node("Concat", ["f", "d"], ["y"], axis=1),
    ]
    initializers = [numpy_helper.from_array(w, "w")]
    feeds = {"x": np.ones((1, 3, 8, 8), np.float32)}
    model = _finish(nodes, feeds, [helper.make_empty_tensor_value_info("y")], initializers)
    assert sum("block" in name for name in kernels(model)) == 1


def test_what_grows_by_broadcasting_is_a_kernel_of_its_own() -> None:
    """A gate of one number per channel is not computed again for every pixel that it multiplies."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Mul", ["a", "d"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(np.ones((16, channels, 1, 1), np.float32), name)
        for name, channels in (("w", 3), ("w2", 16))
    ]
    feeds = {"x": np.ones((1, 3, 8, 8), np.float32)}
    model = _finish(nodes, feeds, [helper.make_empty_tensor_value_info("y")], initializers)
    names = kernels(model)
    assert any(name.endswith("sigmoid") for name in names)
    assert any("mul" in name and "conv2d" not in name for name in names)


def test_a_function_after_a_reshape_joins_the_kernel_before_it() -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.array([4, 6], np.int64), "shape")]
    feeds = {"x": np.ones((2, 3, 4), np.float32)}
    model = _finish(nodes, feeds, [helper.make_empty_tensor_value_info("y")], initializers)
    assert kernels(model) == ["fused_add_sigmoid"]


def test_outputs_share_no_bytes_with_inputs_or_each_other() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["same_as_input"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["z"]),
    ]
    initializers = [numpy_helper.from_array(np.array([3, 2], np.int64), "shape")]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("same_as_input", "y", "z")]
    model = _finish(nodes, {"x": np.ones((2, 3), np.float32)}, outputs, initializers)
    assert kernels(model) == ["copy", "copy", "relu"]


@pytest.mark.parametrize("op_type", ["Relu", "Softmax", "Exp", "Gelu", "MaxPool", "MatMul", "Conv", "Add"])
def test_float16_is_emitted(op_type: str) -> None:
    case = next(c for c in CASES[op_type] if not any(isinstance(v, Image) for v in c.inputs))
    halves = [
        Constant(v.array.astype(np.float16)) if isinstance(v, Constant) else None if v is None else v.astype(np.float16)
        for v in case.inputs
    ]
    assert kernels(build([Case(case.op_type, halves, case.attributes)]).model)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("MaxPool", [np.zeros((1, 2, 4, 4, 4), np.float32)], {"kernel_shape": [2, 2, 2]}), "has 3 spatial axes"),
        (Case("Conv", [np.zeros((1, 2, 4, 4), np.float32), np.zeros((2, 2, 1, 1), np.float32)], {}), "input 1"),
        (Case("Det", [np.eye(3, dtype=np.float32)], {}), "operator Det is not supported"),
    ],
)
def test_refusals_say_why(case: Case, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        lower(build([case]).model)


def test_real_models_are_emitted(model_name: str, real_model: Callable[[str], ir.Model]) -> None:
    """Every model of the data folder becomes kernels, few of which only convert between layouts."""
    from edgec.passes import simplify

    model, _ = simplify(real_model(model_name).clone())
    names = kernels(model)
    assert names
    conversions = [name for name in names if name in ("block", "unblock")]
    assert len(conversions) <= len(names) / 4
