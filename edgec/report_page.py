"""A quantization report as one HTML page with pictures in it, and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgec.quantization_report import LayerReport, QuantizationReport

__all__ = ["columns", "html_page", "text_table"]

_COLUMNS = (
    "layer", "operators", "weights dB", "accumulated dB", "alone dB", "sensitivity dB", "range", "clipped", "KiB",
)  # fmt: skip
_STYLE = """
:root { --ink: #1f2733; --faint: #8a94a3; --line: #d9dee5; --bar: #4878a8; --bad: #b5483a; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dde3ea; --faint: #8a94a3; --line: #39424e; --bar: #7aa7d4; --bad: #e08272; --paper: #171c23; }
}
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2em auto;
       max-width: 78em; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .2em .7em; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--line); } td { border-bottom: 1px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; max-width: 24em; overflow: hidden; text-overflow: ellipsis; }
text { fill: var(--ink); font-size: 11px; } .faint { fill: var(--faint); color: var(--faint); }
.bar { fill: var(--bar); } .bad { fill: var(--bad); } .rule { stroke: var(--line); } .edge { stroke: var(--bad); }
.curve { fill: none; stroke: var(--bar); stroke-width: 1.5; } .curve.alone { stroke: var(--faint); }
"""
_LOW_DB = 20.0
"""Below it a layer's error is a tenth of its values."""


def text_table(report: QuantizationReport, most: int | None = None) -> list[tuple[str, ...]]:
    """Rows of `columns` as text, the most sensitive layers first."""
    rows = []
    titles = columns(report)
    for layer in report.ranking[:most]:
        more: list[str] = []
        if "ms" in titles:
            is_timed = layer.float_ms is not None and layer.quantized_ms is not None
            more.append(f"{layer.float_ms:.3f} → {layer.quantized_ms:.3f}" if is_timed else "–")
        if "decision" in titles:
            more.append(layer.decision or "–")
        rows.append((
            layer.name, layer.operator, _decibel(layer.weights_sqnr_db), _decibel(layer.accumulated_sqnr_db),
            _decibel(layer.isolated_sqnr_db), _decibel(layer.sensitivity_db), f"{layer.low:.3g} … {layer.high:.3g}",
            f"{layer.clipped_share:.3%}",
            f"{layer.float_bytes / 1024:.1f} → {layer.quantized_bytes / 1024:.1f}", *more,
        ))  # fmt: skip
    return rows


def columns(report: QuantizationReport) -> tuple[str, ...]:
    """The titles of `text_table`: times and decisions where there are any."""
    times = ("ms",) if any(layer.quantized_ms is not None for layer in report.layers) else ()
    decisions = ("decision",) if any(layer.decision is not None for layer in report.layers) else ()
    return (*_COLUMNS, *times, *decisions)


def html_page(report: QuantizationReport) -> str:
    """The page; it needs nothing beside itself."""
    title = f"Quantization of {escape(report.model)}"
    smaller = report.quantized_bytes / max(report.float_bytes, 1)
    outputs = ", ".join(f"{escape(name)} {_decibel(value)} dB" for name, value in report.outputs_db.items())
    kept = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in report.kept_float.items())
    heads = "".join(f"<th>{escape(name)}</th>" for name in columns(report))
    rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in text_table(report))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
{f"<p>{escape(report.verdict)}.</p>" if report.verdict else ""}
<p>Signal to error at the outputs: {outputs}. Constants {report.float_bytes / 1e6:.2f} MB → \
{report.quantized_bytes / 1e6:.2f} MB ({smaller:.2f}×). Ranges from {report.samples} samples, errors from \
{report.analysed}.</p>
<h2>What hurts</h2>
<p class="faint">Signal to error at the outputs where one layer alone is quantized; the least first.</p>
{_bars(report.ranking[:40])}
<h2>How the error grows</h2>
<p class="faint">Signal to error of each layer's output, in the graph's order: with all layers before it quantized, and
(grey) with it alone.</p>
{_curves(report.layers)}
<h2>Ranges</h2>
<p class="faint">Values of each layer's input in the calibration data (logarithmic counts), and the ends of the range of
its integers.</p>
{_ranges(report.layers)}
<h2>Layers</h2>
<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
{f"<h2>In float</h2><ul>{kept}</ul>" if kept else ""}
</body></html>
"""


def _decibel(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if math.isfinite(value) else "exact" if value > 0 else "none"


def _bounded(value: float) -> float:
    return min(max(value, 0.0), 80.0)


def _bars(layers: Sequence[LayerReport]) -> str:
    parts = []
    for index, layer in enumerate(layers):
        y, width = 18 * index, 6 * _bounded(layer.sensitivity_db)
        look = "bad" if layer.sensitivity_db < _LOW_DB else "bar"
        parts.append(
            f'<text x="290" y="{y + 12}" text-anchor="end">{escape(layer.name[-44:])}</text>'
            f'<rect class="{look}" x="300" y="{y + 2}" width="{width:.1f}" height="13"/>'
            f'<text x="{306 + width:.1f}" y="{y + 12}">{_decibel(layer.sensitivity_db)} dB</text>'
        )
    return _picture(860, 18 * len(layers) + 4, parts)


def _curves(layers: Sequence[LayerReport]) -> str:
    step = 800 / max(len(layers) - 1, 1)
    parts = []
    for level in range(0, 81, 20):
        y = 170 - 2 * level
        parts.append(
            f'<line class="rule" x1="40" x2="840" y1="{y}" y2="{y}"/><text x="4" y="{y + 4}">{level} dB</text>'
        )
    for look, values in (
        ("curve alone", [layer.isolated_sqnr_db for layer in layers]),
        ("curve", [layer.accumulated_sqnr_db for layer in layers]),
    ):
        points = " ".join(f"{40 + i * step:.1f},{170 - 2 * _bounded(value):.1f}" for i, value in enumerate(values))
        parts.append(f'<polyline class="{look}" points="{points}"/>')
    return _picture(860, 180, parts)


def _ranges(layers: Sequence[LayerReport]) -> str:
    """Small pictures side by side, four in a row."""
    parts = []
    for index, layer in enumerate(layers):
        left, top = 215 * (index % 4), 74 * (index // 4)
        parts.append(f'<text x="{left}" y="{top + 11}">{escape(layer.name[-30:])}</text>')
        width = 200 / max(len(layer.histogram), 1)
        for place, share in enumerate(layer.histogram):
            height = 44 * max(0.0, 1 + math.log10(share) / 7) if share > 0 else 0.0
            parts.append(
                f'<rect class="bar" x="{left + place * width:.1f}" y="{top + 60 - height:.1f}" '
                f'width="{width:.1f}" height="{height:.1f}"/>'
            )
        span = layer.seen_high - layer.seen_low
        for end in (layer.low, layer.high) if span > 0 else ():
            x = left + 200 * min(max((end - layer.seen_low) / span, 0.0), 1.0)
            parts.append(f'<line class="edge" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 16}" y2="{top + 60}"/>')
    return _picture(860, 74 * -(-len(layers) // 4), parts)


def _picture(width: int, height: int, parts: Sequence[str]) -> str:
    drawn = "".join(parts)
    return (
        f'<div class="scroll"><svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{drawn}</svg></div>'
    )
