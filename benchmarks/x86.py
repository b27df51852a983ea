"""Latency of edgec and its peers on this machine: one run, interleaved, medians and spread.

    python benchmarks/x86.py [--threads 1] [--seconds 2] [--models resnet8,yunet] [--json out.json]

Each model is compiled for `native`. edgec, ONNX Runtime and, where it is installed, OpenVINO (float32) take turns in
short rounds, so that a change of the machine's speed meets all of them. Models come from the folder EDGEC_DATA
(default: ../shared/data beside the repository).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import edgec
from edgec.devices import open_runner
from edgec.sources import read_model

DATA = Path(os.environ.get("EDGEC_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data") / "models"
MODELS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "mnist8": ("mnist8/mnist-8.onnx", {}),
    "resnet8": ("mlperf_tiny_resnet8.onnx", {}),
    "yunet": ("yunet_n_320.onnx", {}),
    "ultraface": ("ultraface_rfb320.onnx", {}),
    "fastestdet": ("fastestdet.onnx", {}),
    "efficientnet_lite0": ("efficientnet_lite0.onnx", {}),
    "super_resolution": ("superres10/super_resolution_10.onnx", {"input": (1, 1, 224, 224)}),
}
ROUND_SECONDS = 0.2

Inference = Callable[[], object]


def edgec_inference(path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> tuple[Inference, list[np.ndarray]]:
    """The artifact in this process, and the inputs that all contenders get."""
    bundle = edgec.compile(path, target="native", inputs=shapes or None)
    inputs = [array[0] for array in bundle.golden("inputs").values()]
    runner = open_runner(bundle, threads=threads)
    return lambda: runner.run([inputs]), inputs


def onnxruntime_inference(path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> Inference:
    import onnx_ir as ir
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    model = read_model(path, shapes or None)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    feed = {value.name: np.zeros(value.shape, np.float32) for value in session.get_inputs()}
    return lambda: session.run(None, feed)


def openvino_inference(path: Path, shapes: dict[str, tuple[int, ...]], threads: int) -> Inference:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if shapes:
        model.reshape({name: list(shape) for name, shape in shapes.items()})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    inputs = [np.zeros(list(port.shape), np.float32) for port in model.inputs]
    return lambda: request.infer(inputs)


def measure(contenders: dict[str, Inference], seconds: float) -> dict[str, list[float]]:
    """Latencies in ms by contender; they take turns of a fifth of a second."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for inference in contenders.values():
        inference()
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end:
        for name, inference in contenders.items():
            round_end = time.perf_counter() + ROUND_SECONDS
            while (start := time.perf_counter()) < round_end:
                inference()
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per contender and model")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: all")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models.split(","):
        file, shapes = MODELS[name]
        run, _ = edgec_inference(DATA / file, shapes, arguments.threads)
        contenders: dict[str, Inference] = {"edgec": run}
        for peer, make in (("onnxruntime", onnxruntime_inference), ("openvino", openvino_inference)):
            if util.find_spec(peer) is not None:
                contenders[peer] = make(DATA / file, shapes, arguments.threads)
        times = measure(contenders, arguments.seconds)
        rows.append({"model": name, **{peer: np.percentile(t, [0, 10, 50, 90]).tolist() for peer, t in times.items()}})
        Console(stderr=True).print(f"{name}: " + ", ".join(f"{p} {np.median(t):.3f} ms" for p, t in times.items()))
    report(rows, arguments.threads, arguments.json)


def report(rows: list[dict[str, object]], threads: int, path: Path | None) -> None:
    """Print the table; write the figures with machine and versions where asked."""
    peers = [key for key in rows[0] if key != "model"]
    table = Table(title=f"median ms (10 %–90 %), {threads} thread(s), {platform.processor() or platform.machine()}")
    table.add_column("model")
    for peer in peers:
        table.add_column(peer, justify="right")
    table.add_column("best peer / edgec", justify="right")
    ratios = []
    for row in rows:
        cells = [f"{row[p][2]:.3f} ({row[p][1]:.3f}–{row[p][3]:.3f})" for p in peers]  # type: ignore[index]
        ratio = min(row[p][2] for p in peers[1:]) / row["edgec"][2] if peers[1:] else float("nan")  # type: ignore[index]
        ratios.append(ratio)
        table.add_row(str(row["model"]), *cells, f"{ratio:.2f}")
    if peers[1:]:
        table.add_row("geometric mean", *[""] * len(peers), f"{float(np.exp(np.mean(np.log(ratios)))):.2f}")
    Console(width=140).print(table)
    if path is not None:
        versions = {p: metadata.version(p) for p in peers}
        header = {"machine": platform.platform(), "cpus": os.cpu_count(), "threads": threads, "versions": versions}
        path.write_text(json.dumps({**header, "percentiles": [0, 10, 50, 90], "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
