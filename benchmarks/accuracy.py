"""What quantization costs in accuracy: edgec beside ONNX Runtime's and NNCF's, on the same data.

    python benchmarks/accuracy.py [--tasks resnet8,keywords] [--contenders float,edgec,onnxruntime] [--json FILE]
    python benchmarks/accuracy.py --options '{"method": "minmax"}'       # of edgec.quantize

Every contender quantizes the same float model with the same calibration samples, at most 200, none of them among the
test samples; ONNX Runtime judges all of the results, on one thread. Weights have a scale per output channel. The
float row is the model as it is. NNCF takes part where it is installed. edgec-auto is `quantize="auto"` of
edgec.compile, which decides by the calibration samples what stays in float; the last column says what it decided.

Data come from the folder EDGEC_DATA (default: ../shared/data beside the repository): efficientnet_lite0 and resnet8
with imagenet200, coco40, cifar10_test2000 and the CIFAR-10 training batches; PP-OCRv4 from EDGEC_PPOCR (default: its
subfolder ppocr). The keyword network is the one that `edgec train ds-cnn` writes: name it with --keywords.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from text_lines import LINE_SHAPE, decode, render_crops

import edgec
from edgec.sources import read_model

DATA = Path(os.environ.get("EDGEC_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
PPOCR = Path(os.environ.get("EDGEC_PPOCR") or DATA / "ppocr")
CONTENDERS = ("float", "edgec", "edgec-auto", "onnxruntime", "nncf")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """A float model with one input, and how its quantized form is judged.

    Attributes:
        model: At a fixed batch of one.
        calibration: float32 (samples, *input shape).
        tests: The same of samples that calibration does not see.
        judge: Of the outputs of the float model and of another one over all tests: the share that is right, in percent.
        largest_drop: The most that may be lost, in points.
        needs_labels: Whether `judge` is for the tests alone.
    """

    model: ir.Model
    calibration: Array
    tests: Array
    judge: Callable[[list[Array], list[Array]], float]
    largest_drop: float
    needs_labels: bool = True


@dataclass(frozen=True)
class Row:
    """One contender on one task.

    Attributes:
        score: In percent.
        drop: Points below the float model.
        sqnr_db: Of the first output over all tests, against the float model.
        agreement: Share of the tests with the same largest output, in percent.
        seconds: That quantizing took.
        settings: Other than the defaults, and what was decided by measuring.
    """

    task: str
    contender: str
    score: float
    drop: float
    is_within: bool
    sqnr_db: float
    agreement: float
    seconds: float
    settings: str


def right_class(labels: NDArray[np.integer[Any]]) -> Callable[[list[Array], list[Array]], float]:
    def judge(_: list[Array], outputs: list[Array]) -> float:
        return 100 * float(np.mean(np.concatenate(outputs).argmax(-1) == labels))

    return judge


def efficientnet_lite0() -> Task:
    rows = [line.split(None, 2) for line in (DATA / "datasets/imagenet200/labels.txt").read_text().splitlines()]
    tests = np.stack([_photo(DATA / "datasets/imagenet200" / row[0]) for row in rows])
    calibration = np.stack([_photo(path) for path in sorted((DATA / "datasets/coco40").glob("**/*.jpg"))])
    judge = right_class(np.array([int(row[1]) for row in rows]))
    return Task(read_model(DATA / "models/efficientnet_lite0.onnx"), calibration, tests, judge, 1.0)


def _photo(path: Path) -> Array:
    """As the model's authors prepare it: the middle of the short side, bicubic to 224, (rgb - 127) / 128."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    crop = min(image.size) * 224 // 256
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    image = image.crop((left, top, left + crop, top + crop)).resize((224, 224), Image.Resampling.BICUBIC)
    return ((np.asarray(image, np.float32) - 127) / 128).transpose(2, 0, 1)[None]


