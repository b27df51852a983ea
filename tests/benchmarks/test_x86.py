"""The x86 benchmark: its arithmetic and tables, and one quick run with the peers that are installed."""

from __future__ import annotations

import io
import json
import math
import statistics
import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from benchmarks import x86
from edgec.parity import POLICY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")


def figures(*latencies_ms: float, note: str = "") -> x86.Figures:
    return x86.Figures(load_ms=2.0, first_ms=3.0, peak_mib=40.0, note=note, latencies_ms=list(latencies_ms))


def row(model: str, ours: float, **peers: float) -> x86.Row:
    rest = {name: figures(median) for name, median in peers.items()}
    return x86.Row(model, 1, 12.5, {"edgec native": figures(ours), "edgec x86-64-v3": figures(0.1), **rest})


def text_of(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_percentiles() -> None:
    assert figures(*range(1, 102)).percentiles_ms == (11.0, 51.0, 91.0)


def test_the_ratio_is_that_of_the_best_peer_to_the_first_target() -> None:
    assert row("a", 2.0, onnxruntime=5.0, openvino=3.0).ratio() == 1.5
    assert math.isnan(row("a", 2.0).ratio())


def test_the_geometric_mean() -> None:
    assert x86.geometric_mean([1.5, 0.8, 2.25]) == pytest.approx(statistics.geometric_mean([1.5, 0.8, 2.25]))
    assert x86.geometric_mean([2.0, math.nan]) == 2.0
    assert math.isnan(x86.geometric_mean([]))


def test_the_tables() -> None:
    rows = [row("first", 1.0, onnxruntime=2.0), row("second", 1.0, onnxruntime=0.5)]
    latencies = text_of(x86.latency_table(rows))
    assert "edgec native" in latencies and "edgec x86-64-v3" in latencies
    (first,) = (line for line in latencies.splitlines() if "first" in line)
    assert "1.000 (1.000–1.000)" in first and first.split("│")[-2].strip() == "2.00"
    (mean,) = (line for line in latencies.splitlines() if "geometric mean" in line)
    assert mean.split("│")[-2].strip() == "1.00"
    assert text_of(x86.cost_table(rows)).count("40 / 2.0 + 3.0") == 6
    del rows[0].figures["onnxruntime"]
    (first,) = (line for line in text_of(x86.latency_table(rows)).splitlines() if "first" in line)
    assert "failed" in first and first.split("│")[-2].strip() == "nan"


def test_the_file(tmp_path: Path) -> None:
    rows = [row("first", 1.0, onnxruntime=2.0)] if util.find_spec("onnxruntime") else [row("first", 1.0)]
    x86.save(tmp_path / "x86.json", rows, {"second": "FileNotFoundError: no file"})
    saved = json.loads((tmp_path / "x86.json").read_text())
    (first,) = saved["rows"]
    assert first["contenders"]["edgec native"]["p50_ms"] == 1.0
    assert first["contenders"]["edgec native"]["runs"] == 1
    assert saved["skipped"] == {"second": "FileNotFoundError: no file"}
    assert saved["versions"].keys() >= {"edgec"}


def test_wrong_results_are_not_timed() -> None:
    expected = {"y": np.linspace(1, 2, 100, dtype=np.float32)}
    near, far = ([expected["y"] * np.float32(1 + error)] for error in (1e-3, 0.2))
    assert x86.difference(expected, [expected["y"]], POLICY["float32"], is_strict=True) == ""
    assert "SQNR is 60.0 dB" in x86.difference(expected, near, POLICY["float32"], is_strict=False)
    with pytest.raises(AssertionError, match="where the engine gives"):
        x86.difference(expected, near, POLICY["float32"], is_strict=True)
    with pytest.raises(AssertionError, match=r"SQNR is 14\.0 dB"):
        x86.difference(expected, far, POLICY["float32"], is_strict=False)


def test_a_peer_that_fails_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert x86.measure({"onnxruntime": tmp_path}, {}, threads=1, seconds=0.0) == {}
    assert "onnxruntime is not timed: the process ended: " in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="the process ended: "):
        x86.measure({"edgec native": tmp_path}, {}, threads=1, seconds=0.0)


def test_a_model_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(x86, "PPOCR", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no .*/ch_PP-OCRv4_det_infer.onnx \(set EDGEC_PPOCR\)"):
        x86.model_path("ppocr_det")
    assert x86.model_path("mobilenet_v2") == ("models.MobileNetV2", {})


def test_the_suite_has_the_network_for_images_of_224() -> None:
    from edgec.models import NETWORKS

    assert NETWORKS[x86.MODELS["mobilenet_v2"][0].removeprefix("models.")].input_shapes == {"image": (1, 3, 224, 224)}


@pytest.mark.parametrize("peer", x86.PEERS)
def test_a_quick_run(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    monkeypatch.setitem(x86.MODELS, "digits", ("models.DigitsCNN", {}))
    monkeypatch.setattr(x86, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(x86, "WARM_UP_SECONDS", 0.01)
    rows = x86.measure_model("digits", ["native", "x86-64-v2"], [peer], [1], seconds=0.02)
    (only,) = rows
    assert list(only.figures) == ["edgec native", "edgec x86-64-v2", peer]
    assert only.compile_s > 0
    for contender in only.figures.values():
        assert contender.latencies_ms and min(contender.latencies_ms) > 0
        assert contender.load_ms > 0 and contender.first_ms > 0
        assert 10 < contender.peak_mib < 1000
    assert 0.01 < only.ratio() < 100
