"""Whole models for GPUs, without a GPU: the driver is a stub, and the kernels' CUDA C runs on the CPU.

What is checked is what `edgec check` checks on a board: the runner, the launches, every kernel's arithmetic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgec
from edgec.bundle import Bundle
from edgec.devices.selection import host_arch
from edgec.errors import DeviceError, UnsupportedError
from edgec.targets.cuda import nvrtc
from tests.conftest import REAL_MODELS
from tests.cuda.emulated_gpu import install_emulated_gpu
from tests.cuda.stub_driver import emulator
from tests.edgec.conftest import Result
from tests.edgec.tiny import tiny_model

HOST = {"x86_64": "cuda:sm_86", "aarch64": "jetson-orin"}[host_arch()]
EmulatedGpu = Callable[[Bundle], None]
RunEdgec = Callable[..., Result]


@pytest.fixture
def emulated_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmulatedGpu:
    """Gives programs a GPU that can run the kernels of a bundle."""
    return lambda bundle: install_emulated_gpu(bundle, tmp_path, monkeypatch)


def assert_computes_what_the_engine_does(bundle: Bundle, device: str) -> None:
    report = edgec.check(bundle, device=device, samples=1)
    assert report, str(report)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_resnet8(precision: str, data_dir: Path, emulated_gpu: EmulatedGpu) -> None:
    path = data_dir / "models" / REAL_MODELS["mlperf_tiny_resnet8"][0]
    images = np.random.default_rng(0).uniform(0, 255, (8, 1, 3, 32, 32)).astype(np.float32)
    calibration = {"input_1": images} if precision == "int8" else None
    bundle = edgec.compile(path, target=HOST, precision=precision, calibration=calibration)
    emulated_gpu(bundle)
    assert_computes_what_the_engine_does(bundle, "local")
    for kernel in json.loads((bundle.folder / "reports" / "compile.json").read_text())["device_code"]:
        assert all(image["spill_bytes"] == 0 and image["registers"] <= 255 for image in kernel["images"])


def test_a_recurrent_network(emulated_gpu: EmulatedGpu) -> None:
    bundle = edgec.compile("models.GRUClassifier", target=HOST, precision="fp16")
    emulated_gpu(bundle)
    assert_computes_what_the_engine_does(bundle, "local")


@pytest.mark.parametrize(
    ("target", "precision"),
    [("jetson-nano", "fp32"), ("jetson-xavier", "fp16"), ("jetson-xavier", "int8"), ("jetson", "fp32")],
)
def test_a_jetson_under_qemu(target: str, precision: str, emulated_gpu: EmulatedGpu) -> None:
    if host_arch() != "aarch64":
        emulator("aarch64")
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(size=(8, 1, depth, 8, 8)) for name, depth in (("image", 3), ("shift", 4))}
    calibration = {name: array.astype(np.float32) for name, array in samples.items()}
    bundle = edgec.compile(
        tiny_model(), target=target, precision=precision, calibration=calibration if precision == "int8" else None
    )
    emulated_gpu(bundle)
    assert_computes_what_the_engine_does(bundle, "qemu" if host_arch() != "aarch64" else "local")
    assert bundle.glibc is not None and tuple(map(int, bundle.glibc.split("."))) <= (2, 27)


@pytest.fixture(scope="session")
def tiny_on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgec.compile(tiny_model(), target=HOST, also_for=["sm_90", "ptx"]).save(
        tmp_path_factory.mktemp("gpu") / "tiny.edgec"
    )


def test_inspect_tells_what_is_in_it_and_what_it_needs(tiny_on_gpu: Path, run_edgec: RunEdgec) -> None:
    shown = run_edgec("inspect", tiny_on_gpu)
    assert shown.code == 0
    own = f"sm_{edgec.load(tiny_on_gpu).manifest['target']['gpu']['capability']}"
    assert re.search(r"a driver of CUDA 1[1-3]\.\d or newer", shown.stdout)
    for part in (
        "glibc 2.",
        own,
        "sm_90",
        f"compute_{own[3:]}",
        "registers",
        "spills",
    ):
        assert part in shown.stdout
    rows = json.loads(run_edgec("inspect", tiny_on_gpu, "--json").stdout)["compile"]["device_code"]
    for kernel in rows:
        assert [image["kind"] for image in kernel["images"]] == ["cubin", "ptx", "cubin"]
        assert all(1 <= kernel["block"][i] <= 1024 and kernel["grid"][i] >= 1 for i in range(3))


def test_tuning_on_the_device(emulated_gpu: EmulatedGpu, tiny_on_gpu: Path, tmp_path: Path) -> None:
    """Times of an emulation mean nothing; candidates are built, run and compared, and what is kept can be used."""
    emulated_gpu(edgec.load(tiny_on_gpu))  # its stub: kernels that are not in it do nothing
    records = tmp_path / "records.json"
    report = edgec.tune(tiny_model(), target=HOST, precision="fp16", device="local", time_s=6, records=records)
    assert report.kernels and not report.wrong
    assert report.cpu.startswith("sm_")
    in_half, in_single = (
        edgec.compile(tiny_model(), target=HOST, precision=precision, records=records).manifest["tuning"]["kernels"]
        for precision in ("fp16", "fp32")
    )
    assert in_half and not in_single


MISTAKES = {
    "unknown board": (["--target", "jetson-orinn"], 3, "did you mean 'jetson-orin'?"),
    "unknown architecture": (["--target", "cuda:sm_99"], 3, "unknown GPU architecture 'sm_99'"),
    "no device compiler": (["--target", "jetson-thor"], 3, "pip install 'edgec[cuda13]'"),
    "older architecture": (["--target", "jetson", "--also-for", "sm_72"], 2, "do not run on sm_72"),
    "no GPU": (["--target", "rk3588", "--also-for", "sm_90"], 2, "has no GPU"),
    "no tf32 on this chip": (["--target", "jetson-xavier", "--precision", "tf32"], 3, "does not compute in tf32"),
    "no tf32 on CPUs": (["--target", "rk3588", "--precision", "tf32"], 3, "does not compute in tf32"),
    "no float16": (["--target", "raspberry-pi-4", "--precision", "fp16"], 3, "does not compute in float16"),
    "contradiction": (["--target", "jetson", "--precision", "int8", "--quantize", "auto"], 2, "wants it everywhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_at_compilation(
    mistake: str, run_edgec: RunEdgec, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, code, message = MISTAKES[mistake]
    if mistake == "no device compiler":
        monkeypatch.setattr(nvrtc, "_load", lambda _major: None)
    result = run_edgec("compile", tiny_onnx, *options, "-o", tmp_path / "m.edgec")
    assert (result.code, list(tmp_path.iterdir())) == (code, [])
    assert message in result.stderr and "Traceback" not in result.stderr


def test_a_model_that_no_board_could_hold() -> None:
    huge = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 22]>
        g (float[1024, 1048576] x) => (float[1024, 1048576] y) { y = Relu(x) }""")
    with pytest.raises(UnsupportedError, match=r"needs 8192 MiB, and jetson-nano has 4096 MiB") as caught:
        edgec.compile(huge, target="jetson-nano")
    assert caught.value.fix is not None and "smaller" in caught.value.fix


