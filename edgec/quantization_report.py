"""What quantizing did to a model, layer by layer: errors, ranges, sensitivity and size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgec.accuracy import are_probabilities
from edgec.bias_correction import correct_biases, mean_outputs
from edgec.frontend import execute
from edgec.frontend.executor import Array
from edgec.passes.quantization import InsertPairs, Unit
from edgec.passes.quantization.weights import read_linear
from edgec.progress import Progress, silent

if TYPE_CHECKING:
    from edgec.quantization import Quantization

__all__ = ["LayerReport", "QuantizationReport", "analyse"]


@dataclass(frozen=True)
class LayerReport:
    """One layer: an operator with what is applied to its result in registers.

    Attributes:
        weights_sqnr_db: Signal to rounding error of its weights; None without weights.
        accumulated_sqnr_db: Of its output in the quantized model, where all layers before it are quantized as well.
        isolated_sqnr_db: Of its output where it alone is quantized: its input and its weights.
        sensitivity_db: Signal to error of the model's outputs where it alone is quantized: low where it hurts.
        harm: What that does to them: of rows of probabilities, the mean of 1 - sum(sqrt(p q)), their squared Hellinger
            distance; of all else, error to signal. It is the largest of several outputs.
        low: What the integers of its input reach.
        high: The same, at the upper end.
        seen_low: The least value of its input in the calibration data.
        seen_high: The largest one.
        clipped_share: Of the values of its input that lie outside of what the integers reach.
        float_bytes: Size of its weights and bias in float32.
        quantized_bytes: The same as integers, with their scales.
        float_ms: Measured time before, where someone measured it.
        quantized_ms: The same, after.
        histogram: Shares of the values of its input in equal parts of the range seen, for the picture.
        decision: What became of it, and why, where that was decided by measuring.
    """

    name: str
    operator: str
    weights_sqnr_db: float | None
    accumulated_sqnr_db: float
    isolated_sqnr_db: float
    sensitivity_db: float
    harm: float
    low: float
    high: float
    seen_low: float
    seen_high: float
    clipped_share: float
    float_bytes: int
    quantized_bytes: int
    float_ms: float | None = None
    quantized_ms: float | None = None
    histogram: tuple[float, ...] = field(default=(), repr=False)
    decision: str | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """What quantizing did to a model.

    Attributes:
        model: Its name.
        samples: How many samples the ranges come from.
        analysed: How many samples the errors come from.
        outputs_db: Signal to error of each output of the quantized model, by name.
        layers: In the graph's order.
        kept_float: Why the other convolutions and products stay in float, by name.
        float_bytes: Size of the constants of the float model.
        quantized_bytes: The same, of the quantized one.
        verdict: What was decided, where that was by measuring.
    """

    model: str
    samples: int
    analysed: int
    outputs_db: dict[str, float]
    layers: tuple[LayerReport, ...]
    kept_float: dict[str, str]
    float_bytes: int
    quantized_bytes: int
    verdict: str | None = None

    @property
    def ranking(self) -> list[LayerReport]:
        """The layers, the one whose quantization hurts the outputs most first."""
        return sorted(self.layers, key=lambda layer: layer.sensitivity_db)

    def with_times(self, before_ms: Mapping[str, float], after_ms: Mapping[str, float]) -> QuantizationReport:
        """The report with measured times of the layers, by name."""
        layers = [replace(x, float_ms=before_ms.get(x.name), quantized_ms=after_ms.get(x.name)) for x in self.layers]
        return replace(self, layers=tuple(layers))

    def with_decisions(self, decisions: Mapping[str, str]) -> QuantizationReport:
        """The report with what became of the layers, by name."""
        return replace(self, layers=tuple(replace(x, decision=decisions.get(x.name)) for x in self.layers))

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; infinite figures become null."""

        def plain(value: object) -> object:
            if isinstance(value, float) and not math.isfinite(value):
                return None
            if isinstance(value, Mapping):
                return {key: plain(item) for key, item in value.items()}
            return [plain(item) for item in value] if isinstance(value, list | tuple) else value

        result = plain(asdict(self))
        assert isinstance(result, dict)
        return {**result, "ranking": [layer.name for layer in self.ranking]}


class _Noise:
    """Signal and error power, summed over samples."""

    def __init__(self) -> None:
        self._signal = self._error = 0.0

    def add(self, exact: Array, actual: Array) -> None:
        self._signal += float(np.square(exact, dtype=np.float64).sum())
        self._error += float(np.square(exact.astype(np.float64) - actual.astype(np.float64)).sum())

    @property
    def sqnr_db(self) -> float:
        if not self._error:
            return math.inf
        return 10 * math.log10(self._signal / self._error) if self._signal else -math.inf


