"""The report of a quantized model: figures against their definitions, the page, and the signs of wrong data."""

from __future__ import annotations

import json
import math
import re
import xml.dom.minidom
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from edgec.calibration_checks import scale_warnings
from edgec.frontend import execute
from edgec.quantization import Quantization, Settings, prepare
from edgec.quantization_report import QuantizationReport, analyse
from edgec.report_page import columns, html_page, text_table
from edgec.sources import read_model
from tests.edgec.test_quantization import samples
from tests.edgec.tiny import tiny_model


@pytest.fixture(scope="module")
def made() -> Quantization:
    return prepare(read_model(tiny_model()), samples(9), Settings()).quantize()


@pytest.fixture(scope="module")
def report(made: Quantization) -> QuantizationReport:
    return analyse(made, count=3)


def sqnr_db(exact: np.ndarray, actual: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - actual).sum()))


def test_figures_of_the_layers(made, report):
    names = [layer.name for layer in report.layers]
    assert names == ["conv", "flatten", "fc"]
    rows = [{name: array[i] for name, array in samples(9).items()} for i in range(3)]
    exact = [execute(made.simplified, row) for row in rows]
    actual = [execute(made.model, row) for row in rows]
    for output, figure in report.outputs_db.items():
        a, b = (np.stack([result[output] for result in results]) for results in (exact, actual))
        assert figure == pytest.approx(sqnr_db(a, b), abs=1e-3)
    conv, flatten, fc = report.layers
    assert conv.operator == "Conv + Relu + Add"
    assert conv.weights_sqnr_db is not None and 35 < conv.weights_sqnr_db < 60
    assert flatten.weights_sqnr_db is None and flatten.float_bytes == 0
    assert fc.accumulated_sqnr_db == pytest.approx(report.outputs_db["logits"])
    assert fc.accumulated_sqnr_db <= fc.isolated_sqnr_db + 1
    assert conv.float_bytes == 4 * (4 * 27 + 4) and conv.quantized_bytes == 4 * 27 + 8 * 4
    assert report.quantized_bytes < report.float_bytes


def test_harm_to_probabilities_and_to_numbers():
    """A model of one layer: alone, it is the quantized model."""
    rows = {"x": np.random.default_rng(3).standard_normal((8, 2, 6)).astype(np.float32)}
    weights = np.random.default_rng(4).standard_normal((6, 5)).astype(np.float32)
    for ending in ("y = Softmax(a)", "y = Identity(a)"):
        proto = parser.parse_model(f"""<ir_version: 10, opset_import: ["": 22]>
            g (float[2, 6] x) => (float[2, 5] y) {{ a = MatMul(x, w) {ending} }}""")
        proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        made = prepare(read_model(proto), rows, Settings()).quantize()
        (layer,) = analyse(made, count=8).layers
        exact, actual = (
            np.concatenate([execute(model, {"x": row})["y"].astype(np.float64) for row in rows["x"]])
            for model in (made.simplified, made.model)
        )
        if "Softmax" in ending:
            right = np.square(np.sqrt(exact) - np.sqrt(actual)).sum(-1).mean() / 2
        else:
            right = np.square(exact - actual).sum() / np.square(exact).sum()
        assert layer.harm == pytest.approx(right, rel=1e-2) and right > 0


def test_ranges_and_clipping(made, report):
    image = samples(9)["image"]
    conv = report.layers[0]
    assert (conv.seen_low, conv.seen_high) == (image.min(), image.max())
    step = made.encodings["image"].scale
    outside = np.mean((image < conv.low - step / 2) | (image > conv.high + step / 2))
    assert conv.clipped_share == pytest.approx(outside, abs=2e-3)
    assert sum(conv.histogram) == pytest.approx(1)


def test_the_layer_that_hurts_most_leads_the_ranking():
    """An outlier in one channel of the weights of a layer without scales per channel."""
    proto = tiny_model()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight")
    array = np.frombuffer(weight.raw_data, np.float32).copy()
    array[0] = 60.0
    weight.raw_data = array.tobytes()
    made = prepare(read_model(proto), samples(9), Settings(is_per_channel=False)).quantize()
    report = analyse(made)
    assert report.ranking[0].name == "fc"
    assert report.ranking[0].sensitivity_db < report.ranking[-1].sensitivity_db - 10


