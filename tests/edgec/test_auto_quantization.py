"""Quantization that measures: what stays in float, and why; the score; the command line."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import ne
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

import edgec
from edgec.accuracy import agreement
from edgec.auto_quantization import quantize_auto
from edgec.auto_report import Aim, AutoQuantization
from edgec.bundle import TensorInfo
from edgec.errors import EdgecError, UsageError
from edgec.frontend import execute
from edgec.layer_times import TargetTimer, Timer
from edgec.quantization import input_infos
from edgec.report_page import html_page
from edgec.sources import read_model
from tests.edgec.test_quantization import samples
from tests.edgec.tiny import tiny_model

CHAIN = """<ir_version: 10, opset_import: ["": 22]>
g (float[1, 16] x) => (float[1, 16] y) {
    a = MatMul(x, first)
    b = Relu(a)
    c = Mul(b, apart)
    d = MatMul(c, together)
    e = Relu(d)
    y = MatMul(e, last)
}"""


def chain() -> ir.Model:
    """Three products; the second one's inputs have channels of very different sizes, which it makes equal again."""
    rng = np.random.default_rng(4)
    sizes = np.where(np.arange(16) % 4 == 0, 1.0, 1e-4)
    arrays = {
        "first": rng.standard_normal((16, 16)),
        "apart": sizes,
        "together": rng.standard_normal((16, 16)) / sizes[:, None],
        "last": rng.standard_normal((16, 16)),
    }
    proto = parser.parse_model(CHAIN)
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return read_model(proto)


def chain_samples(count: int = 40, seed: int = 5) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 1, 16)).astype(np.float32)}


