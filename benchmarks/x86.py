"""Latency, memory and loading of edgec and its peers on this machine, interleaved: medians and spread.

    python benchmarks/x86.py [--threads 1,2] [--seconds 2] [--models resnet8,yunet] [--json out.json]
    python benchmarks/x86.py --targets native,x86-64-v3,x86-64-v2 --peers onnxruntime

Every contender gets the same ONNX bytes, the same inputs and the same CPUs, has a process of its own, and takes its
turn of a fifth of a second, so that a change of the machine's speed meets all of them. What it computes is compared
with the engine before it is timed. docs/benchmarks.md says what the figures mean.

Models come from the folder EDGEC_DATA (default: ../shared/data beside the repository), those of PP-OCRv4 from
EDGEC_PPOCR (default: its subfolder ppocr).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table
from turns import Contender

import edgec
from edgec.benchmark import machine
from edgec.errors import EdgecError
from edgec.parity import POLICY, Tolerance, compare, policy_of
from edgec.sources import read_model

DATA = Path(os.environ.get("EDGEC_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
PPOCR = Path(os.environ.get("EDGEC_PPOCR") or DATA / "ppocr")
Shapes = dict[str, tuple[int, ...]]
MODELS: dict[str, tuple[str, Shapes]] = {
    "mobilenet_v2": ("models.MobileNetV2", {}),
    "resnet18": ("models.ResNet18", {}),
    "transformer": ("models.TransformerClassifier", {}),
    "efficientnet_lite0": ("efficientnet_lite0.onnx", {}),
    "fastestdet": ("fastestdet.onnx", {}),
    "ultraface": ("ultraface_rfb320.onnx", {}),
    "yunet": ("yunet_n_320.onnx", {}),
    "resnet8": ("mlperf_tiny_resnet8.onnx", {}),
    "super_resolution": ("superres10/super_resolution_10.onnx", {"input": (1, 1, 224, 224)}),
    "mnist8": ("mnist8/mnist-8.onnx", {}),
    "ppocr_det": ("ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 640, 640)}),
    "ppocr_rec": ("ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    "ppocr_cls": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
}
"""Networks of edgec.models by their names, and files, with the shapes that these leave open."""
PEERS = ("onnxruntime", "openvino")
SHARES = (10, 50, 90)
ROUND_SECONDS, WARM_UP_SECONDS = 0.2, 0.3
CONTENDER = Path(__file__).with_name("x86_contender.py")
WRONG_DB = 20.0
"""Signal to error, in dB: a peer with less computes something else. One between this and the parity policy is less
exact (a short polynomial for a sigmoid, say), which the report mentions."""


@dataclass
class Figures:
    """What one contender showed on one model at one number of threads.

    Attributes:
        latencies_ms: Of every inference after the warm-up.
        peak_mib: Highest resident memory of its process, Python and NumPy (26 MiB) among it.
        note: How its outputs differ from the engine's; empty where the parity policy holds.
    """

    load_ms: float
    first_ms: float
    peak_mib: float
    note: str = ""
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def percentiles_ms(self) -> tuple[float, ...]:
        return tuple(float(value) for value in np.percentile(self.latencies_ms, SHARES))

    @property
    def median_ms(self) -> float:
        return self.percentiles_ms[1]

    def to_dict(self) -> dict[str, object]:
        ms = dict(zip((f"p{share}_ms" for share in SHARES), self.percentiles_ms, strict=True))
        rest = {name: getattr(self, name) for name in ("load_ms", "first_ms", "peak_mib", "note")}
        return {**ms, **rest, "runs": len(self.latencies_ms)}


@dataclass
class Row:
    """One model at one number of threads; contenders by name, edgec's with their targets: ``edgec native``."""

    model: str
    threads: int
    compile_s: float
    figures: dict[str, Figures]

    def gain(self) -> float:
        """The median of float32 by that of int8; NaN where there are not both."""
        medians = [
            self.figures[f"edgec {kind}"].median_ms for kind in ("float32", "int8") if f"edgec {kind}" in self.figures
        ]
        return medians[0] / medians[1] if len(medians) == 2 else math.nan

    def ratio(self) -> float:
        """The best peer's median by that of edgec's first target; above 1, edgec is faster. NaN without a peer."""
        ours = next((f for name, f in self.figures.items() if name.startswith("edgec")), None)
        peers = [f.median_ms for name, f in self.figures.items() if not name.startswith("edgec")]
        return min(peers) / ours.median_ms if ours and peers else math.nan


