"""The GPU benchmark: its arithmetic, what it says without a GPU, and its PyTorch contender, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from benchmarks import cuda, cuda_contender
from edgec.devices import Peak
from edgec.devices.selection import host_arch
from edgec.frontend import execute
from edgec.roofline import KernelReport
from edgec.sources import read_model
from tests.cuda.emulated_gpu import install_emulated_gpu
from tests.edgec.tiny import tiny_model


def test_without_a_gpu_it_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = subprocess.run([sys.executable, cuda.__file__], capture_output=True, text=True)
    assert result.returncode == 6 and "Traceback" not in result.stderr
    assert "PyTorch" in result.stderr


def test_shares_of_the_peak() -> None:
    peak = Peak(0, gflops=1000.0, bandwidth_gbs=100.0, last_cache_bytes=0, buffer_bytes=0)
    report = KernelReport(0, "k", median_us=10.0, min_us=9.0, flops=4_000_000, bytes=500_000, peak_share=0.4)
    (row,) = cuda.kernel_rows([report], peak)
    assert (row["share_of_matrix_rate"], row["share_of_bandwidth"]) == (0.4, 0.5)


@pytest.mark.parametrize("name", ["resnet8", "efficientnet_lite0", "yunet", "resnet18"])
@pytest.mark.usefixtures("data_dir")
def test_several_images_at_once(name: str) -> None:
    """Each of them gives what it gives alone."""
    one, three = cuda.model_of(name, 1), cuda.model_of(name, 3)
    assert {value.shape.numpy()[0] for value in (*three.graph.inputs, *three.graph.outputs)} == {3}
    if name in ("resnet18", "efficientnet_lite0"):  # they take long in the engine
        return
    (value,) = three.graph.inputs
    images = np.random.default_rng(3).uniform(0, 255, value.shape.numpy()).astype(np.float32)
    together = execute(three, {value.name: images})
    for name, array in execute(one, {value.name: images[1:2]}).items():
        np.testing.assert_allclose(together[name][1:2], array, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("data_dir")
def test_a_prepared_model_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, on a GPU that is none."""
    target = {"x86_64": "cuda:sm_86", "aarch64": "jetson-orin"}[host_arch()]
    case = cuda.Case("resnet8", 1, "int8")
    assert cuda.prepare([case], target, tmp_path / "bundles") == []
    bundle = case.prepared(tmp_path / "bundles")
    install_emulated_gpu(bundle, tmp_path, monkeypatch)
    monkeypatch.setattr(cuda, "PEERS", {"int8": ()})
    monkeypatch.setattr(cuda, "REPEATS", 1)
    row = case.measure(bundle, 0.1)
    assert [*row.figures] == ["edgec int8"] and row.figures["edgec int8"].note == ""
    peak = Peak(0, gflops=1000.0, bandwidth_gbs=100.0, last_cache_bytes=0, buffer_bytes=0)
    kernels = cuda.kernel_rows(cuda.kernels_of(bundle, peak), peak)
    assert len(kernels) > 8 and all(kernel["median_us"] > 0 for kernel in kernels)
    with pytest.raises(FileNotFoundError, match=r"resnet8-x8-int8\.edgec"):
        cuda.Case("resnet8", 8, "int8").prepared(tmp_path / "bundles")


def test_the_contender_of_pytorch_computes_the_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx2torch")
    model = read_model(tiny_model())
    ir.save(model, tmp_path / "model.onnx")
    (tmp_path / "precision").write_text("fp32")
    rng = np.random.default_rng(2)
    inputs = {value.name: rng.standard_normal(value.shape.numpy()).astype(np.float32) for value in model.graph.inputs}
    infer, fetch = cuda_contender.torch_loader(tmp_path, inputs, 1, device="cpu")()
    infer()
    for expected, actual in zip(execute(model, inputs).values(), fetch(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