def test_mistakes_at_run_time(
    tiny_on_gpu: Path, run_edgec: RunEdgec, emulated_gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = run_edgec("check", tiny_on_gpu, "--device", "local")
    assert without.code == 6
    assert "no CUDA driver" in without.stderr and "--device ssh://" in without.stderr
    emulated_gpu(edgec.load(tiny_on_gpu))
    monkeypatch.setenv("EDGEC_STUB_CAPABILITY", "53")
    other = run_edgec("check", tiny_on_gpu, "--device", "local")
    assert other.code == 6
    assert "compiled for other GPUs" in other.stderr and "sm_53" in other.stderr and "--also-for" in other.stderr


def test_the_cpu_takes_over_without_a_gpu(
    emulated_gpu: EmulatedGpu, run_edgec: RunEdgec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = edgec.compile(tiny_model(), target=HOST, also_for=["cpu"])
    path = bundle.save(tmp_path / "tiny.edgec")
    assert "or, without a GPU, a CPU with" in run_edgec("inspect", path).stdout
    for device, description in ((None, "this process, on the CPU"), ("local", "this machine, on its CPU")):
        report = edgec.check(bundle, device=device)
        assert report and report.device == description, str(report)
    with pytest.raises(DeviceError, match="has a profile on a GPU only") as caught:
        edgec.bench(bundle, device="local", warmup_ms=0, min_time_ms=1, profile_runs=1)
    assert "no CUDA driver" in str(caught.value.where)
    emulated_gpu(bundle)
    report = edgec.check(bundle, device="local")
    assert report and report.device == "this machine", str(report)
    assert "cuGraphLaunch" in (tmp_path / "log").read_text()
    monkeypatch.setenv("EDGEC_STUB_CAPABILITY", "53")
    report = edgec.check(bundle, device="local")
    assert report and report.device == "this machine, on its CPU", str(report)
