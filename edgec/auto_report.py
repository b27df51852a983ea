"""What is asked of quantization that measures, and what it decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgec.errors import UsageError
from edgec.quantization_report import QuantizationReport

if TYPE_CHECKING:
    from edgec.accuracy import Metric
    from edgec.samples import SampleSource

__all__ = ["Aim", "AutoQuantization", "AutoReport", "Decision", "aim_of"]


@dataclass(frozen=True)
class Aim:
    """What the user wants.

    Attributes:
        max_drop: The most that the score may fall below that of the float model, in points of percent.
        metric: The score; None for agreement with the float model (`edgec.accuracy.agreement`).
        evaluation: Samples to judge by; None for those of the calibration.
        device: Where times are measured; None for this machine where the target's CPU is of its kind.

    Raises:
        UsageError: The drop is no number of points, or times on the device say nothing about the target.
    """

    max_drop: float = 0.5
    metric: str | Metric | None = None
    evaluation: SampleSource | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"a drop of {self.max_drop:g} points cannot be allowed", fix="give 0 to 100, say 0.5")
        if self.device in ("qemu", "inprocess"):
            raise UsageError(
                f"times cannot be measured with device {self.device}",
                fix="measure on the target with --device local or ssh://[user@]host",
            )


@dataclass(frozen=True)
class Decision:
    """What became of one layer, and why.

    Attributes:
        layer: Name of the convolution or product, or of what lies between such and stays in float for its own sake.
        precision: ``int8`` or ``float32``.
        reason: With the figures that were measured.
        float_ms: Measured time with the whole model in float; None where it is not known.
        int8_ms: The same in integers.
    """

    layer: str
    precision: str
    reason: str
    float_ms: float | None = None
    int8_ms: float | None = None

    def __str__(self) -> str:
        return f"{self.layer}: {self.precision}: {self.reason}"


@dataclass(frozen=True)
class AutoReport:
    """What was measured and decided.

    Attributes:
        metric: Name of the score.
        samples: How many samples judged.
        float_score: Of the float model, in percent.
        score: Of the result.
        full_score: With all in integers that can be, and the options that were chosen.
        float_ms: Median time of an inference on `device`; None where it was not measured.
        int8_ms: The same, of the best quantized model, even if the result is the float one.
        device: Where times were measured, or why they were not.
        is_quantized: Whether the result is; if not, it is the float model.
        tried: Numbers of the most harmful layers in float, and the drop in points with them.
        options: Equalization, rounding, and how biases were corrected.
        decisions: In the graph's order.
        verdict: The whole in a sentence.
    """

    metric: str
    samples: int
    float_score: float
    score: float
    full_score: float
    max_drop: float
    float_ms: float | None
    int8_ms: float | None
    device: str
    is_quantized: bool
    tried: tuple[tuple[int, float], ...]
    options: Mapping[str, str]
    decisions: tuple[Decision, ...]
    verdict: str

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class AutoQuantization:
    """The result.

    Attributes:
        model: The QDQ model, or the float one as it was imported.
        report: What was measured and decided.
        analysis: Errors of every layer with all of them in integers, with times and decisions.
        notes: What the user should know.
    """

    model: ir.Model
    report: AutoReport
    analysis: QuantizationReport
    notes: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write the analysis as a page, ``quantization.html``, and as JSON."""
        from edgec.report_page import html_page

        (folder / "quantization.html").write_text(html_page(self.analysis))
        (folder / "quantization.json").write_text(json.dumps(self.analysis.to_dict(), indent=2) + "\n")


def aim_of(
    quantize: str | None,
    calibration: SampleSource | None,
    *,
    max_drop: float | None = None,
    metric: str | Metric | None = None,
    evaluation: SampleSource | None = None,
    device: str | None = None,
) -> Aim | None:
    """What the options of a compilation ask for; None where nothing is to be decided by measuring.

    Raises:
        UsageError: They contradict each other.
    """
    if quantize not in (None, "int8", "auto"):
        raise UsageError(f"cannot quantize to {quantize}", fix="choose int8 or auto")
    if calibration is not None and quantize is None:
        raise UsageError(
            "calibration data say nothing to a model in float32",
            fix="quantize to int8, compile with precision fp16, or leave them out",
        )
    if quantize == "auto":
        if calibration is None:
            raise UsageError(
                "deciding what to quantize needs samples", fix="give calibration data, or quantize to int8"
            )
        return Aim(0.5 if max_drop is None else max_drop, metric, evaluation, device)
    options = {"max_drop": max_drop, "metric": metric, "evaluation": evaluation, "device": device}
    given = [name.replace("_", " ") for name, value in options.items() if value is not None]
    if given:
        raise UsageError(
            f"'{given[0]}' is for deciding by measuring what to quantize", fix="quantize with 'auto', or leave it out"
        )
    return None