def test_the_page_needs_nothing_else_and_its_pictures_are_sound(report):
    page = html_page(report)
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", page)
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        xml.dom.minidom.parseString(picture)
    assert all(f"<td>{layer.name}</td>" in page for layer in report.layers)
    assert "nan" not in page


def test_names_are_escaped(report):
    nasty = replace(report, layers=(replace(report.layers[0], name='<b>"&'),), model="<i>")
    page = html_page(nasty)
    assert "<b>" not in page and "<i>" not in page


def test_times_join_later(report):
    assert "ms" not in columns(report)
    timed = report.with_times({"conv": 2.0}, {"conv": 0.5})
    assert columns(timed)[-1] == "ms"
    assert next(row for row in text_table(timed) if row[0] == "conv")[-1] == "2.000 → 0.500"


def test_json_has_no_infinities(report):
    text = json.dumps(replace(report, outputs_db={"y": math.inf}).to_dict(), allow_nan=False)
    assert json.loads(text)["outputs_db"] == {"y": None}
    assert json.loads(text)["ranking"][0] == report.ranking[0].name


def test_command_line_writes_it(run_edgec, tiny_onnx, tmp_path):
    np.savez(tmp_path / "data.npz", **samples(6))
    command = ("quantize", tiny_onnx, "--calibration", tmp_path / "data.npz", "-o", tmp_path / "q.onnx", "--report")
    result = run_edgec(*command, tmp_path / "r.html")
    assert result.code == 0 and "sensitivity dB" in result.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert run_edgec(*command, tmp_path / "r.json").code == 0
    assert len(json.loads((tmp_path / "r.json").read_text())["layers"]) == 3
    result = run_edgec(*command, tmp_path / "none" / "r.html")
    assert result.code == 1 and "no such folder" in result.stderr


NORMALIZED = """<ir_version: 10, opset_import: ["": 22]>
g (float[1, 3, 6, 6] x) => (float[1, 2, 6, 6] y) {
    c = Conv(x, w)
    n = BatchNormalization(c, scale, bias, mean, variance)
    y = LeakyRelu(n)
}"""
CLIPPED = """<ir_version: 10, opset_import: ["": 22]>
g (float[1, 3, 6, 6] x) => (float[1, 2, 6, 6] y) { c = Conv(x, w, bias) y = Clip(c, low, high) }"""


def model_of(text: str) -> ir.Model:
    import onnx

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2, 3, 1, 1)).astype(np.float32)
    arrays = {
        "w": weight, "scale": np.ones(2), "bias": np.ones(2), "low": np.float32(0), "high": np.float32(6),
        "mean": np.zeros(2), "variance": np.square(weight).sum(axis=(1, 2, 3)),
    }  # fmt: skip
    proto = onnx.parser.parse_model(text)
    for name, array in arrays.items():
        if f"{name}," in text or f"{name})" in text:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
    return read_model(proto)


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        (NORMALIZED, 1.0, None),
        (NORMALIZED, 2.0, None),
        (NORMALIZED, 255.0, "before .* values are 2.*e.02 times what they were in training"),
        (NORMALIZED, 1 / 255, "before .* values are 0.00.* times what they were"),
        (CLIPPED, 1.0, None),
        (CLIPPED, 255.0, "of what .* lets through lies at its upper bound 6"),
        (CLIPPED, 1e-4, "nearly the same outputs for all samples"),
    ],
)
def test_wrongly_scaled_data(text, scale, message):
    rng = np.random.default_rng(1)
    rows = [{"x": (scale * rng.standard_normal((1, 3, 6, 6))).astype(np.float32)} for _ in range(4)]
    found = scale_warnings(model_of(text), rows)
    assert bool(found) == bool(message)
    if message:
        assert re.search(message, found[0]) and "preprocessed" in found[0]


def test_real_data_raise_no_warning(data_dir: Path, real_model):
    with np.load(data_dir / "datasets" / "cifar10_test2000.npz") as file:
        images = file["images"][:4].transpose(0, 3, 1, 2).astype(np.float32)
    assert not scale_warnings(real_model("mlperf_tiny_resnet8"), [{"input_1": image[None]} for image in images])
