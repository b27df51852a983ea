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
