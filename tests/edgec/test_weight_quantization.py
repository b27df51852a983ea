"""Dynamic and weight-only quantization: against ONNX Runtime, on the targets, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.errors import EdgecError, UsageError
from edgec.frontend import execute
from edgec.sources import read_model
from tests.edgec.tiny import unary_model

CLASSES = 5

MODES = {
    "dynamic": {"mode": "dynamic"},
    "int8": {"mode": "weight-only"},
    "int8 in blocks": {"mode": "weight-only", "block_size": 16},
    "int4": {"mode": "weight-only", "bits": 4},
    "int4 in odd blocks": {"mode": "weight-only", "bits": 4, "block_size": 5},
}
LEAST_SQNR_DB = {"dynamic": 35, "int8": 38, "int8 in blocks": 38, "int4": 16, "int4 in odd blocks": 16}

# Rows, depth and columns: one row, blocks that end early, odd numbers of columns, several tiles of rows.
SIZES = [(1, 64, 32), (7, 101, 33), (40, 96, 100), (1, 5, 17)]


def perceptron(rows: int, depth: int, columns: int, seed: int = 0) -> onnx.ModelProto:
    """MatMul of x (rows, depth) -> Relu -> Gemm with every attribute -> y (rows, CLASSES)."""
    rng = np.random.default_rng(seed)
    arrays = {
        "w": rng.standard_normal((depth, columns)) / np.sqrt(depth),
        "v": rng.standard_normal((CLASSES, columns)) / np.sqrt(columns),
        "b": rng.standard_normal(CLASSES) / 10,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="first"),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "b"], ["y"], name="second", transB=1, alpha=0.5, beta=2.0),
    ]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (rows, depth)), ("y", (rows, CLASSES)))
    ]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "perceptron", infos[:1], infos[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def data(rows: int, depth: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {"x": (np.random.default_rng(rows + depth).standard_normal((rows, depth)) * scale).astype(np.float32)}


def sqnr_db(actual: np.ndarray, exact: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(actual - exact).sum()))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_the_artifact_computes_what_onnxruntime_computes(mode, size, run_onnxruntime):
    model = perceptron(*size)
    quantized = edgec.quantize(model, **MODES[mode])
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    inputs = data(*size[:2])
    theirs, engine = run_onnxruntime(quantized, inputs)["y"], execute(quantized, inputs)["y"]
    bundle = edgec.compile(quantized)
    ours = bundle.run(inputs)["y"]
    np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())
    np.testing.assert_allclose(ours, engine, atol=2e-6 * np.abs(engine).max())
    assert sqnr_db(ours, execute(read_model(model), inputs)["y"]) > LEAST_SQNR_DB[mode]
    assert edgec.check(bundle)


@pytest.mark.parametrize("target", ["native", "x86-64-v3", "rk3588", "raspberry-pi-4"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_dynamic_quantization_is_bit_exact(target, scale):
    quantized = edgec.quantize(perceptron(7, 101, 33), mode="dynamic")
    inputs = data(7, 101, scale)
    np.testing.assert_array_equal(
        edgec.compile(quantized, target=target).run(inputs)["y"], execute(quantized, inputs)["y"]
    )


@pytest.mark.parametrize("mode", ["int8", "int4", "int8 in blocks"])
def test_small_weights_on_arm(mode):
    assert edgec.check(edgec.compile(edgec.quantize(perceptron(7, 96, 33), **MODES[mode]), target="rk3588"))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight_type", ["QInt8", "QUInt8"])
def test_models_that_onnxruntime_quantized_dynamically(per_channel, weight_type, tmp_path, run_onnxruntime):
    quantization = pytest.importorskip("onnxruntime.quantization")
    onnx.save(perceptron(3, 64, 32), tmp_path / "float.onnx")
    made = tmp_path / "dynamic.onnx"
    kind = getattr(quantization.QuantType, weight_type)
    quantization.quantize_dynamic(tmp_path / "float.onnx", made, per_channel=per_channel, weight_type=kind)
    bundle, inputs = edgec.compile(made), data(3, 64)
    theirs = run_onnxruntime(read_model(made), inputs)["y"]
    np.testing.assert_allclose(bundle.run(inputs)["y"], theirs, atol=2e-6 * np.abs(theirs).max())
    assert edgec.check(bundle)


@pytest.mark.parametrize(("mode", "share"), [("int8", 0.27), ("int4", 0.165), ("dynamic", 0.27)])
def test_bundles_keep_the_small_weights(mode, share):
    model = perceptron(1, 256, 512)
    small, large = (
        edgec.compile(m).manifest["memory"]["params_bytes"] for m in (edgec.quantize(model, **MODES[mode]), model)
    )
    assert small < share * large


def test_products_of_one_input_share_its_bytes():
    model = read_model(perceptron(2, 8, 8))
    first = next(node for node in model.graph if node.op_type == "MatMul")
    twin = ir.node("MatMul", list(first.inputs), name="twin")
    twin.outputs[0].name, twin.outputs[0].shape, twin.outputs[0].dtype = "t", ir.Shape([2, 8]), ir.DataType.FLOAT
    other = ir.tensor(np.eye(8, dtype=np.float32), name="other")
    model.graph.register_initializer(
        constant := ir.Value(name="other", shape=ir.Shape([8, 8]), type=ir.TensorType(other.dtype), const_value=other)
    )
    twin.replace_input_with(1, constant)
    model.graph.insert_after(first, twin)
    model.graph.outputs.append(twin.outputs[0])
    quantized = edgec.quantize(model, mode="dynamic")
    counts = [node.op_type for node in quantized.graph]
    assert (counts.count("DynamicQuantizeLinear"), counts.count("MatMulInteger")) == (2, 3)


def test_what_is_kept_in_float_stays():
    quantized = edgec.quantize(perceptron(2, 8, 8), mode="dynamic", keep_float=["second"])
    assert [node.op_type for node in quantized.graph if node.op_type in ("Gemm", "MatMulInteger")] == [
        "MatMulInteger",
        "Gemm",
    ]


WRONG = [
    ({"mode": "weight-only", "bits": 3}, "weights cannot have 3 bits"),
    ({"mode": "weight-only", "block_size": 0}, "a block of 0 weights is too small"),
    ({"mode": "dynamic", "bits": 4}, "bits cannot be chosen in mode dynamic"),
    ({"block_size": 32}, "a block size cannot be chosen in mode static"),
    ({"mode": "dynamic", "calibration": {"x": np.zeros((1, 2, 8), np.float32)}}, "'calibration' says nothing to mode"),
    ({"mode": "weight-only", "method": "minmax"}, "'method' says nothing to mode weight-only"),
    ({"mode": "sideways"}, "there is no mode 'sideways'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[message for _, message in WRONG])
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        edgec.quantize(perceptron(2, 8, 8), **options)


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_a_model_without_products_is_refused(mode):
    with pytest.raises(EdgecError, match="there is no MatMul or Gemm to quantize"):
        edgec.quantize(unary_model("Relu"), mode=mode)


def test_the_command_line(run_edgec, tmp_path: Path):
    path, out = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(perceptron(2, 64, 32), path)
    result = run_edgec("quantize", path, "-o", out, "--mode", "weight-only", "--bits", 4, "--json")
    assert result.code == 0 and json.loads(result.stdout)["quantized"] == 2
    assert out.stat().st_size < 0.4 * path.stat().st_size
    out.unlink()
    result = run_edgec("quantize", path, "-o", out, "--mode", "dynamic", "--calibration", "data.npz")
    assert result.code == 2 and "'calibration' says nothing to mode dynamic" in result.stderr and not out.exists()
