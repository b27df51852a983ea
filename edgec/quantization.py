"""Post-training quantization: a float model and samples in, a QDQ model out."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.bundle import TensorInfo
from edgec.errors import EdgecError, UsageError
from edgec.progress import Progress, silent
from edgec.sources import InputSpec, ModelSource, read_model
from edgec.weight_quantization import DataFree, Mode, quantize_without_data, refuse_static_options

if TYPE_CHECKING:
    from edgec.calibration import Calibration
    from edgec.passes.quantization import ActivationType, Encoding, Method, Placement
    from edgec.samples import Samples, SampleSource

__all__ = ["Prepared", "Quantization", "QuantizationWarning", "Settings", "prepare", "quantize"]

Equalization: TypeAlias = Literal["none", "weights", "activations"]
Rounding: TypeAlias = Literal["nearest", "adaptive"]

_SYNTHETIC_SAMPLES = 8
_TRIED = 4
"""Samples on which it is tried out whether the data have the scale of the training."""


class QuantizationWarning(UserWarning):
    """The result may be less exact than it could be; the message says why, and what to do."""


@dataclass(frozen=True)
class Settings:
    """How to quantize; see `quantize` for what each field means."""

    method: Method = "mse"
    percentile: float | None = None
    activation_type: ActivationType = "uint8"
    is_symmetric: bool = False
    is_per_channel: bool = True
    keep_float: tuple[str, ...] = ()
    corrects_bias: bool = True
    equalization: Equalization = "none"
    rounding: Rounding = "nearest"
    measures_bias: bool = False


@dataclass(frozen=True)
class Quantization:
    """What quantizing made, and from what.

    Attributes:
        model: The QDQ model.
        simplified: The float model that it was made from.
        calibration: What the samples showed.
        placement: What is quantized, in terms of the nodes and values of `simplified`.
        encodings: Of the values that are rounded, by name.
        settings: How it was quantized.
        kept: Names of the nodes that the user kept in float.
        notes: What the user should know.
    """

    model: ir.Model
    simplified: ir.Model
    calibration: Calibration
    placement: Placement
    encodings: dict[str, Encoding]
    settings: Settings
    kept: frozenset[str]
    notes: tuple[str, ...]

    @property
    def input_means(self) -> dict[str, NDArray[np.float64]]:
        """What the channels of linear operators' inputs are on average, by the names of the nodes."""
        return {name: self.calibration.channels[read].means for name, read in _read_by_linear(self.placement).items()}

    def name_in_result(self, value: ir.Value) -> str:
        """The name in `model` of a value of `simplified` as its readers see it: rounded, if it is."""
        rounded = value in self.placement.rounded and not value.is_graph_output()
        return f"{value.name}_dequantized" if rounded else str(value.name)

    def weight_in_result(self, node: ir.Node) -> NDArray[np.float32]:
        """The numbers that the integers in `model` stand for, for the weights of a node of `simplified`."""
        made = next(n for n in self.model.graph if n.outputs[0].name == f"{node.name}_weight")
        integers, scales, _ = (value.const_value.numpy() for value in made.inputs if value and value.const_value)
        axis = made.attributes.get("axis")
        if axis is None:
            return np.asarray(integers * scales, np.float32)
        spread = np.expand_dims(scales, [a for a in range(integers.ndim) if a != axis.as_int()])
        return np.asarray(integers * spread, np.float32)