def geometric_mean(ratios: Sequence[float]) -> float:
    """NaN where there is nothing to take the mean of."""
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else math.nan


class PeerProcess(Contender):
    """A process of `x86_contender.py` or one like it, and what it showed."""

    def __init__(self, peer: str, folder: Path, threads: int, script: Path) -> None:
        super().__init__([sys.executable, str(script), peer, str(folder), str(threads)])
        self.figures = Figures(*(self.start[key] for key in ("load_ms", "first_ms", "peak_mib")))
        with np.load(folder / f"{peer}.npz") as file:
            self.outputs = [file[f"arr_{i}"] for i in range(len(file.files))]

    def run(self, seconds: float, count: bool = True) -> None:
        message = self.work(seconds)
        if count:
            self.figures.latencies_ms += message["latencies_ms"]
            self.figures.peak_mib = message["peak_mib"]


def model_path(name: str) -> tuple[str | Path, Shapes]:
    """What `edgec.compile` takes for a model of the suite, and the shapes.

    Raises:
        FileNotFoundError: The file is not there; the message says how to get it.
    """
    source, shapes = MODELS[name]
    if source.startswith("models."):
        return source, shapes
    path = (PPOCR if name.startswith("ppocr") else DATA / "models") / source
    if not path.is_file():
        variable = "EDGEC_PPOCR" if name.startswith("ppocr") else "EDGEC_DATA"
        raise FileNotFoundError(f"no {path} (set {variable})")
    return path, shapes


def measure_quantized(name: str, peers: Sequence[str], threads: Sequence[int], seconds: float) -> list[Row]:
    """Quantize a model with edgec and with ONNX Runtime, then measure peers on both, and edgec on its own and in float.

    The ranges are those of noise: good enough to compute as much as a calibrated model does.

    Raises:
        FileNotFoundError: The model's file is not there.
        EdgecError: edgec cannot quantize or compile it.
        AssertionError: The int8 artifact computes something else than the engine.
    """
    source, shapes = model_path(name)
    with tempfile.TemporaryDirectory(prefix="edgec-x86-") as root:
        folders = {kind: Path(root) / kind for kind in ("float32", "edgec", "onnxruntime")}
        for folder in folders.values():
            folder.mkdir()
        model = read_model(source, shapes or None)
        ir.save(model, folders["float32"] / "model.onnx")
        noise = np.random.default_rng(1)
        samples = {
            value.name: noise.standard_normal((4, *value.shape.numpy())).astype(value.dtype.numpy())
            for value in model.graph.inputs
        }
        start = time.perf_counter()
        ir.save(edgec.quantize(model, samples, method="minmax"), folders["edgec"] / "model.onnx")
        bundles = {
            f"edgec {kind}": edgec.compile(folders[folder] / "model.onnx", name=name, cache=False)
            for kind, folder in (("int8", "edgec"), ("float32", "float32"))
        }
        compile_s = time.perf_counter() - start
        places = {contender: bundle.folder for contender, bundle in bundles.items()}
        places |= {f"{peer} edgec's": folders["edgec"] for peer in peers}
        try:
            quantize_with_onnxruntime(folders["float32"], folders["onnxruntime"], samples)
            places |= {f"{peer} ORT's": folders["onnxruntime"] for peer in peers}
        except Exception as err:  # whatever the peer's quantizer trips over: the other model is there
            print(f"{name}: ONNX Runtime does not quantize it: {err}", file=sys.stderr)
        reference = bundles["edgec int8"]
        sample = {info: array[0] for info, array in reference.golden("inputs").items()}
        for place in {*places.values()}:
            np.savez(place / "inputs.npz", **sample)
        expected = {info: array[0] for info, array in reference.golden("outputs").items()}
        judged = ("edgec int8",), policy_of(reference)
        return [Row(name, count, compile_s, measure(places, expected, count, seconds, *judged)) for count in threads]


