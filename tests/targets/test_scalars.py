"""Functions of one number: their error in units in the last place, as `edgec.targets.lowering.scalars` states it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import edgec

# The largest error that is stated, the range, and the function in float64.
STATED: dict[str, tuple[float, float, float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "Exp": (1.1, -87.0, 88.0, np.exp),
    "Sigmoid": (3.0, -20.0, 20.0, lambda x: 1 / (1 + np.exp(-x))),
    "Softplus": (4.0, -20.0, 20.0, lambda x: np.log1p(np.exp(x))),
    "Tanh": (6.0, -9.0, 9.0, np.tanh),
    "Elu": (6.0, -20.0, 0.0, np.expm1),
    "Erf": (6.0, -4.0, 4.0, np.vectorize(math.erf)),
}
POINTS = 1 << 15


@pytest.fixture(scope="module")
def bundle() -> edgec.Bundle:
    nodes = [helper.make_node(op_type, [f"{op_type}_x"], [f"{op_type}_y"]) for op_type in STATED]
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{op_type}_{end}", TensorProto.FLOAT, [2 * POINTS]) for op_type in STATED]
        for end in "xy"
    )
    graph = helper.make_graph(nodes, "scalars", inputs, outputs)
    return edgec.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))


def test_errors_are_as_stated(bundle: edgec.Bundle) -> None:
    """At numbers of the whole range, and at small ones of all magnitudes."""
    rng = np.random.default_rng(0)
    feeds = {}
    for op_type, (_, low, high, _) in STATED.items():
        small = np.sign(rng.uniform(low, high, POINTS)) * 10.0 ** rng.uniform(-6, 0, POINTS)
        feeds[f"{op_type}_x"] = np.concatenate([rng.uniform(low, high, POINTS), small]).astype(np.float32)
    outputs = bundle.run(feeds, threads=1)
    for op_type, (stated, _, _, function) in STATED.items():
        expected = function(feeds[f"{op_type}_x"].astype(np.float64))
        unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        errors = np.abs(outputs[f"{op_type}_y"] - expected) / unit
        assert errors.max() <= stated, (op_type, errors.max(), feeds[f"{op_type}_x"][errors.argmax()])


FUNCTIONS = (
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "HardSigmoid",
    "HardSwish",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "Erf",
    "Exp",
)


def test_what_is_no_number_stays_none() -> None:
    """NaN in whole vectors and in what remains of them; infinities have the limit of the function."""
    import onnxruntime

    nodes = [helper.make_node(op_type, ["x"], [op_type]) for op_type in FUNCTIONS]
    nodes.append(helper.make_node("Clip", ["x", "low", "high"], ["Clip"]))
    bounds = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("low", -1), ("high", 6))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [37])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [37]) for name in (*FUNCTIONS, "Clip")]
    graph = helper.make_graph(nodes, "nan", inputs, outputs, bounds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    x = np.linspace(-3, 3, 37, dtype=np.float32)
    x[[0, 7, 35]], x[20], x[36] = np.nan, np.inf, -np.inf
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    actual = edgec.compile(model).run({"x": x}, threads=1)
    for info, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(actual[info.name], reference, rtol=1e-5, atol=1e-6, err_msg=info.name)
