"""Networks that others trained, compiled and checked: against the engine, ONNX Runtime and their own references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgec
from edgec.bundle import Bundle
from edgec.devices import open_process
from edgec.parity import POLICY, compare
from tests.conftest import REAL_MODELS

BundleOf = Callable[[str, str], Path]
NETWORKS = ("mnist8", "mlperf_tiny_resnet8", "yunet_n_320", "fastestdet", "superres10", "efficientnet_lite0")
# Those of which one inference under QEMU is bearable.
EMULATED = ("mnist8", "mlperf_tiny_resnet8", "yunet_n_320")


def assert_agrees(bundle: Bundle, reference: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> None:
    for info in bundle.outputs:
        result = compare(info.name, reference[info.name][None], actual[info.name][None], POLICY["float32"])
        assert result.passed, f"{info.name}: {result.reason}"


@pytest.mark.parametrize("name", NETWORKS)
def test_native_agrees_with_the_engine_and_onnx_runtime(name: str, real_bundle: BundleOf, data_dir: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    bundle = edgec.load(real_bundle(name, "native"))
    report = edgec.check(bundle)
    assert report, str(report)
    assert report.samples == 3
    assert {output.name for output in report.outputs} == {info.name for info in bundle.outputs}
    # The file as its authors wrote it, not as edgec imported it. Of the golden samples the one of pixels: ONNX
    # Runtime's sigmoid is coarse where it is nearly 0, as YuNet's is on other images.
    session = onnxruntime.InferenceSession(
        str(data_dir / "models" / REAL_MODELS[name][0]), providers=["CPUExecutionProvider"]
    )
    inputs = {name: array[2] for name, array in bundle.golden("inputs").items()}
    names = [output.name for output in session.get_outputs()]
    assert_agrees(bundle, dict(zip(names, session.run(None, inputs), strict=True)), bundle.run(inputs))


@pytest.mark.parametrize("name", (*EMULATED, "efficientnet_lite0"))
def test_rk3588(name: str, real_bundle: BundleOf, request: pytest.FixtureRequest) -> None:
    bundle = edgec.load(real_bundle(name, "rk3588"))
    assert bundle.arch == "aarch64"
    if name in EMULATED:
        request.getfixturevalue("qemu_aarch64")
        report = edgec.check(bundle, samples=3 if name != "yunet_n_320" else 1)
        assert report, str(report)
        assert report.device == "QEMU cortex-a76"


@pytest.mark.parametrize(
    ("target", "cpu"),
    [
        ("x86-64-v2", "Nehalem"),  # no AVX
        ("x86-64-v3", "Haswell"),  # no AVX-512
        ("raspberry-pi-4", "cortex-a72"),
        ("aarch64", "cortex-a53"),
    ],
)
def test_other_targets(target: str, cpu: str, real_bundle: BundleOf, request: pytest.FixtureRequest) -> None:
    bundle = edgec.load(real_bundle("mlperf_tiny_resnet8", target))
    request.getfixturevalue(f"qemu_{bundle.arch}")
    report = edgec.check(bundle, samples=1, device="qemu")
    assert report, str(report)
    assert report.device == f"QEMU {cpu}"


def test_resnet8_reaches_its_accuracy(real_bundle: BundleOf, data_dir: Path) -> None:
    """87.9 % of the first 2000 test images of CIFAR-10, as published for MLPerf Tiny."""
    with np.load(data_dir / "datasets" / "cifar10_test2000.npz") as file:
        images, labels = file["images"], file["labels"]
    bundle = edgec.load(real_bundle("mlperf_tiny_resnet8", "native"))
    samples = [[np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)] for image in images]
    with open_process(bundle, threads=2) as runner:
        results = runner.run(samples)
    classes = np.array([logits.argmax() for (logits,) in results])
    assert round(100 * float(np.mean(classes == labels)), 1) == 87.9


def read_tensor(path: Path) -> np.ndarray:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return np.asarray(numpy_helper.to_array(tensor))


@pytest.mark.parametrize("name", ["mnist8", "superres10"])
def test_reference_outputs_are_reproduced(name: str, real_bundle: BundleOf, data_dir: Path) -> None:
    """The model zoo keeps what its authors' framework computed beside each model."""
    bundle = edgec.load(real_bundle(name, "native"))
    folders = sorted((data_dir / "models" / name).glob("test_data_set_*"))
    assert folders
    for folder in folders:
        (actual,) = bundle.run([read_tensor(folder / "input_0.pb")]).values()
        result = compare(folder.name, read_tensor(folder / "output_0.pb")[None], actual[None], POLICY["float32"])
        assert result.passed, f"{folder.name}: {result.reason}"