def quantize_with_onnxruntime(source: Path, result: Path, samples: Mapping[str, np.ndarray]) -> None:
    """QDQ with uint8 activations and int8 weights per channel, as ONNX Runtime recommends for CPUs."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(samples.values())))
            self.rows = iter([{name: array[i] for name, array in samples.items()} for i in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    quant_pre_process(source / "model.onnx", result / "float.onnx", skip_symbolic_shape=True)
    quantization.quantize_static(
        result / "float.onnx",
        result / "model.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def measure_model(
    name: str, targets: Sequence[str], peers: Sequence[str], threads: Sequence[int], seconds: float
) -> list[Row]:
    """Compile a model for each target, then measure all contenders at each number of threads.

    Raises:
        FileNotFoundError: The model's file is not there.
        EdgecError: edgec cannot compile it.
        AssertionError: edgec computes something else than its engine.
    """
    source, shapes = model_path(name)
    with tempfile.TemporaryDirectory(prefix="edgec-x86-") as root:
        folder = Path(root) / "peers"
        folder.mkdir()
        ir.save(read_model(source, shapes or None), folder / "model.onnx")
        bundles, seconds_of = {}, {}
        for target in targets:
            start = time.perf_counter()
            bundles[f"edgec {target}"] = edgec.compile(folder / "model.onnx", target=target, name=name, cache=False)
            seconds_of[target] = time.perf_counter() - start
        reference = bundles[f"edgec {targets[0]}"]
        sample = {info: array[0] for info, array in reference.golden("inputs").items()}
        for place in (folder, *(bundle.folder for bundle in bundles.values())):
            np.savez(place / "inputs.npz", **sample)
        expected = {info: array[0] for info, array in reference.golden("outputs").items()}
        places = {**{name: bundle.folder for name, bundle in bundles.items()}, **dict.fromkeys(peers, folder)}
        return [
            Row(name, count, seconds_of[targets[0]], measure(places, expected, count, seconds)) for count in threads
        ]


def measure(
    places: Mapping[str, Path],
    expected: Mapping[str, np.ndarray],
    threads: int,
    seconds: float,
    judged: Sequence[str] | None = None,
    tolerance: Tolerance = POLICY["float32"],
    script: Path = CONTENDER,
) -> dict[str, Figures]:
    """Start all contenders, compare what they compute, and let them take turns; a peer that fails is left out.

    Only those in ``judged``, by default all, need to compute what is expected: others have other integers.
    """
    contenders: dict[str, PeerProcess] = {}
    try:
        for name, folder in places.items():
            is_ours = name.startswith("edgec")
            try:
                contender = contenders[name] = PeerProcess(name.split()[0], folder, threads, script)
                if judged is None or name in judged:
                    contender.figures.note = difference(expected, contender.outputs, tolerance, is_strict=is_ours)
                contender.run(WARM_UP_SECONDS, count=False)
            except (RuntimeError, AssertionError) as err:
                if is_ours:
                    raise
                print(f"{name} is not timed: {err}", file=sys.stderr)
                if name in contenders:
                    contenders.pop(name).close()
        end = time.perf_counter() + seconds * len(contenders)
        order = list(contenders.values())
        while time.perf_counter() < end:
            for contender in order:
                contender.run(ROUND_SECONDS)
            order.append(order.pop(0))  # nobody always follows the same one
    finally:
        for contender in contenders.values():
            contender.close()
    return {name: contender.figures for name, contender in contenders.items()}


def difference(
    expected: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray], tolerance: Tolerance, is_strict: bool
) -> str:
    """How outputs, in the model's order, miss the parity policy; empty where they hold it.

    Raises:
        AssertionError: They are wrong: beyond the policy where `is_strict`, else no more than similar.
    """
    notes = []
    for (name, array), output in zip(expected.items(), outputs, strict=True):
        parity = compare(name, array[None], output[None], tolerance)
        if not parity.passed:
            notes.append(f"{name} {parity.reason}")
        assert parity.passed or (not is_strict and parity.sqnr_db >= WRONG_DB), notes[-1]
    return "; ".join(notes)


def latency_table(rows: Sequence[Row]) -> Table:
    """Medians and spreads of the rows of one number of threads, with the ratio to the best peer."""

    def cell(figures: Figures) -> str:
        low, middle, high = figures.percentiles_ms
        return f"{middle:.3f} ({low:.3f}–{high:.3f})"

    ratios = {"best peer / edgec": Row.ratio}
    if not math.isnan(geometric_mean([row.gain() for row in rows])):
        ratios["float32 / int8"] = Row.gain
    last = {name: lambda row, of=of: f"{of(row):.2f}" for name, of in ratios.items()}
    table = _table("median ms (10 %–90 %)", rows, cell, last)
    blanks = [""] * (len(table.columns) - 1 - len(ratios))
    means = (f"{geometric_mean([of(row) for row in rows]):.2f}" for of in ratios.values())
    table.add_row("geometric mean", *blanks, *means)
    return table


def cost_table(rows: Sequence[Row]) -> Table:
    """Peak memory, and loading with the first inference, of the rows of one number of threads."""

    def cell(figures: Figures) -> str:
        return f"{figures.peak_mib:.0f} / {figures.load_ms:.1f} + {figures.first_ms:.1f}"

    title = "peak MiB / load ms + first inference ms"
    return _table(title, rows, cell, {"compile s": lambda row: f"{row.compile_s:.1f}"})


def _table(
    title: str, rows: Sequence[Row], cell: Callable[[Figures], str], last: Mapping[str, Callable[[Row], str]]
) -> Table:
    """A line per model, a column per contender, and more at the end."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    table = Table(title=f"{title}, {rows[0].threads} thread(s)")
    for column in ("model", *names, *last):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        cells = (cell(row.figures[name]) if name in row.figures else "failed" for name in names)
        table.add_row(row.model, *cells, *(of_row(row) for of_row in last.values()))
    return table