def quantize(
    model: ModelSource,
    calibration: SampleSource | None = None,
    *,
    mode: Mode = "static",
    inputs: InputSpec | None = None,
    method: Method = "mse",
    percentile: float | None = None,
    activation_type: ActivationType = "uint8",
    symmetric: bool = False,
    per_channel: bool = True,
    keep_float: Sequence[str] = (),
    bias_correction: bool = True,
    equalization: Equalization = "none",
    rounding: Rounding = "nearest",
    measure_bias: bool = False,
    bits: int | None = None,
    block_size: int | None = None,
    samples: int | None = None,
    state: Path | None = None,
    progress: Progress = silent,
) -> ir.Model:
    """Quantize a model: one at opset 22 that ONNX Runtime runs, and that `edgec.compile` lowers.

    Args:
        model: See :func:`edgec.compile`.
        calibration: Samples of the inputs: a path to an .npz file keyed by input name with a leading sample axis, or
            to a folder of those, ``"package.module:callable"``, arrays by input name, or an iterable of samples.
            None for synthetic noise, with a warning. Only for mode ``static``.
        mode: ``static`` for int8 with ranges that are found beforehand; ``dynamic`` for products of int8 with ranges
            that are found while the model runs; ``weight-only`` for products of floats and weights of few bits. The
            last two are for Gemm and MatMul, and of the options below only `keep_float` is for them.
        inputs: Shapes by input name, for symbolic dimensions and engine modules.
        method: How a range is found: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        percentile: For the method of that name: the share of the values, in percent, within either end. 99.99 if None.
        activation_type: ``uint8`` or ``int8``.
        symmetric: Whether the zero point of activations is the middle of their integers.
        per_channel: Whether weights have a scale per output channel, or one for all.
        keep_float: What stays in float: names of nodes or of what they give out, operators (``"Add"``), or patterns
            (``"/head/*"``).
        bias_correction: Whether a layer's bias takes back what rounding its weights adds to its output on average.
        equalization: Whether scales per channel are moved from activations into weights: ``weights`` judges by the
            weights on both sides (cross-layer equalization), ``activations`` by the calibration data (SmoothQuant),
            for which the model runs on them twice.
        rounding: Of the weights: ``nearest``, or ``adaptive`` for the integers with which a layer's outputs change
            least (the objective of AdaRound), for which the model runs on the calibration data once more.
        measure_bias: Whether the bias also takes back what rounding activations adds on average, as the quantized model
            shows it, layer by layer, on 32 samples at most.
        bits: Of a weight in mode ``weight-only``: 8 (None) or 4.
        block_size: Weights along a column that share a scale in mode ``weight-only``; None for whole columns, with 4
            bits for 32.
        samples: The most samples that are used.
        state: File from which an interrupted calibration goes on.
        progress: Called as the work goes on.

    Raises:
        EdgecError: The data do not fit the model or stand for nothing; an entry of `keep_float` fits nothing;
            there is nothing to quantize.
        UsageError: Options contradict each other.

    Example:
        >>> import edgec
        >>> model = edgec.quantize("resnet8.onnx", "calibration.npz")  # doctest: +SKIP
    """
    settings = Settings(
        method, percentile, activation_type, symmetric, per_channel, tuple(keep_float),
        bias_correction, equalization, rounding, measure_bias,
    )  # fmt: skip
    free = DataFree(mode, bits, block_size, tuple(keep_float))
    if mode != "static":
        refuse_static_options(mode, settings, ("calibration", calibration), ("samples", samples), ("state", state))
        return quantize_without_data(read_model(model, inputs), free).model
    imported = read_model(model, inputs)
    made = prepare(imported, calibration, settings, limit=samples, state=state, progress=progress).quantize()
    for note in made.notes:
        warnings.warn(note, QuantizationWarning, stacklevel=2)
    return made.model


def prepare(
    imported: ir.Model,
    calibration: SampleSource | None,
    settings: Settings,
    *,
    limit: int | None = None,
    state: Path | None = None,
    progress: Progress = silent,
) -> Prepared:
    """The part of `quantize` that runs the model on samples; nothing is printed."""
    from edgec.bias_correction import mean_outputs, rows_for_means
    from edgec.calibration import collect_products
    from edgec.calibration_checks import scale_warnings
    from edgec.passes import simplify
    from edgec.passes.quantization import MigrateScales, nodes_named, place
    from edgec.samples import open_samples, synthetic_samples

    _check(settings, limit)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in imported.graph):
        raise EdgecError("the model is quantized already", fix="compile it as it is")
    simplified, _ = simplify(imported)
    kept = frozenset(str(node.name) for node in nodes_named(settings.keep_float, simplified, imported))
    placement = _place(simplified, kept)
    infos = input_infos(simplified)
    notes = []
    if calibration is None:
        found = synthetic_samples(infos, _SYNTHETIC_SAMPLES)
        notes.append(
            "no calibration data: ranges are those of synthetic noise, and accuracy will suffer; "
            "give 50 to 200 real samples as calibration"
        )
    else:
        found = open_samples(calibration, infos)
    if settings.equalization != "none":
        moments = None
        if settings.equalization == "activations":
            everywhere = place(simplified)  # scales move through layers that stay in float as well
            moments = _calibrate(simplified, everywhere, found, limit, None, progress).channels
        MigrateScales(moments)(simplified)
        placement = place(simplified, [node for node in simplified.graph if node.name in kept])
    seen = _calibrate(simplified, placement, found, limit, state, progress)
    if calibration is not None:
        notes += scale_warnings(imported, seen.examples[:_TRIED])
    products = {}
    if settings.rounding == "adaptive":
        read = _read_by_linear(placement)
        products = collect_products(simplified, read, found, limit, progress, is_centered=settings.corrects_bias)
    means = {}
    if settings.measures_bias:
        means = mean_outputs(simplified, placement, rows_for_means(simplified, seen.examples))
    return Prepared(simplified, settings, kept, found, limit, seen, products, means, tuple(notes), progress)


