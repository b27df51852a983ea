"""Latency of edgec and its peers on this machine's NVIDIA GPU, interleaved; and how near each kernel is to its peak.

    python benchmarks/cuda.py [--models resnet18,yunet] [--batches 1,8] [--precisions fp32,fp16,int8] [--json out.json]

A latency is what an application sees, from inputs in host memory to outputs in host memory, the same for everybody;
contenders have processes of their own and take turns, as in `x86.py`. The table of kernels has the times that the GPU
measured with events, beside the matrix rate and the bandwidth that PyTorch reaches on it in the same run.
It needs ``edgec[cuda]`` and a PyTorch for CUDA with onnx2torch; ONNX Runtime and TensorRT take part where they are.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

import numpy as np
import onnx_ir as ir
from rich.console import Console
from x86 import Figures, Row, geometric_mean, latency_table, measure, model_path

import edgec
from edgec.devices import Peak, open_process
from edgec.errors import DeviceError, EdgecError
from edgec.parity import policy_of
from edgec.roofline import KernelReport, kernel_reports
from edgec.sources import read_model

MODELS = ("resnet8", "mobilenet_v2", "resnet18", "efficientnet_lite0", "yunet", "transformer")
PEERS = {
    "fp32": ("torch", "torch.compile", "onnxruntime", "tensorrt"),
    "fp16": ("torch", "torch.compile", "tensorrt"),
    "int8": ("onnxruntime", "tensorrt"),
}
"""Contenders by precision: PyTorch has no int8 convolutions on GPUs, ONNX Runtime does not convert to float16."""
SCRIPT = Path(__file__).with_name("cuda_contender.py")
REPEATS = 20


def gpu_target() -> str:
    """The target for this machine's first GPU.

    Raises:
        DeviceError: There is none, or no PyTorch that sees it.
    """
    if util.find_spec("torch") is None or util.find_spec("onnx2torch") is None:
        raise DeviceError("the benchmark compares with PyTorch", fix="pip install torch onnx2torch")
    import torch

    if not torch.cuda.is_available():
        raise DeviceError("PyTorch sees no NVIDIA GPU here", fix="run this where there is one, with PyTorch for CUDA")
    major, minor = torch.cuda.get_device_capability()
    return f"cuda:sm_{major}{minor}"


def measured_peak(precision: str) -> Peak:
    """What PyTorch's matrix product and copy reach on the GPU: the best of several, timed by events."""
    import torch

    def best_s(work: object, repeats: int = REPEATS) -> float:
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()  # type: ignore[operator]
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return min(times)

    size = 8192
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}[precision]
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.ones((size, size), dtype=dtype, device="cuda")
    product = (lambda: torch._int_mm(a, a)) if precision == "int8" else (lambda: a @ a)
    source = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / best_s(lambda: target.copy_(source)) / 1e9
    return Peak(0, 2 * size**3 / best_s(product) / 1e9, bandwidth, 0, source.nbytes)


def model_of(name: str, batch: int) -> ir.Model:
    """A model of the suite for so many images at once.

    Raises:
        EdgecError: The file has a fixed batch.
    """
    source, shapes = model_path(name)
    model = read_model(source, shapes or None)
    if batch == 1:
        return model
    if isinstance(source, Path):
        raise EdgecError(f"{name} is a file with a fixed batch of 1")
    wanted = {str(value.name): (batch, *value.shape.numpy()[1:]) for value in model.graph.inputs}
    return read_model(source, wanted)