@dataclass
class FakeBundle:
    """A model that the engine runs in place of an artifact."""

    model: ir.Model

    @property
    def inputs(self) -> list[TensorInfo]:
        return input_infos(self.model)

    @property
    def outputs(self) -> list[TensorInfo]:
        return [TensorInfo(str(v.name), tuple(v.shape.numpy()), "float32") for v in self.model.graph.outputs]

    def run(self, rows: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        names = [info.name for info in self.inputs]
        return [list(execute(self.model, dict(zip(names, row, strict=True))).values()) for row in rows]


@pytest.fixture
def in_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.accuracy.open_runner", lambda bundle, _device: nullcontext(bundle))


@dataclass
class FakeTimer:
    """Says what a test wants of layers in float and in integers, by the names of their values; wholes are sums.

    Attributes:
        border_ms: What a whole takes more for every change between float and integers.
    """

    floats_ms: Mapping[str, float]
    integers_ms: Mapping[str, float]
    border_ms: float = 0.0
    description: str = "a fake"

    def latencies_ms(self, bundles: Sequence[FakeBundle]) -> list[float]:
        wholes = []
        for bundle in bundles:
            kinds = [_is_integer(node) for node in bundle.model.graph if node.op_type == "MatMul"]
            wholes.append(sum(self.layers_ms(bundle).values()) + self.border_ms * sum(map(ne, kinds, kinds[1:])))
        return wholes

    def layers_ms(self, bundle: FakeBundle) -> dict[str, float]:
        nodes = {str(node.outputs[0].name): node for node in bundle.model.graph}
        return {n: (self.integers_ms if _is_integer(nodes[n]) else self.floats_ms)[n] for n in self.floats_ms}


def _is_integer(node: ir.Node) -> bool:
    producer = node.inputs[1].producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


SLOW = {"a": 2.0, "d": 2.0, "y": 2.0}
FAST = {"a": 1.0, "d": 1.0, "y": 1.0}
ANY = Aim(100.0, lambda _outputs, _inputs: 50.0)


def decide(timer: Timer | str, aim: Aim, calibration: object = None) -> AutoQuantization:
    data = chain_samples() if calibration is None else calibration
    build = lambda model, _target: FakeBundle(model)  # noqa: E731
    return quantize_auto(chain(), data, aim, target="native", build=build, timer=timer)


def precisions(made: AutoQuantization) -> dict[str, str]:
    nodes = {str(node.name): str(node.outputs[0].name) for node in chain().graph}
    return {nodes[decision.layer]: decision.precision for decision in made.report.decisions}


def closeness(outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> float:
    """In percent: how little of the power of the float model's outputs is missed."""
    arrays = {value.name: value.const_value.numpy() for value in chain().graph.initializers.values()}
    hidden = np.maximum(inputs["x"] @ arrays["first"], 0) * arrays["apart"]
    exact = np.maximum(hidden @ arrays["together"], 0) @ arrays["last"]
    return float(100 * (1 - np.square(outputs["y"] - exact).sum() / np.square(exact).sum()))


@pytest.mark.usefixtures("in_engine")
def test_a_sensitive_layer_stays_in_float():
    made = decide(FakeTimer(SLOW, FAST), Aim(0.5, closeness))
    report = made.report
    assert report.is_quantized and report.float_score - 0.5 <= report.score <= report.float_score
    assert report.full_score < report.float_score - 0.5
    assert precisions(made)["d"] == "float32"
    assert list(precisions(made)) == ["a", "d", "y"] and "int8" in precisions(made).values()
    reason = next(decision.reason for decision in report.decisions if decision.precision == "float32")
    assert re.match(r"costs \d+\.\d\d points", reason)
    integer = {str(n.outputs[0].name): _is_integer(n) for n in made.model.graph if n.op_type == "MatMul"}
    assert integer == {name: precision == "int8" for name, precision in precisions(made).items()}
    assert (report.float_ms, report.int8_ms) == (6.0, 3.0 + list(integer.values()).count(False))


@pytest.mark.usefixtures("in_engine")
@pytest.mark.parametrize(("saved_ms", "tried"), [(0.0, [0, 1]), (500.0, [0, 1, 2])])
def test_what_saves_no_time_goes_back_to_float_first(saved_ms: float, tried: list[int]):
    """One layer does all the harm; if integers save much there, one in which they save nothing is tried before it."""
    timer = FakeTimer({"a": 1.0, "d": 1.0 + saved_ms, "y": 3.0}, FAST)
    made = decide(timer, Aim(0.1, closeness))
    assert [count for count, _ in made.report.tried] == tried
    assert precisions(made) == {"a": "int8", "d": "float32", "y": "int8"} and made.report.score > 99.9


@pytest.mark.usefixtures("in_engine")
def test_a_layer_that_is_slower_in_integers_stays_in_float_if_that_pays():
    made = decide(FakeTimer(SLOW, {**FAST, "y": 2.5}), ANY)
    assert precisions(made) == {"a": "int8", "d": "int8", "y": "float32"}
    assert made.report.decisions[2].reason == "2.5 ms in int8, 2 in float"
    assert re.match(r"2 -> 1 ms, \d+ dB$", made.report.decisions[0].reason)
    dearer = decide(FakeTimer(SLOW, {**FAST, "y": 2.5}, border_ms=0.6), ANY)
    assert set(precisions(dearer).values()) == {"int8"}
    assert dearer.report.decisions[2].reason.endswith("; the whole is no faster with it in float")


@pytest.mark.usefixtures("in_engine")
def test_what_is_not_faster_as_a_whole_stays_in_float():
    made = decide(FakeTimer(FAST, SLOW), ANY)
    assert not made.report.is_quantized
    assert not any(node.op_type == "QuantizeLinear" for node in made.model.graph)
    assert set(precisions(made).values()) == {"float32"}
    assert re.search(r"the whole model is not faster in int8 \(\d ms, 3 in float\)", made.report.verdict)
    assert made.report.score == made.report.float_score


@pytest.mark.usefixtures("in_engine")
def test_what_cannot_be_accurate_stays_in_float():
    calls = iter(range(1000))
    made = decide(FakeTimer(SLOW, FAST), Aim(1.0, lambda _outputs, _inputs: 90.0 - 5 * (next(calls) > 0)))
    assert not made.report.is_quantized and made.report.full_score == 85.0
    assert "int8 costs 5.00 points" in made.report.verdict
    counts = [count for count, _ in made.report.tried]
    assert counts == sorted({0, 1, 2, counts[-1]}) and all(drop == 5 for _, drop in made.report.tried)


@pytest.mark.usefixtures("in_engine")
def test_without_a_device_only_accuracy_decides():
    made = decide("not measured: no board", ANY)
    assert set(precisions(made).values()) == {"int8"}
    assert made.report.device == "not measured: no board"
    assert (made.report.float_ms, made.report.int8_ms) == (None, None)
    assert re.match(r"\d+ dB$", made.report.decisions[0].reason)


@pytest.mark.usefixtures("in_engine")
def test_the_metric_gets_the_evaluation_samples():
    given = chain_samples(7, seed=9)
    seen = []

    def metric(outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> float:
        np.testing.assert_array_equal(inputs["x"], given["x"])
        seen.append(outputs["y"].shape)
        return 50.0

    made = decide(FakeTimer(SLOW, FAST), Aim(0.5, metric, given))
    assert made.report.samples == 7 and made.report.metric == "metric"
    assert set(seen) == {(7, 1, 16)}


@pytest.mark.usefixtures("in_engine")
@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda _o, _i: float("nan"), "the metric returned nan"),
        (lambda _o, _i: 1 / 0, "the metric failed: division by zero"),
        ("no_such_module:metric", "cannot load the metric"),
        ("math:pi", "the metric 'math:pi' is a float"),
    ],
)
def test_metrics_that_are_none(metric, message):
    with pytest.raises(EdgecError, match=message):
        decide(FakeTimer(SLOW, FAST), Aim(0.5, metric))


