"""Which layer each step of an artifact works for: against the names and the order of the model's convolutions."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import parser

import edgec

RESIDUAL = """<ir_version: 8, opset_import: ["": 18]>
g (float[1, 8, 12, 12] x) => (float[1, 16, 1, 1] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, first)
    r = Relu(a)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    b = Conv<pads = [1, 1, 1, 1]>(p, second)
    c = Conv(p, third)
    s = Add(b, c)
    y = ReduceL2<keepdims = 1>(s, axes)
}"""


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_every_step_belongs_to_the_layer_that_uses_it(quantize: Literal["int8"] | None, same: bool) -> None:
    model = parser.parse_model(RESIDUAL)
    rng = np.random.default_rng(0)
    shapes = {"first": (8, 8, 3, 3), "second": (16, 8, 3, 3), "third": (16, 8, 1, 1)}
    for name, shape in shapes.items():
        weights = np.ones(shape) if same else rng.standard_normal(shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights.astype(np.float32), name))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    data = {"x": rng.standard_normal((3, 1, 8, 12, 12)).astype(np.float32)} if quantize else None
    bundle = edgec.compile(model, target="x86-64-v3", quantize=quantize, calibration=data)
    report = json.loads((bundle.folder / "reports" / "compile.json").read_text())
    layers = report["layers"]
    assert len(layers) == report["steps"] == len(report["work"])
    assert (layers[0], layers[-1]) == ("a", None)
    assert set(layers) == {"a", "b", "c", None}
    # The sum joins the kernel of b, which therefore comes after that of c; the pool is for the first of the two.
    last = {name: max(step for step, layer in enumerate(layers) if layer == name) for name in ("a", "b", "c")}
    assert len(report["work"][last["b"]]["shapes"]) == len(report["work"][last["c"]]["shapes"]) + 1
    weights = report["work"][last["c"]]["shapes"][1]
    assert weights.split(" ")[1].split("x")[2:4] == ["1", "1"]
