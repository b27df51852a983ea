"""Quantization that measures before it decides which layers become integer, and whether it is worth it at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgec.accuracy import Judge, Metric, open_metric
from edgec.auto_report import Aim, AutoQuantization, AutoReport, Decision
from edgec.errors import DeviceError
from edgec.layer_times import TargetTimer, Timer
from edgec.progress import Progress, silent
from edgec.quantization import Quantization, Settings, input_infos, prepare
from edgec.quantization_report import QuantizationReport, analyse
from edgec.samples import open_samples

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.quantization import Prepared
    from edgec.samples import SampleSource

__all__ = ["quantize_auto", "timer_for"]

Build = Callable[[ir.Model, str], "Bundle"]
"""Compiles a model for the target of this name."""

_FASTER = 0.99
"""Of the time before: what counts as faster, when a layer is taken back to float for it."""

_LEAST_SAVING = 0.01
"""Of what all layers save: what any layer counts for, when harm is divided by time. Conversions cost something too."""

_LEAST_HARM = 0.001
"""Of the harm of all layers: what any layer counts for. Few samples do not tell small ones apart, but they add up."""

_ANALYSED = 8
"""Samples on which every layer is quantized alone."""

_OPTIONS = (
    Settings(),
    Settings(equalization="activations"),
    Settings(equalization="activations", measures_bias=True),
    Settings(equalization="activations", rounding="adaptive", measures_bias=True),
)
"""How to quantize, tried in this order while accuracy does not suffice."""


@dataclass(frozen=True)
class _Candidate:
    """A quantized model that was judged.

    Attributes:
        kept: Names of the layers in float.
        bundle: For this machine.
    """

    prepared: Prepared
    kept: frozenset[str]
    made: Quantization
    bundle: Bundle
    drop: float


@dataclass
class _Search:
    """The state of one search; `reasons` says of layers in float why they are."""

    imported: ir.Model
    calibration: SampleSource
    aim: Aim
    target: str
    build: Build
    judge: Judge
    timer: Timer | None
    progress: Progress
    float_score: float = math.nan
    reasons: dict[str, str] = field(default_factory=dict)
    tried: dict[int, float] = field(default_factory=dict)
    float_ms: float | None = None
    int8_ms: float | None = None
    layers_ms: dict[str, tuple[float, float]] = field(default_factory=dict)

    def candidate(self, prepared: Prepared, kept: frozenset[str] = frozenset()) -> _Candidate:
        made = prepared.quantize(kept)
        bundle = self.build(made.model, "native")
        return _Candidate(prepared, kept, made, bundle, self.float_score - self.judge.score(bundle))

    def is_accurate(self, candidate: _Candidate) -> bool:
        return candidate.drop <= self.aim.max_drop + 1e-9

    def best_options(self) -> _Candidate:
        """All in integers: with the first options that suffice, else with the best."""
        best: _Candidate | None = None
        for settings in _OPTIONS:
            found = self.candidate(prepare(self.imported, self.calibration, settings, progress=self.progress))
            if best is None or found.drop < best.drop:
                best = found
            if self.is_accurate(best):
                break
        assert best is not None
        return best

    def ranking(self, full: _Candidate, analysis: QuantizationReport, in_float: Bundle) -> list[str]:
        """The layers, first the one that does most harm for the time that integers save in it, where that is known."""
        if self.timer is not None:
            self._time_layers(full, in_float, self._on_target(full))
        saved = {name: max(before - after, 0.0) for name, (before, after) in self.layers_ms.items()}
        least = _LEAST_SAVING * sum(saved.values()) or 1.0
        doubt = _LEAST_HARM * sum(layer.harm for layer in analysis.layers if math.isfinite(layer.harm))
        harms = {layer.name: (layer.harm + doubt) / (saved.get(layer.name, 0.0) + least) for layer in analysis.layers}
        return sorted(harms, key=lambda name: -harms[name])

    def restore_accuracy(self, full: _Candidate, ranking: list[str]) -> _Candidate | None:
        """Take the first layers of a ranking back to float, as few as suffice; None if no number does."""
        tried, found, count, short, enough = self.tried, full, 1, 0, 0
        tried[0] = full.drop
        linear = [unit.name for unit in full.made.placement.units if unit.is_linear]
        most = max(ranking.index(name) for name in linear)  # then the last layer is still in integers
        while not self.is_accurate(found):
            short, enough = enough, min(count, most)
            if short == enough:
                return None
            found = self.candidate(full.prepared, frozenset(ranking[:enough]))
            tried[enough] = found.drop
            count *= 2
        while enough - short > 1:
            middle = (short + enough) // 2
            one = self.candidate(full.prepared, frozenset(ranking[:middle]))
            tried[middle] = one.drop
            if self.is_accurate(one):
                found, enough = one, middle
            else:
                short = middle
        steps = sorted(number for number in tried if number <= enough)
        for less, more in sorted(pairwise(steps), key=lambda group: group[0] - group[1]):
            group, cost = ranking[less:more], tried[less] - tried[more]
            # The order is that of errors, not of the score: what seems to cost nothing may become integer again.
            if found.drop + cost <= self.aim.max_drop:
                one = self.candidate(full.prepared, found.kept - set(group))
                if self.is_accurate(one):
                    found = one
                    continue
            others = f" together with {more - less - 1} other" + "s" * (more - less > 2) if more - less > 1 else ""
            self.reasons.update(dict.fromkeys(group, f"costs {cost:.2f} points{others}"))
        return found

    def restore_speed(self, chosen: _Candidate, in_float: Bundle) -> tuple[_Candidate, bool]:
        """Take layers that are slower in integers back to float where that makes the whole faster, and compare.

        Returns:
            The best candidate, and whether it is faster than the float model.
        """
        assert self.timer is not None
        bundle = self._on_target(chosen)
        self._time_layers(chosen, in_float, bundle)
        losses = {name: after - before for name, (before, after) in self.layers_ms.items() if after >= before}
        slow = sorted(losses, key=lambda name: -losses[name])
        count = len(slow)
        while count:
            # What borders on a layer in float pays for the conversion: only the whole tells whether it is worth it.
            other = self._without(chosen, slow[:count])
            if other is not None and self.is_accurate(other):
                made = self._on_target(other)
                old_ms, new_ms = self.timer.latencies_ms([bundle, made])
                if new_ms < _FASTER * old_ms:
                    for name in slow[:count]:
                        before_ms, after_ms = self.layers_ms[name]
                        self.reasons[name] = f"{after_ms:.3g} ms in int8, {before_ms:.3g} in float"
                    chosen, bundle = other, made
                    break
            count //= 2
        self.float_ms, self.int8_ms = self.timer.latencies_ms([in_float, bundle])
        return chosen, self.int8_ms < self.float_ms

    def _time_layers(self, candidate: _Candidate, in_float: Bundle, bundle: Bundle) -> None:
        assert self.timer is not None
        names = {str(node.outputs[0].name): str(node.name) for node in candidate.prepared.simplified.graph}
        before, after = ({names.get(v, v): t for v, t in self.timer.layers_ms(b).items()} for b in (in_float, bundle))
        linear = {unit.name for unit in candidate.made.placement.units if unit.is_linear}
        self.layers_ms = {name: (before[name], after[name]) for name in linear if name in before and name in after}

    def _without(self, chosen: _Candidate, names: list[str]) -> _Candidate | None:
        """The candidate with more layers in float; None where that leaves none in integers."""
        linear = {unit.name for unit in chosen.made.placement.units if unit.is_linear}
        return self.candidate(chosen.prepared, chosen.kept | set(names)) if linear - set(names) else None

    def _on_target(self, candidate: _Candidate) -> Bundle:
        return candidate.bundle if self.target == "native" else self.build(candidate.made.model, self.target)


def quantize_auto(
    imported: ir.Model,
    calibration: SampleSource,
    aim: Aim,
    *,
    target: str,
    build: Build,
    timer: Timer | str,
    progress: Progress = silent,
) -> AutoQuantization:
    """Quantize what is worth it.

    All is quantized first. While the score drops too far, options that cost no time are tried, then layers go back to
    float, first those that do most harm for the time that integers save in them: 1, 2, 4 ... of them, and between the
    last two numbers by bisection. Scores are those of artifacts for this machine: integers are the same on every
    target. Then layers that do not get faster on the target go back to float, if that makes the whole faster. In the
    end the whole is compared with the float model, in turns.

    Args:
        imported: The float model.
        calibration: Samples for the ranges, and to judge by where `aim` has none.
        aim: What the user wants.
        target: Name of the target.
        build: Makes artifacts.
        timer: Measures on the target, or says why nothing does.
        progress: Called as the work goes on.

    Raises:
        EdgecError: The model cannot be quantized, or the data or the metric are at fault.
        DeviceError: The device failed.
    """
    samples = open_samples(calibration if aim.evaluation is None else aim.evaluation, input_infos(imported))
    judge = Judge(samples, None if aim.metric is None else open_metric(aim.metric), progress)
    in_float = build(imported, "native")
    on_target = in_float if target == "native" or isinstance(timer, str) else build(imported, target)
    device = timer if isinstance(timer, str) else _tried_out(timer, on_target, aim.device)
    usable = timer if not isinstance(timer, str) and device == timer.description else None
    search = _Search(imported, calibration, aim, target, build, judge, usable, progress)
    search.float_score = judge.score(in_float)
    full = search.best_options()
    analysis = analyse(full.made, count=_ANALYSED, progress=progress)
    chosen = full
    if not search.is_accurate(full):
        restored = search.restore_accuracy(full, search.ranking(full, analysis, on_target))
        if restored is None:
            return _float_result(search, full, analysis, f"int8 costs {full.drop:.2f} points", device)
        chosen = restored
    if usable is not None:
        chosen, is_faster = search.restore_speed(chosen, on_target)
        if not is_faster:
            times = f"{search.int8_ms:.3g} ms, {search.float_ms:.3g} in float"
            return _float_result(search, full, analysis, f"the whole model is not faster in int8 ({times})", device)
    return _result(search, full, chosen, analysis, device)


def _tried_out(timer: Timer, bundle: Bundle, device: str | None) -> str:
    """The device, or why it cannot be used, before any work is done for it."""
    try:
        timer.latencies_ms([bundle])
    except DeviceError as err:
        if device is not None:
            raise
        return f"not measured: {err.what}"
    return timer.description


def _float_result(
    search: _Search, full: _Candidate, analysis: QuantizationReport, why: str, device: str
) -> AutoQuantization:
    """The float model, and why nothing is quantized."""
    decisions = [_decided(search, layer.name, "float32", why) for layer in analysis.layers if layer.float_bytes]
    return _closed(search, full, None, decisions, analysis, f"float: {why}", device)


def _result(
    search: _Search, full: _Candidate, chosen: _Candidate, analysis: QuantizationReport, device: str
) -> AutoQuantization:
    """The chosen model, with a reason for each layer."""
    errors = {layer.name: layer.isolated_sqnr_db for layer in analysis.layers}
    decisions = []
    quantized = {unit.name for unit in chosen.made.placement.units}
    for layer in analysis.layers:
        name = layer.name
        if name in search.reasons:
            decisions.append(_decided(search, name, "float32", search.reasons[name]))
        elif layer.float_bytes and name in quantized:
            decisions.append(_decided(search, name, "int8", _why_int8(search, name, errors[name])))
    decisions += [_decided(search, name, "float32", why) for name, why in full.made.placement.kept.items()]
    linear = sum(unit.is_linear for unit in chosen.made.placement.units)
    total = linear + len(chosen.made.placement.kept)
    times = "" if search.int8_ms is None else f", {search.float_ms:.3g} -> {search.int8_ms:.3g} ms"
    verdict = f"{linear} of {total} layers in int8, drop {chosen.drop:.2f} points{times}"
    return _closed(search, full, chosen, decisions, analysis, verdict, device)


def _why_int8(search: _Search, name: str, error_db: float) -> str:
    decibel = f"{error_db:.0f} dB" if math.isfinite(error_db) else "exact"
    if name not in search.layers_ms:
        return decibel
    before, after = search.layers_ms[name]
    slower = "; the whole is no faster with it in float" if after >= before else ""
    return f"{before:.3g} -> {after:.3g} ms, {decibel}{slower}"


def _decided(search: _Search, name: str, precision: str, reason: str) -> Decision:
    before, after = search.layers_ms.get(name, (None, None))
    return Decision(name, precision, reason, before, after)


def _closed(
    search: _Search,
    full: _Candidate,
    chosen: _Candidate | None,
    decisions: list[Decision],
    analysis: QuantizationReport,
    verdict: str,
    device: str,
) -> AutoQuantization:
    position = {str(node.name): index for index, node in enumerate(full.prepared.simplified.graph)}
    decisions = sorted(decisions, key=lambda decision: position.get(decision.layer, len(position)))
    settings, metric = full.prepared.settings, search.aim.metric
    report = AutoReport(
        metric="agreement with the float model" if metric is None else _name_of(metric),
        samples=search.judge.count,
        float_score=search.float_score,
        score=search.float_score - (chosen.drop if chosen is not None else 0.0),
        full_score=search.float_score - full.drop,
        max_drop=search.aim.max_drop,
        float_ms=search.float_ms,
        int8_ms=search.int8_ms,
        device=device,
        is_quantized=chosen is not None,
        tried=tuple(sorted(search.tried.items())),
        options={
            "equalization": settings.equalization,
            "rounding": settings.rounding,
            "bias": "measured" if settings.measures_bias else "computed",
        },
        decisions=tuple(decisions),
        verdict=verdict,
    )
    before = {name: times[0] for name, times in search.layers_ms.items()}
    after = {name: times[1] for name, times in search.layers_ms.items()}
    texts = {decision.layer: f"{decision.precision}: {decision.reason}" for decision in decisions}
    analysis = replace(analysis.with_times(before, after).with_decisions(texts), verdict=verdict)
    model = search.imported if chosen is None else chosen.made.model
    return AutoQuantization(model, report, analysis, full.prepared.notes)


def _name_of(metric: str | Metric) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def timer_for(arch: str, target: str, device: str | None) -> Timer | str:
    """What measures on a target; where nothing can, why."""
    from edgec.devices.selection import host_arch

    if device is None and arch != host_arch():
        return f"not measured: {target} has {arch} CPUs; name a board with --device ssh://[user@]host"
    return TargetTimer(device)