def resnet8() -> Task:
    from edgec.models.data.cifar10 import load_cifar10

    training, _ = load_cifar10(DATA)
    chosen = np.random.default_rng(0).permutation(len(training.pixels))[:200]
    with np.load(DATA / "datasets/cifar10_test2000.npz") as file:
        images, labels = file["images"], file["labels"]
    tests = images.transpose(0, 3, 1, 2).astype(np.float32)[:, None]
    calibration = training.pixels[chosen].astype(np.float32)[:, None]
    return Task(read_model(DATA / "models/mlperf_tiny_resnet8.onnx"), calibration, tests, right_class(labels), 0.7)


def keywords(checkpoint: Path) -> Task:
    from edgec.models.data.keywords import load_keywords

    training, test = load_keywords(DATA)
    chosen = np.random.default_rng(0).permutation(len(training))[:200]
    calibration, tests = training.features[chosen][:, None], test.features[:, None]
    return Task(read_model(checkpoint), calibration, tests, right_class(test.labels), 0.7)


def ppocr_rec() -> Task:
    """The share of lines that are read as the float model reads them."""
    import onnx

    path = PPOCR / "ch_PP-OCRv4_rec_infer.onnx"
    (listed,) = [p.value for p in onnx.load(str(path)).metadata_props if p.key == "character"]
    characters = ["", *listed.splitlines(), " "]

    def judge(expected: list[Array], outputs: list[Array]) -> float:
        pairs = zip(expected, outputs, strict=True)
        return 100 * float(np.mean([decode(a[0], characters) == decode(b[0], characters) for a, b in pairs]))

    model = read_model(path, {"x": LINE_SHAPE})
    return Task(model, render_crops(200, seed=1), render_crops(300, seed=2), judge, 3.0, needs_labels=False)


def by_edgec(task: Task, options: Mapping[str, Any]) -> bytes:
    name = str(task.model.graph.inputs[0].name)
    return _bytes(edgec.quantize(task.model, {name: task.calibration}, **options))


def by_edgec_auto(task: Task, max_drop: float) -> tuple[bytes, str]:
    """The model in the bundle, and what was decided: judged by the calibration samples, on this machine."""
    (name,) = (str(value.name) for value in task.model.graph.inputs)
    (output,) = (str(value.name) for value in task.model.graph.outputs)
    expected = run(_bytes(task.model), task.calibration)

    def metric(outputs: Mapping[str, NDArray[np.generic]], _: Mapping[str, NDArray[np.generic]]) -> float:
        return task.judge(expected, list(outputs[output].astype(np.float32)))

    bundle = edgec.compile(
        task.model, quantize="auto", calibration={name: task.calibration}, max_drop=max_drop,
        metric=None if task.needs_labels else metric,
    )  # fmt: skip
    decided = bundle.manifest["quantization"]
    assert isinstance(decided, dict)
    verdict = f"max_drop {max_drop:g}: {decided['verdict']}; {json.dumps(decided['options'])}"
    return (bundle.folder / "graph" / "model.onnx").read_bytes(), verdict


def by_onnxruntime(task: Task) -> bytes:
    """With what its documentation recommends for CNNs: QDQ, a scale per channel, after its own clean-up."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = str(task.model.graph.inputs[0].name)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._samples = iter(task.calibration)

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self._samples, None)
            return None if sample is None else {name: sample}

    with tempfile.TemporaryDirectory() as folder:
        given, cleaned, made = (str(Path(folder) / f"{stage}.onnx") for stage in ("given", "cleaned", "made"))
        ir.save(task.model, given)
        quant_pre_process(given, cleaned)
        quantize_static(
            cleaned, made, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return Path(made).read_bytes()


def by_nncf(task: Task) -> bytes:
    """As it is out of the box; its quantized ONNX model."""
    import nncf

    name = str(task.model.graph.inputs[0].name)
    data = nncf.Dataset(list(task.calibration), lambda sample: {name: sample})
    made = nncf.quantize(ir.to_proto(task.model), data, subset_size=len(task.calibration))
    return bytes(made.SerializeToString())


def _bytes(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString())


def run(model: bytes, samples: Array) -> list[Array]:
    """The first output of each sample."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: sample})[0] for sample in samples]