def save(path: Path, rows: Sequence[Row], skipped: Mapping[str, str]) -> None:
    """All figures with machine and versions, as JSON."""
    contenders = {name.split()[0] for row in rows for name in row.figures if not name.startswith("edgec")}
    threads = sorted({row.threads for row in rows})
    report = {
        "machine": machine(),
        "system": platform.platform(),
        "versions": {"edgec": edgec.__version__, **{name: metadata.version(name) for name in sorted(contenders)}},
        "geometric_mean": {str(n): geometric_mean([r.ratio() for r in rows if r.threads == n]) for n in threads},
        "skipped": dict(skipped),
        "rows": [
            {
                "model": row.model,
                "threads": row.threads,
                "compile_s": row.compile_s,
                "best_peer_by_edgec": row.ratio(),
                "float32_by_int8": row.gain(),
                "contenders": {name: figures.to_dict() for name, figures in row.figures.items()},
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", default="1", help="comma-separated; default: 1")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per contender, model and number of threads")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; default: all")
    parser.add_argument("--targets", default="native", help="edgec's targets, comma-separated; ratios are the first's")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; default: those installed")
    parser.add_argument("--int8", action="store_true", help="quantized models, beside edgec's float32")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    models, targets = arguments.models.split(","), arguments.targets.split(",")
    threads = [int(count) for count in arguments.threads.split(",")]
    if strangers := sorted({*models} - {*MODELS}):
        parser.error(f"no model called {', '.join(strangers)}; there are {', '.join(MODELS)}")
    if max(threads) > (cpus := len(os.sched_getaffinity(0))):
        parser.error(f"{max(threads)} threads on {cpus} CPUs would measure the scheduler")
    peers = [peer for peer in arguments.peers.split(",") if peer in PEERS and util.find_spec(peer) is not None]
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for name in models:
        try:
            if arguments.int8:
                rows += measure_quantized(name, peers, threads, arguments.seconds)
            else:
                rows += measure_model(name, targets, peers, threads, arguments.seconds)
        except (FileNotFoundError, EdgecError, AssertionError, RuntimeError) as err:
            skipped[name] = f"{type(err).__name__}: {err}"
            print(f"{name} is left out: {err}", file=sys.stderr)
            continue
        for row in rows[-len(threads) :]:
            medians = ", ".join(f"{contender} {f.median_ms:.3f} ms" for contender, f in row.figures.items())
            print(f"{name}, {row.threads} thread(s): {medians}", file=sys.stderr)
    report(rows, threads, arguments.json, skipped)
    if any(not reason.startswith("FileNotFoundError") for reason in skipped.values()):
        sys.exit(1)


def report(rows: Sequence[Row], threads: Sequence[int], path: Path | None, skipped: Mapping[str, str]) -> None:
    """Print the tables and what else is to be known; write the file where asked."""
    console = Console(width=200)
    console.print(machine(), highlight=False)
    for count in threads:
        if some := [row for row in rows if row.threads == count]:
            console.print(latency_table(some), cost_table(some))
    for row in rows[:: len(threads)]:
        for name, figures in row.figures.items():
            if figures.note:
                console.print(f"{row.model}: {name} misses the parity policy: {figures.note}", highlight=False)
    for name, reason in skipped.items():
        console.print(f"{name} is left out: {reason}", highlight=False)
    if path is not None:
        save(path, rows, skipped)


if __name__ == "__main__":
    main()
