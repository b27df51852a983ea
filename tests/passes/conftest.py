"""Small models in ONNX's text form, and checks that hold for every pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import shape_inference
from onnx_ir.passes import InPlacePass

from edgec.passes import CountedResult, FixNames

HEADER = '<ir_version: 10, opset_import: ["": 22]>\n'


@pytest.fixture
def build() -> Callable[..., ir.Model]:
    """``build(text, w=array)``: the model of a graph in text form, inferred, with these initializers in it."""

    def make(text: str, **arrays: NDArray[np.generic]) -> ir.Model:
        proto = onnx.parser.parse_model(HEADER + text)
        for name, array in arrays.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        proto = shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(proto)
        model = ir.from_proto(proto)
        FixNames()(model)
        return model

    return make


@pytest.fixture
def apply_pass(run_onnxruntime, assert_close) -> Callable[..., CountedResult]:
    """``apply_pass(a_pass, model)``: runs a pass and checks what must hold for each.

    The result is valid, computes the same, keeps the names of inputs and outputs, and a second run changes nothing.
    """

    def check(a_pass: InPlacePass, model: ir.Model, *, low: float = -2.0, relative: float = 1e-4) -> CountedResult:
        rng = np.random.default_rng(7)
        inputs = {
            value.name: rng.uniform(low, 2.0, value.shape.numpy()).astype(value.dtype.numpy())
            for value in model.graph.inputs
        }
        names = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
        expected = run_onnxruntime(model, inputs)
        result = a_pass(model)
        assert isinstance(result, CountedResult)
        assert result.modified == bool(result.changes)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        assert names == [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
        actual = run_onnxruntime(model, inputs)
        for name, array in expected.items():
            assert_close(actual[name], array, relative=relative)
        text = ir.to_proto(model).SerializeToString()
        assert not a_pass(model).modified
        assert ir.to_proto(model).SerializeToString() == text
        return result

    return check


@pytest.fixture
def operators() -> Callable[[ir.Model], list[str]]:
    """The operators of a model, in order."""

    def render(model: ir.Model) -> list[str]:
        return [node.op_type for node in model.graph]

    return render
