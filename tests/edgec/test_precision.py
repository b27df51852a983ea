"""Float16: what compiles, how exact it is under QEMU, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.edgec.conftest import Result
from tests.edgec.tiny import tiny_model

tvm = pytest.importorskip("tvm")

import edgec  # noqa: E402
from edgec import engine  # noqa: E402
from edgec.engine import nn  # noqa: E402
from edgec.errors import UnsupportedError, UsageError  # noqa: E402
from edgec.requirements import in_precision  # noqa: E402
from edgec.targets.profile import load_profile  # noqa: E402


def sum_of_shares(depth: int) -> onnx.ModelProto:
    """The sum of the elements of x (1, depth) over 64, eight times."""
    weights = numpy_helper.from_array(np.full((depth, 8), 1 / 64, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "ones",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, depth))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8))],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def network() -> nn.Module:
    """Direct and Winograd's convolutions, a depthwise one, a residual, and long sums."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 136, 1),
        nn.ReLU(),
        nn.Conv2d(136, 24, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
        nn.Softmax(-1),
    )


@pytest.mark.usefixtures("qemu_aarch64")
def test_a_convolutional_network() -> None:
    engine.seed(0)
    shapes = {"image": (1, 3, 16, 16)}
    half, single = (
        edgec.compile(network(), target="rk3588", inputs=shapes, name="n", precision=p) for p in ("fp16", "fp32")
    )
    assert (half.precision, single.precision) == ("float16", "float32")
    report = edgec.check(half)
    assert report, str(report)
    assert report.precision == "float16" and report.tolerance.min_sqnr_db == 45
    assert half.manifest["memory"]["params_bytes"] < 0.55 * single.manifest["memory"]["params_bytes"]
    assert half.inputs == single.inputs and half.outputs == single.outputs


@pytest.mark.usefixtures("qemu_aarch64")
def test_a_transformer() -> None:
    """Of some weights, scores in the thousands (golden inputs go up to 255) are near ties, which rounding decides."""
    engine.seed(0)
    model = nn.TransformerEncoderLayer(32, 4, 64)
    report = edgec.check(edgec.compile(model, target="raspberry-pi-5", inputs={"x": (1, 12, 32)}, precision="fp16"))
    assert report, str(report)


@pytest.mark.usefixtures("qemu_aarch64")
@pytest.mark.parametrize("depth", [4096, 4001])
def test_long_sums(depth: int) -> None:
    """One after the other, ones add up to 2048 in float16: 2049 rounds to it."""
    bundle = edgec.compile(sum_of_shares(depth), target="rk3588", precision="fp16")
    ones = np.ones((1, depth), np.float32)
    np.testing.assert_array_equal(bundle.run([ones])["y"], np.full((1, 8), np.float16(depth / 64), np.float32))


def as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with all its tensors in float16."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return model


@pytest.mark.usefixtures("qemu_aarch64", "qemu_x86_64")
@pytest.mark.parametrize("target", ["rk3588", "raspberry-pi-4", "x86-64-v3"])
def test_a_model_that_is_float16_by_itself(target: str) -> None:
    """Native where the CPU computes with it, in float32 elsewhere."""
    bundle = edgec.compile(as_float16(tiny_model()), target=target)
    assert bundle.precision == "float16"
    assert {info.dtype for info in (*bundle.inputs, *bundle.outputs)} == {"float16"}
    report = edgec.check(bundle, device="qemu")
    assert report, str(report)
    stored = bundle.manifest["memory"]["params_bytes"]
    single = edgec.compile(as_float16(tiny_model()), target=target, precision="fp32").manifest["memory"]["params_bytes"]
    assert (stored < single) == (target == "rk3588")


@pytest.mark.parametrize("target", ["x86-64-v3", "raspberry-pi-4"])
def test_targets_without_float16(target: str) -> None:
    with pytest.raises(UnsupportedError, match=f"target '{target}' does not compute in float16") as caught:
        edgec.compile(tiny_model(), target=target, precision="fp16")
    assert "rk3588" in str(caught.value) and "raspberry-pi-5" in str(caught.value)


@pytest.mark.parametrize(("target", "where"), [("rk3588", "neon-dotprod"), ("cuda:sm_75", "sm_75")])
def test_targets_without_tf32(target: str, where: str) -> None:
    with pytest.raises(UnsupportedError, match=f"target '{target}' does not compute in tf32") as caught:
        in_precision("tf32", load_profile(target))
    assert where in str(caught.value) and "sm_80" in str(caught.value)


def test_unknown_precision(run_edgec: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no precision 'fp8'"):
        edgec.compile(tiny_model(), precision="fp8")
    onnx.save(tiny_model(), tmp_path / "tiny.onnx")
    arguments = ("compile", tmp_path / "tiny.onnx", "-o", tmp_path / "t.edgec", "--precision")
    assert run_edgec(*arguments, "fp8", "--target", "rk3588").code == 2
    refused = run_edgec(*arguments, "fp16", "--target", "x86-64-v4")
    assert refused.code == 3 and "rk3588" in refused.stderr
    assert not (tmp_path / "t.edgec").exists()