@dataclass(frozen=True)
class Prepared:
    """A model that was run on samples, of which quantized ones can be made with more or fewer layers in float.

    Attributes:
        simplified: The float model.
        kept: Names of the nodes that the user keeps in float.
        samples: What it was run on, `limit` of them at most.
        seen: What they showed.
        products: Of the inputs of linear operators, by node name, where weights are rounded together.
        means: Of the outputs of linear operators, by node name, where biases are corrected.
        notes: What the user should know.
    """

    simplified: ir.Model
    settings: Settings
    kept: frozenset[str]
    samples: Samples
    limit: int | None
    seen: Calibration
    products: Mapping[str, NDArray[np.float64]]
    means: Mapping[str, NDArray[np.float64]]
    notes: tuple[str, ...]
    progress: Progress

    def quantize(self, keep_float: Collection[str] = ()) -> Quantization:
        """The model with all that can be in integers, but the user's choice and the nodes of these names.

        Raises:
            EdgecError: There is nothing to quantize.
        """
        from edgec.bias_correction import correct_biases, rows_for_means
        from edgec.passes import simplify
        from edgec.passes.quantization import InsertPairs, find_range, share_encodings

        kept = self.kept | frozenset(keep_float)
        placement, settings = _place(self.simplified, kept), self.settings
        self._see_more(placement)
        percentile = 99.99 if settings.percentile is None else settings.percentile
        wanted = {str(value.name): self.seen.histograms[str(value.name)] for value in placement.rounded}
        ranges = {name: find_range(histogram, settings.method, percentile) for name, histogram in wanted.items()}
        encodings = share_encodings(placement, ranges, settings.activation_type, symmetric=settings.is_symmetric)
        quantized, _ = simplify(self.simplified)  # a copy
        linear = _read_by_linear(placement)
        channels = self.seen.channels
        means = {name: channels[read].means for name, read in linear.items()} if settings.corrects_bias else {}
        InsertPairs(encodings, kept, settings.is_per_channel, self.products, means)(quantized)
        if settings.measures_bias:
            correct_biases(quantized, self.means, rows_for_means(quantized, self.seen.examples))
        return Quantization(quantized, self.simplified, self.seen, placement, encodings, settings, kept, self.notes)

    def _see_more(self, placement: Placement) -> None:
        """Watch the values that are rounded only where others stay in float."""
        names = {str(value.name) for value in placement.rounded} - set(self.seen.histograms)
        names |= set(_read_by_linear(placement).values()) - set(self.seen.channels)
        if names:
            more = _calibrate(self.simplified, placement, self.samples, self.limit, None, self.progress, names)
            self.seen.histograms.update(more.histograms)
            self.seen.channels.update(more.channels)


def _place(simplified: ir.Model, kept: Collection[str]) -> Placement:
    from edgec.passes.quantization import place

    placement = place(simplified, [node for node in simplified.graph if node.name in kept])
    if not any(unit.is_linear for unit in placement.units):
        reasons = "; ".join(f"'{name}': {why}" for name, why in list(placement.kept.items())[:3])
        raise EdgecError("there is nothing to quantize in this model", where=reasons or None)
    return placement


def _read_by_linear(placement: Placement) -> dict[str, str]:
    """The values that convolutions and products read, by the names of the nodes."""
    return {str(unit.root.name): str(unit.inputs[0].name) for unit in placement.units if unit.is_linear}


def _calibrate(
    model: ir.Model,
    placement: Placement,
    samples: Samples,
    limit: int | None,
    state: Path | None,
    progress: Progress,
    only: Collection[str] | None = None,
) -> Calibration:
    """The values that are rounded, and the channels of images and of what is multiplied with weights."""
    from edgec.calibration import calibrate

    names = [str(value.name) for value in placement.rounded if only is None or value.name in only]
    images = {str(value.name): 1 for value in placement.rounded if len(value.shape or ()) == 4}
    read = {str(u.inputs[0].name): -1 if u.root.op_type == "MatMul" else 1 for u in placement.units if u.is_linear}
    axes = {name: axis for name, axis in (images | read).items() if name in names}
    return calibrate(model, names, samples, channel_axes=axes, limit=limit, state=state, progress=progress)


def input_infos(model: ir.Model) -> list[TensorInfo]:
    """The inputs of a model with fixed shapes."""
    infos = []
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None
        infos.append(TensorInfo(str(value.name), tuple(value.shape.numpy()), value.dtype.numpy().name))
    return infos


def _check(settings: Settings, limit: int | None) -> None:
    """Refuse options that contradict each other or make no sense, before any work."""
    from edgec.passes.quantization import METHODS

    if settings.method not in METHODS:
        raise UsageError(f"there is no method '{settings.method}'", fix=f"choose one of {', '.join(METHODS)}")
    if settings.percentile is not None:
        if settings.method != "percentile":
            raise UsageError(
                f"a percentile says nothing to the method '{settings.method}'",
                fix="leave it out, or use method percentile",
            )
        if not 50 < settings.percentile <= 100:
            raise UsageError(f"percentile {settings.percentile:g} is not between 50 and 100", fix="try 99.99")
    if settings.activation_type not in ("uint8", "int8"):
        raise UsageError(f"activations cannot be {settings.activation_type}", fix="choose uint8 or int8")
    if settings.equalization not in ("none", "weights", "activations"):
        raise UsageError(f"there is no equalization '{settings.equalization}'", fix="choose weights or activations")
    if settings.rounding not in ("nearest", "adaptive"):
        raise UsageError(f"there is no rounding '{settings.rounding}'", fix="choose nearest or adaptive")
    if settings.measures_bias and not settings.corrects_bias:
        raise UsageError("a bias that stays as it is cannot be measured", fix="leave out one of both options")
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} samples are too few", fix="use at least one")