@pytest.mark.usefixtures("in_engine")
def test_the_report_says_it():
    made = decide(FakeTimer(SLOW, {**FAST, "y": 2.5}), ANY)
    page = html_page(made.analysis)
    assert "<th>decision</th>" in page and "<th>ms</th>" in page
    assert "<td>float32: 2.5 ms in int8, 2 in float</td>" in page
    assert "<td>2.000 → 2.500</td>" in page and made.report.verdict in html.unescape(page)
    plain = json.loads(json.dumps(made.analysis.to_dict(), allow_nan=False))
    assert plain["verdict"] == made.report.verdict
    assert json.loads(json.dumps(made.report.to_dict(), allow_nan=False))["decisions"][2]["precision"] == "float32"


def test_agreement():
    logits = np.array([[[1.0, 2.0, 0.0]], [[3.0, 2.0, 0.0]], [[0.0, 2.0, 1.0]], [[0.0, 1.0, 2.0]]])
    other = logits.copy()
    other[0] = [[2.0, 1.0, 0.0]]
    assert agreement(logits, 5 * logits) == 100
    assert agreement(logits, other) == 75
    rows = np.eye(4)[None, None, [0, 1, 2, 3]] * 0.8 + 0.05  # one sample: a sequence of four
    turned = rows.copy()
    turned[0, 0, 0] = rows[0, 0, 1]
    assert agreement(rows, turned) == 75
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    assert agreement(image, 0.9 * image) == pytest.approx(99)
    assert agreement(image, -image) == 0
    assert agreement(np.arange(4), np.array([0, 1, 2, 9])) == 75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int8", "max_drop": 1.0}, "'max drop' is for deciding"),
        ({"metric": "a:b"}, "'metric' is for deciding"),
        ({"quantize": "int8", "evaluation": {}}, "'evaluation' is for deciding"),
        ({"device": "local"}, "'device' is for deciding"),
        ({"quantize": "auto"}, "deciding what to quantize needs samples"),
        ({"quantize": "auto", "calibration": "x.npz", "max_drop": -1.0}, "a drop of -1 points cannot be allowed"),
        ({"quantize": "auto", "calibration": "x.npz", "device": "qemu"}, "times cannot be measured with device qemu"),
        ({"quantize": "int4"}, "cannot quantize to int4"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(UsageError, match=message):
        edgec.compile(tiny_model(), **options)


@pytest.mark.usefixtures("scratch")
def test_the_command_line(run_edgec, tiny_onnx: Path, tmp_path: Path):
    np.savez(tmp_path / "data.npz", **samples(6))
    output = tmp_path / "q.edgec"
    command = ("compile", tiny_onnx, "--target", "native", "--calibration", tmp_path / "data.npz", "-o", output)
    result = run_edgec(*command, "--quantize", "auto", "--max-drop", 60, "--json")
    assert result.code == 0
    described = json.loads(result.stdout)["quantization"]
    assert described["float_ms"] > 0 and described["int8_ms"] > 0 and described["samples"] == 6
    assert {decision["layer"] for decision in described["decisions"]} == {"conv", "fc"}
    assert all(decision["float_ms"] > 0 and decision["int8_ms"] > 0 for decision in described["decisions"])
    assert described["verdict"] in result.stderr and "conv: " in result.stderr
    bundle = edgec.load(output)
    assert bundle.manifest["quantization"] == described
    assert bundle.precision == ("int8" if described["is_quantized"] else "float32")
    assert (bundle.folder / "reports" / "quantization.html").read_text().startswith("<!DOCTYPE html>")
    result = run_edgec(*command, "--quantize", "int8", "--max-drop", 1)
    assert result.code == 2 and "'max drop' is for deciding" in result.stderr


def test_a_timer_takes_turns_and_knows_the_layers(native: Path):
    bundle = edgec.load(native)
    timer = TargetTimer("local")
    one, other = timer.latencies_ms([bundle, bundle])
    assert 0 < one < 10 * other and timer.description == "this machine"
    layers = timer.layers_ms(bundle)
    assert set(layers) == {"c", "logits"} and all(time > 0 for time in layers.values())
