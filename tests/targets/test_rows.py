"""Softmax, layer normalization and reductions along rows of any length, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.devices import open_runner
from edgec.parity import POLICY, compare
from tests.targets.test_random_kernels import need_emulator

LENGTHS = (1, 3, 7, 16, 37, 130, 197)
"""Less than a vector, whole vectors, a rest, and long enough for several chains of vectors."""


def model_of_rows() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    for length in LENGTHS:
        x = f"x{length}"
        affine = rng.standard_normal((2, length)).astype(np.float32)
        weights += [numpy_helper.from_array(affine[i], f"{name}{length}") for i, name in enumerate(("scale", "bias"))]
        nodes += [
            helper.make_node("Softmax", [x], [f"softmax{length}"]),
            helper.make_node("LogSoftmax", [x], [f"log{length}"]),
            helper.make_node("LayerNormalization", [x, f"scale{length}", f"bias{length}"], [f"norm{length}"]),
            helper.make_node("Relu", [f"norm{length}"], [f"relu{length}"]),
            helper.make_node("ReduceMax", [x, "axes"], [f"max{length}"], keepdims=0),
            helper.make_node("ReduceL2", [x, "axes"], [f"l2_{length}"]),
            helper.make_node("ReduceProd", [x], [f"prod{length}"]),
        ]
        outputs += [f"{name}{length}" for name in ("softmax", "log", "relu", "max", "l2_", "prod")]
    weights.append(numpy_helper.from_array(np.array([-1]), "axes"))
    inputs = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, [2, 3, n]) for n in LENGTHS]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "rows", inputs, infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize("target", ["native", "x86-64-v3", "rk3588"])
def test_rows_of_any_length(target: str) -> None:
    import onnxruntime

    model = model_of_rows()
    bundle = edgec.compile(model, target=target)
    rng = np.random.default_rng(1)
    sample = {info.name: rng.uniform(0.5, 1.5, info.shape).astype(np.float32) for info in bundle.inputs}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, sample)
    need_emulator(bundle)
    with open_runner(bundle, threads=2) as runner:
        (outputs,) = runner.run([[sample[info.name] for info in bundle.inputs]])
    for info, reference, actual in zip(bundle.outputs, expected, outputs, strict=True):
        result = compare(info.name, reference[None], actual[None], POLICY["float32"])
        assert result.passed, result
