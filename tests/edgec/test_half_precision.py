"""Which products float16 has to leave alone: differences of products that nearly cancel each other out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgec
from edgec.half_precision import keep_float32
from edgec.passes import ConvertPrecision, FixNames
from tests.edgec.conftest import Result

RNG = np.random.default_rng(5)
A = RNG.standard_normal((64, 64)).astype(np.float32)
B = A * (1 + RNG.uniform(-0.02, 0.02, A.shape).astype(np.float32))
C = RNG.standard_normal((64, 8)).astype(np.float32)
GRAPH = """<ir_version: 10, opset_import: ["": 22]> g (float[2, 64] x) => (float[%d, 64] y, float[2, 8] z) {
    a = MatMul (x, A) b = MatMul (x, B) %s z = MatMul (x, C)
}"""


def model(body: str = "y = Sub (a, b)", rows: int = 2) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(GRAPH % (rows, body))
    for name, array in (("A", A), ("B", B), ("C", C)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = f"makes_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def graph(proto: onnx.ModelProto) -> ir.Model:
    made = ir.from_proto(proto)
    FixNames()(made)
    return made


@pytest.mark.parametrize("has_wide_sums", [False, True])
def test_what_cancels_out_is_kept(has_wide_sums: bool) -> None:
    given = graph(model())
    convert, note = keep_float32(ConvertPrecision(has_wide_sums=has_wide_sums), given)
    assert convert.kept == {"makes_a", "makes_b", "makes_y"}
    assert note.startswith("2 of 3 products stay in float32") and "makes_a, makes_b" in note
    assert all(value.dtype == ir.DataType.FLOAT for node in given.graph for value in node.outputs)


def test_what_is_exact_enough_is_not_looked_at() -> None:
    convert = ConvertPrecision(has_wide_sums=True)
    assert keep_float32(convert, graph(model("y = Add (a, b)"))) == (convert, "")


def test_activations_that_cancel_out_are_kept() -> None:
    body = "t = Concat <axis = 0> (a, a) u = Concat <axis = 0> (b, b) y = Sub (t, u)"
    convert, note = keep_float32(ConvertPrecision(has_wide_sums=True), graph(model(body, rows=4)))
    assert convert.kept == {"makes_a", "makes_b", "makes_t", "makes_u", "makes_y"}
    assert note.startswith("2 of 3 products")


def test_factors_that_cancel_out_are_kept() -> None:
    """The last product multiplies differences of products: it is what their rounding harms."""
    body = "d = Sub (a, b) e = Mul (d, d) f = MatMul (e, B) y = Relu (f)"
    convert, _ = keep_float32(ConvertPrecision(has_wide_sums=True), graph(model(body)))
    assert convert.kept >= {"makes_a", "makes_b", "makes_d", "makes_e"} and "makes_z" not in convert.kept


LARGE = """<ir_version: 10, opset_import: ["": 22]> g (float[2, 64] x) => (float[2, 8] z) {
    a = MatMul (x, A) b = Mul (a, factor) r = Relu (b) c = Mul (r, factor_too) z = MatMul (c, C)
}"""


def large_model() -> onnx.ModelProto:
    """Its values reach some 30,000 for inputs of a standard normal distribution."""
    proto = onnx.parser.parse_model(LARGE)
    numbers = {"A": A, "C": C, "factor": np.float32(1000), "factor_too": np.float32(1e-3)}
    for name, array in numbers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in proto.graph.node:
        node.name = f"makes_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def test_what_float16_does_not_hold_of_the_given_inputs_is_kept() -> None:
    convert = ConvertPrecision(has_wide_sums=True)
    small, large = ({"x": RNG.standard_normal((3, 2, 64)).astype(np.float32) * size} for size in (1, 10))
    assert keep_float32(convert, graph(large_model()), small) == (convert, "")
    kept, note = keep_float32(convert, graph(large_model()), large)
    assert kept.kept == {"makes_b", "makes_r", "makes_c"}
    assert note.startswith("3 nodes, 'makes_b' the first with ")
    assert note.endswith("which float16 does not hold: they stay in float32")


def test_what_float16_does_not_hold_of_random_inputs_is_told() -> None:
    convert, note = keep_float32(ConvertPrecision(has_wide_sums=True), graph(large_model()))
    assert not convert.kept
    assert note.startswith("3 nodes, 'makes_b' the first") and "--calibration" in note


def test_the_given_inputs_are_those_of_the_check(run_edgec: Callable[..., Result], tmp_path: Path) -> None:
    onnx.save(large_model(), tmp_path / "m.onnx")
    given = RNG.standard_normal((5, 2, 64)).astype(np.float32) * 10
    np.savez(tmp_path / "given.npz", x=given)
    options = ["-t", "cuda:sm_87", "--precision", "fp16", "--calibration", tmp_path / "given.npz"]
    made = run_edgec("compile", tmp_path / "m.onnx", *options, "-o", tmp_path / "m.edgec")
    assert made.code == 0 and "'makes_b' the first" in made.stderr
    bundle = edgec.load(tmp_path / "m.edgec")
    assert bundle.float32_products == ()
    np.testing.assert_array_equal(bundle.golden("inputs")["x"], given[:3])
    empty = run_edgec("compile", tmp_path / "m.onnx", *options[:-1], "models:nothing", "-o", tmp_path / "n.edgec")
    assert empty.code == 1 and "Traceback" not in empty.stderr and not (tmp_path / "n.edgec").exists()


def test_outputs_without_a_derivative() -> None:
    body = "d = Sub (a, b) y = Sign (d)"
    convert, note = keep_float32(ConvertPrecision(has_wide_sums=True), graph(model(body)))
    assert convert.kept >= {"makes_a", "makes_b"} and "stay in float32" in note


@pytest.mark.usefixtures("qemu_aarch64")
def test_the_artifact_keeps_to_the_policy(run_edgec: Callable[..., Result], tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    made = run_edgec("compile", tmp_path / "m.onnx", "-t", "rk3588", "--precision", "fp16", "-o", tmp_path / "m.edgec")
    assert made.code == 0 and "note: 2 of 3 products stay in float32" in made.stderr
    assert "float32  2 products: makes_a, makes_b\n" in run_edgec("inspect", tmp_path / "m.edgec").stdout
    bundle = edgec.load(tmp_path / "m.edgec")
    assert bundle.precision == "float16" and bundle.float32_products == ("makes_a", "makes_b")
    report = edgec.check(bundle, device="qemu")
    assert report, str(report)