def measure(name: str, task: Task, contenders: Sequence[str], options: Mapping[str, Any], max_drop: float) -> list[Row]:
    expected = run(_bytes(task.model), task.tests)
    score = task.judge(expected, expected)
    makers: dict[str, Callable[[], tuple[bytes, str]]] = {
        "float": lambda: (_bytes(task.model), ""),
        "edgec": lambda: (by_edgec(task, options), json.dumps(options) if options else ""),
        "edgec-auto": lambda: by_edgec_auto(task, max_drop),
        "onnxruntime": lambda: (by_onnxruntime(task), ""),
        "nncf": lambda: (by_nncf(task), ""),
    }
    rows = []
    for contender in contenders:
        start = time.perf_counter()
        try:
            made, settings = makers[contender]()
            seconds = time.perf_counter() - start
            outputs = run(made, task.tests)
        except Exception as err:  # a peer's defect, of whatever type; the others go on
            if contender in ("float", "edgec", "edgec-auto"):
                raise
            print(f"{name}: {contender} failed: {str(err).splitlines()[0]}", file=sys.stderr)
            continue
        a, b = np.concatenate(expected).astype(np.float64), np.concatenate(outputs).astype(np.float64)
        noise = float(np.square(a - b).sum())
        sqnr = float(10 * np.log10(np.square(a).sum() / noise)) if noise else np.inf
        reached = task.judge(expected, outputs)
        same = 100 * float(np.mean(a.argmax(-1) == b.argmax(-1)))
        drop = score - reached
        rows.append(Row(name, contender, reached, drop, drop <= task.largest_drop, sqnr, same, seconds, settings))
    return rows


def table_of(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "contender", "score %", "drop", "", "SQNR dB", "same answer %", "s", "settings"):
        is_text = column in ("task", "contender", "", "settings")
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        verdict = "" if row.contender == "float" else "ok" if row.is_within else "too much"
        table.add_row(
            row.task, row.contender, f"{row.score:.2f}", f"{row.drop:.2f}", verdict,
            f"{row.sqnr_db:.1f}", f"{row.agreement:.1f}", f"{row.seconds:.1f}", row.settings,
        )  # fmt: skip
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="efficientnet_lite0,resnet8,keywords,ppocr_rec")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--keywords", type=Path, default=Path("ds-cnn.safetensors"), help="Checkpoint of ds-cnn.")
    parser.add_argument("--options", type=json.loads, default={}, help="Of edgec.quantize, as JSON.")
    parser.add_argument("--max-drop", type=float, default=1.0, help="Of edgec-auto, on calibration samples.")
    parser.add_argument("--json", type=Path, help="File for the figures.")
    given = parser.parse_args(arguments)
    tasks: dict[str, Callable[[], Task]] = {
        "efficientnet_lite0": efficientnet_lite0,
        "resnet8": resnet8,
        "keywords": lambda: keywords(given.keywords),
        "ppocr_rec": ppocr_rec,
    }
    names, contenders = given.tasks.split(","), given.contenders.split(",")
    if unknown := [name for name in names if name not in tasks] or [c for c in contenders if c not in CONTENDERS]:
        parser.error(f"no such task or contender: {', '.join(unknown)}")
    contenders = [c for c in contenders if c == "float" or util.find_spec(c.removesuffix("-auto")) is not None]
    rows: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        rows += measure(name, tasks[name](), contenders, given.options, given.max_drop)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table_of(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    ours = [row for row in rows if row.contender.startswith("edgec")]
    return 0 if {row.task for row in ours} == {row.task for row in ours if row.is_within} else 1


if __name__ == "__main__":
    sys.exit(main())