def measure_model(name: str, batch: int, precision: str, target: str, seconds: float, folder: Path) -> Row:
    """Compile a model and measure all contenders of a precision.

    Raises:
        EdgecError: edgec cannot compile it.
        AssertionError: edgec computes something else than its engine.
    """
    model = model_of(name, batch)
    if precision == "int8":
        noise = np.random.default_rng(1)
        samples = {
            value.name: noise.standard_normal((4, *value.shape.numpy())).astype(value.dtype.numpy())
            for value in model.graph.inputs
        }
        model = edgec.quantize(model, samples, method="minmax")
    ir.save(model, folder / "model.onnx")
    (folder / "precision").write_text(precision)
    bundle = edgec.compile(
        folder / "model.onnx", target=target, name=name, precision=None if precision == "int8" else precision
    )
    sample, expected = ({n: a[0] for n, a in bundle.golden(kind).items()} for kind in ("inputs", "outputs"))
    for place in (folder, bundle.folder):
        np.savez(place / "inputs.npz", **sample)
    places = {f"edgec {precision}": bundle.folder, **dict.fromkeys(PEERS[precision], folder)}
    figures = measure(places, expected, 1, seconds, None, policy_of(bundle), SCRIPT)
    bundle.save(folder / f"{name}.edgec")
    return Row(f"{name} x{batch}", 1, sum(bundle.phases_s.values()), figures)


def kernels_of(bundle: edgec.Bundle, peak: Peak) -> tuple[KernelReport, ...]:
    """Times of all kernels, by the GPU's events."""
    with open_process(bundle, "local") as runner:
        return kernel_reports(bundle, runner.profile(REPEATS), peak)


def kernel_rows(reports: Sequence[KernelReport], peak: Peak) -> list[dict[str, object]]:
    """As JSON-ready values, with shares of the measured peaks."""
    return [
        {
            "kernel": row.name,
            "median_us": row.median_us,
            "share_of_matrix_rate": row.peak_share,
            "share_of_bandwidth": (row.bytes or 0) / max(row.median_us, 1e-3) / 1e3 / peak.bandwidth_gbs,
            "bound_us": row.bound_us,
            "bound_by": row.bound_by,
        }
        for row in reports
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: all")
    parser.add_argument("--batches", default="1,8", help="comma-separated; default: 1,8")
    parser.add_argument("--precisions", default=",".join(PEERS), help="comma-separated; default: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per contender and model")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    models, precisions = arguments.models.split(","), arguments.precisions.split(",")
    for kind, given, known in (("model", models, MODELS), ("precision", precisions, tuple(PEERS))):
        if strangers := sorted({*given} - {*known}):
            parser.error(f"no {kind} called {', '.join(strangers)}; there are {', '.join(known)}")
    try:
        target = gpu_target()
    except DeviceError as err:
        print(err, file=sys.stderr)
        sys.exit(err.exit_code)
    console, report = Console(width=200), []
    for precision in precisions:
        peak, rows = measured_peak(precision), []
        for name in models:
            for batch in map(int, arguments.batches.split(",")):
                with tempfile.TemporaryDirectory(prefix="edgec-cuda-") as root:
                    try:
                        row = measure_model(name, batch, precision, target, arguments.seconds, Path(root))
                        kernels = kernels_of(edgec.load(Path(root) / f"{name}.edgec"), peak)
                    except (FileNotFoundError, EdgecError, AssertionError) as err:
                        print(f"{name} x{batch} {precision} is left out: {err}", file=sys.stderr)
                        continue
                rows.append(row)
                report.append(_entry(row, precision, kernel_rows(kernels, peak)))
        if rows:
            console.print(f"{precision}: {peak.gflops / 1e3:.1f} Tflop/s, {peak.bandwidth_gbs:.0f} GB/s measured")
            console.print(latency_table(rows))
            console.print(f"geometric mean of best peer / edgec: {geometric_mean([row.ratio() for row in rows]):.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**_machine(target), "rows": report}, indent=2) + "\n")


def _entry(row: Row, precision: str, kernels: list[dict[str, object]]) -> dict[str, object]:
    contenders: dict[str, Figures] = row.figures
    return {
        "model": row.model,
        "precision": precision,
        "best_peer_by_edgec": row.ratio(),
        "contenders": {name: figures.to_dict() for name, figures in contenders.items()},
        "kernels": kernels,
    }


def _machine(target: str) -> dict[str, object]:
    import torch

    versions = {"edgec": edgec.__version__, "torch": metadata.version("torch"), "cuda": torch.version.cuda}
    return {
        "gpu": torch.cuda.get_device_name(),
        "target": target,
        "system": platform.platform(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