def analyse(made: Quantization, *, count: int = 2, progress: Progress = silent) -> QuantizationReport:
    """Run float, quantized and partly quantized models on some samples and compare what is inside them.

    Args:
        made: From `edgec.quantization.prepare`.
        count: Of the first calibration samples are used, of those that it kept. The model runs once for each layer on
            each.
        progress: Called after every layer.
    """
    rows = made.calibration.examples[:count]
    units = [unit for unit in made.placement.units if unit.inputs]
    values = {str(value.name): made.name_in_result(value) for unit in units for value in unit.outputs}
    outputs = [str(value.name) for value in made.simplified.graph.outputs]
    exact = [execute(made.simplified, row, outputs=[*values, *outputs]) for row in rows]
    floats = [name for name in outputs if exact[0][name].dtype.kind == "f"]
    means = made.input_means if made.settings.corrects_bias else {}
    expected = mean_outputs(made.simplified, made.placement, rows) if made.settings.measures_bias else {}
    accumulated = {name: _Noise() for name in [*values, *outputs]}
    for row, right in zip(rows, exact, strict=True):
        actual = execute(made.model, row, outputs=[*values.values(), *outputs])
        for name, noise in accumulated.items():
            noise.add(right[name], actual[values.get(name, name)])
    layers = []
    for index, unit in enumerate(units):
        alone = made.simplified.clone()
        only = frozenset({unit.name})
        InsertPairs(made.encodings, made.kept, made.settings.is_per_channel, means=means, only=only)(alone)
        if expected:
            correct_biases(alone, expected, rows)
        isolated, sensitivity = _Noise(), _Noise()
        reached: dict[str, list[Array]] = {output: [] for output in floats}
        name = str(unit.outputs[0].name)
        for row, right in zip(rows, exact, strict=True):
            actual = execute(alone, row, outputs=[name, *outputs])
            isolated.add(right[name], actual[name])
            for output, arrays in reached.items():
                sensitivity.add(right[output], actual[output])
                arrays.append(actual[output])
        harms = [_harm(np.stack([row[output] for row in exact]), np.stack(found)) for output, found in reached.items()]
        errors = (accumulated[name].sqnr_db, isolated.sqnr_db, sensitivity.sqnr_db)
        layers.append(_layer(made, unit, *errors, max(harms, default=0.0)))
        progress("analyse", index + 1, len(units))
    return QuantizationReport(
        model=str(made.simplified.graph.name),
        samples=made.calibration.samples,
        analysed=len(rows),
        outputs_db={name: accumulated[name].sqnr_db for name in outputs},
        layers=tuple(layers),
        kept_float=dict(made.placement.kept),
        float_bytes=_constants_bytes(made.simplified),
        quantized_bytes=_constants_bytes(made.model),
    )


def _harm(exact: Array, actual: Array) -> float:
    """See `LayerReport.harm`. A distance that is bounded: one answer that flips must not outweigh all the others."""
    a, b = exact.astype(np.float64), actual.astype(np.float64)
    if a.ndim >= 2 and are_probabilities(a):
        return float(max(0.0, 1 - np.sqrt(a * np.maximum(b, 0)).sum(axis=-1).mean()))
    error, power = float(np.square(a - b).sum()), float(np.square(a).sum())
    return error / power if power else math.inf if error else 0.0


def _layer(
    made: Quantization, unit: Unit, accumulated: float, isolated: float, sensitivity: float, harm: float
) -> LayerReport:
    read = str(unit.inputs[0].name)
    reached, histogram = made.encodings[read].range, made.calibration.histograms[read]
    centers, total = histogram.centers, max(histogram.total, 1)
    half_step = made.encodings[read].scale / 2
    outside = (centers < reached.low - half_step) | (centers > reached.high + half_step)
    weights, float_bytes, quantized_bytes = None, 0, 0
    if unit.is_linear:
        linear = read_linear(unit.root)
        biases = 0 if linear.bias is None else linear.bias.size
        channels = linear.weight.shape[linear.channel_axis] if made.settings.is_per_channel else 1
        float_bytes = 4 * (linear.weight.size + biases)
        quantized_bytes = linear.weight.size + 4 * (biases + channels)
        noise = _Noise()
        noise.add(linear.weight, made.weight_in_result(unit.root))
        weights = noise.sqnr_db
    return LayerReport(
        name=unit.name,
        operator=" + ".join(node.op_type for node in unit.nodes),
        weights_sqnr_db=weights,
        accumulated_sqnr_db=accumulated,
        isolated_sqnr_db=isolated,
        sensitivity_db=sensitivity,
        harm=harm,
        low=reached.low,
        high=reached.high,
        seen_low=min(histogram.low, 0.0),
        seen_high=max(histogram.high, 0.0),
        clipped_share=float(histogram.counts[outside].sum()) / total,
        float_bytes=float_bytes,
        quantized_bytes=quantized_bytes,
        histogram=tuple((part.sum() / total).item() for part in np.array_split(histogram.counts, 48)),
    )


def _constants_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
