"""Latency of edgec and its peers on this machine's NVIDIA GPU, interleaved; and how near each kernel is to its peak.

    python benchmarks/cuda.py [--models resnet18,yunet] [--batches 1,8] [--precisions fp32,fp16,int8] [--json out.json]
    python benchmarks/cuda.py --target jetson-orin --prepare FOLDER       # on a machine with a compiler
    python benchmarks/cuda.py --prepared FOLDER                           # on the board

A latency is what an application sees, from inputs in host memory to outputs in host memory: page-locked for edgec and
PyTorch, ordinary for ONNX Runtime and TensorRT, whose copies count. Contenders have processes of their own and take
turns, as in `x86.py`. The table of kernels has the times that the GPU measured with events, beside the matrix rate and
the bandwidth that PyTorch reaches on it in the same run.
It needs ``edgec[cuda]`` and a PyTorch for CUDA with onnx2torch; ONNX Runtime and TensorRT take part where they are.
With bundles that were prepared elsewhere plain edgec will do.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
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
        FileNotFoundError: The model's file is not there.
        EdgecError: The file is not for so many.
    """
    source, shapes = model_path(name)
    if batch == 1:
        return read_model(source, shapes or None)
    if isinstance(source, Path):
        return read_model(_with_batch(onnx.load(source), batch))
    model = read_model(source, shapes or None)
    wanted = {str(value.name): (batch, *value.shape.numpy()[1:]) for value in model.graph.inputs}
    return read_model(source, wanted)


def _with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A model that was exported for one image, for several: of inputs and outputs and what is reshaped to them."""
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for name in shapes & {*tensors}:
        shape = numpy_helper.to_array(tensors[name]).copy()
        if len(shape) > 1 and shape[0] == 1:
            shape[0] = batch
            tensors[name].CopyFrom(numpy_helper.from_array(shape, tensors[name].name))
    return model


@dataclass(frozen=True)
class Case:
    """A model at a batch in a precision, and the bundle of it."""

    model: str
    batch: int
    precision: str

    def __str__(self) -> str:
        return f"{self.model} x{self.batch} {self.precision}"

    def path(self, folder: Path) -> Path:
        return folder / f"{self.model}-x{self.batch}-{self.precision}.edgec"

    def compile(self, target: str) -> edgec.Bundle:
        """Compile it, after quantization by the ranges of noise where it is int8.

        Raises:
            EdgecError: edgec cannot compile it.
            FileNotFoundError: The model's file is not there.
        """
        model = model_of(self.model, self.batch)
        if self.precision != "int8":
            return edgec.compile(model, target=target, name=self.model, precision=self.precision)  # type: ignore[arg-type]
        noise = np.random.default_rng(1)
        samples = {
            value.name: noise.standard_normal((4, *value.shape.numpy())).astype(value.dtype.numpy())
            for value in model.graph.inputs
        }
        return edgec.compile(edgec.quantize(model, samples, method="minmax"), target=target, name=self.model)

    def prepared(self, folder: Path) -> edgec.Bundle:
        """Load what was prepared.

        Raises:
            FileNotFoundError: It was not.
        """
        path = self.path(folder)
        if not path.exists():
            raise FileNotFoundError(f"no {path}")
        return edgec.load(path)

    def measure(self, bundle: edgec.Bundle, seconds: float) -> Row:
        """Measure all contenders.

        Raises:
            AssertionError: edgec computes something else than its engine.
            RuntimeError: edgec's process ended.
        """
        sample, expected = ({n: a[0] for n, a in bundle.golden(kind).items()} for kind in ("inputs", "outputs"))
        with tempfile.TemporaryDirectory(prefix="edgec-cuda-") as root:
            folder = Path(root)
            (folder / "model.onnx").symlink_to(bundle.folder / "graph" / "model.onnx")
            (folder / "precision").write_text(self.precision)
            for place in (folder, bundle.folder):
                np.savez(place / "inputs.npz", **sample)
            places = {f"edgec {self.precision}": bundle.folder, **dict.fromkeys(PEERS[self.precision], folder)}
            figures = measure(places, expected, 1, seconds, None, policy_of(bundle), SCRIPT)
        return Row(f"{self.model} x{self.batch}", 1, sum(bundle.phases_s.values()), figures)


def prepare(cases: Sequence[Case], target: str, folder: Path) -> list[str]:
    """Compile all cases into a folder; returns what was left out and why."""
    folder.mkdir(parents=True, exist_ok=True)
    skipped = []
    for case in cases:
        start = time.perf_counter()
        try:
            case.compile(target).save(case.path(folder))
        except (FileNotFoundError, EdgecError) as err:
            skipped.append(f"{case} is left out: {err}")
            continue
        print(f"{case}: {time.perf_counter() - start:.0f} s, {case.path(folder).stat().st_size >> 20} MiB", flush=True)
    return skipped


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
    parser.add_argument("--target", help="what to compile for; default: this machine's GPU")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="only compile, into this folder; needs --target")
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="measure what --prepare made")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    models, precisions = arguments.models.split(","), arguments.precisions.split(",")
    for kind, given, known in (("model", models, MODELS), ("precision", precisions, tuple(PEERS))):
        if strangers := sorted({*given} - {*known}):
            parser.error(f"no {kind} called {', '.join(strangers)}; there are {', '.join(known)}")
    batches = [int(batch) for batch in arguments.batches.split(",")]
    cases = [Case(name, batch, precision) for precision in precisions for name in models for batch in batches]
    if arguments.prepare is not None:
        if arguments.target is None:
            parser.error("--prepare needs --target, as jetson-orin or cuda:sm_90")
        for reason in prepare(cases, arguments.target, arguments.prepare):
            print(reason, file=sys.stderr)
        return
    try:
        gpu = gpu_target()
    except DeviceError as err:
        print(err, file=sys.stderr)
        sys.exit(err.exit_code)
    target = arguments.target or gpu
    console, report = Console(width=200), []
    for precision in precisions:
        peak, rows = measured_peak(precision), []
        for case in (case for case in cases if case.precision == precision):
            try:
                bundle = case.compile(target) if arguments.prepared is None else case.prepared(arguments.prepared)
                row, kernels = case.measure(bundle, arguments.seconds), kernels_of(bundle, peak)
            except (FileNotFoundError, EdgecError, AssertionError, RuntimeError) as err:
                print(f"{case} is left out: {err}", file=sys.stderr)
                continue
            rows.append(row)
            report.append({"target": bundle.target, **_entry(row, precision, kernel_rows(kernels, peak))})
            if arguments.json is not None:  # a session on a device may end at any time
                arguments.json.write_text(json.dumps({**_machine(), "rows": report}, indent=2) + "\n")
        if rows:
            console.print(f"{precision}: {peak.gflops / 1e3:.1f} Tflop/s, {peak.bandwidth_gbs:.0f} GB/s measured")
            console.print(latency_table(rows))
            console.print(f"geometric mean of best peer / edgec: {geometric_mean([row.ratio() for row in rows]):.2f}")


def _entry(row: Row, precision: str, kernels: list[dict[str, object]]) -> dict[str, object]:
    contenders: dict[str, Figures] = row.figures
    return {
        "model": row.model,
        "precision": precision,
        "best_peer_by_edgec": row.ratio(),
        "contenders": {name: figures.to_dict() for name, figures in contenders.items()},
        "kernels": kernels,
    }


def _machine() -> dict[str, object]:
    import torch

    versions = {"edgec": edgec.__version__, "torch": metadata.version("torch"), "cuda": torch.version.cuda}
    return {
        "gpu": torch.cuda.get_device_name(),
        "system": platform.platform(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
