"""Give the channels of a value scales that fit one encoding: what its maker divides by, its readers multiply with.

One encoding serves all channels of an activation, and a channel that is a hundred times smaller than another is left
with two or three steps. Weights have a scale per output channel, and can take the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, array_of, is_default_op, static_shape
from edgec.passes.quantization.channel_moments import ChannelMoments
from edgec.passes.quantization.placement import LINEAR, Placement, Unit, place
from edgec.passes.quantization.weights import refusal
from edgec.passes.remove_dead_code import RemoveDeadCode
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant

__all__ = ["MigrateScales"]

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu"})
"""f(s · x) = s · f(x) for s > 0."""

_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
"""Of each channel on its own."""

_STRENGTHS = np.linspace(0, 1, 11)
_MOST = 64.0
"""The largest change of a channel; also one that is nearly dead keeps some meaning."""


@dataclass(frozen=True)
class MigrateScales(InPlacePass):
    """Moves scales per channel over values that linear operators read, and pools or gates; all computes the same.

    1. With `moments` of the values: s = max|x|^α, with the α for which the rounding of the value and that of its
       readers' weights together are expected to add the least error to the readers' outputs; 0 changes nothing.
       Source: after Xiao et al. 2023, "SmoothQuant", eq. 4, where α is the same for all.
    2. Without: the weights that make the value stand for it, s = √(r₁ / r₂) of the ranges of the weights on both sides.
       Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", eq. 11.

    The scales are taken in by the weights and bias of a Conv or Gemm, by LayerNormalization, by a MatMul, or by
    constants that are multiplied and added, through ReLU and its like. Pools of channels and products with another
    value (squeeze and excitation) hand them on to what reads their results, in rule 1.

    Attributes:
        moments: Of the channels, by the name of the value; None for rule 2.
    """

    moments: Mapping[str, ChannelMoments] | None = None

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        placement = place(model)
        for value in placement.rounded:
            readers = _readers(placement, value)
            if not readers or (self.moments is None and set(readers.values()) != {value}):
                continue
            absorbers = _absorbers(value)
            if absorbers is None:
                tally.refuse(next(iter(readers)), f"nothing before '{value.name}' can take in its scales")
                continue
            scales = self._scales(value, readers, absorbers[-1])
            if scales is None or np.allclose(scales, 1.0, rtol=0.05):
                continue
            for node in absorbers:
                _divide_output(node, scales)
            for node in readers:
                _multiply_input(node, scales)
            tally.count("value")
        if tally.changes:
            RemoveDeadCode()(model)  # weights as they were
        return tally.result(model)

    def _scales(self, value: ir.Value, readers: dict[ir.Node, ir.Value], maker: ir.Node) -> NDArray[np.float64] | None:
        if self.moments is not None:
            own = self.moments[str(value.name)]
            tables = [(self.moments[str(read.name)], _weight_table(node)) for node, read in readers.items()]
            return _best_scales(own, tables)
        before = _output_ranges(maker)
        after = np.max([_input_ranges(node) for node in readers], axis=0)
        return None if before is None else _balanced(np.sqrt(before / np.where(after > 0, after, np.inf)))


def _readers(placement: Placement, value: ir.Value) -> dict[ir.Node, ir.Value] | None:
    """The linear operators that take in the scales of `value`, with what each reads: it, or what carries its scales on.

    None if not all that reads it does so.
    """
    found: dict[ir.Node, ir.Value] = {}
    carriers = [value]
    for carrier in carriers:
        units = placement.readers(carrier)
        is_all = {use.node for use in carrier.uses()} == {unit.root for unit in units}
        if not is_all or carrier.is_graph_output():
            return None
        for unit in units:
            if carrier in unit.inputs and _takes_input_scales(unit, carrier):
                found[unit.root] = carrier
            elif _carries_scales(unit, carrier) and unit.outputs[0] not in carriers:
                carriers.append(unit.outputs[0])
            else:
                return None
    return found


def _carries_scales(unit: Unit, value: ir.Value) -> bool:
    """Whether f(x / s) = f(x) / s for positive scales per channel: pools of images, and products with another value."""
    if len(unit.nodes) > 1 or len(static_shape(value) or ()) != 4:
        return False
    if unit.root.op_type == "Mul":
        is_once = sum(operand is value for operand in unit.root.inputs) == 1
        return is_once and static_shape(unit.outputs[0]) == static_shape(value)
    return unit.root.op_type in _POOLS


def _best_scales(own: ChannelMoments, readers: list[tuple[ChannelMoments, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """The scales among max|x|^α with the least error expected at the outputs of readers with these weights.

    Args:
        own: Of the value.
        readers: What each reads, where α has its own meaning too, and its weights.
    """
    largest = [own.largest, *(read.largest for read, _ in readers if read is not own)]
    candidates = [_balanced(sizes**strength) for sizes in largest for strength in _STRENGTHS]

    def error(scales: NDArray[np.float64]) -> float:
        total = 0.0
        for read, table in readers:
            total += _expected_error(read, table, scales)
            if read is not own:
                # What rounding the value adds comes through a pool or a gate, in its share of the values.
                shares = np.minimum(read.mean_squares / np.maximum(own.mean_squares, 1e-30), 1.0)
                total += _rounding_error(own, table, scales, shares)
        return total

    return min(candidates, key=error)


def _expected_error(moments: ChannelMoments, table: NDArray[np.float64], scales: NDArray[np.float64]) -> float:
    """Mean square error of the outputs, for weights (outputs, inputs, kernel), in units of a twelfth.

    A step's square over twelve is the error of each rounded number: x's step is one for all channels, w's one for each
    output.
    """
    columns = _columns(table, len(scales))
    inputs = scales[columns]
    steps = np.abs(table * inputs[..., None]).max(axis=(1, 2)) / 127
    seen = (moments.mean_squares[columns] / np.square(inputs)).sum(axis=1) * table.shape[2]
    return _rounding_error(moments, table, scales) + float((np.square(steps) * seen).sum())


def _rounding_error(
    moments: ChannelMoments,
    table: NDArray[np.float64],
    scales: NDArray[np.float64],
    shares: NDArray[np.float64] | None = None,
) -> float:
    """The part that comes from rounding a value, of which `shares` per channel arrive."""
    step = float((moments.largest / scales).max()) / 255
    arriving = np.square(scales) * (1.0 if shares is None else shares)
    return float(step**2 * (np.square(table).sum(axis=2) * arriving[_columns(table, len(scales))]).sum())


def _columns(table: NDArray[np.float64], channels: int) -> NDArray[np.intp]:
    """The channels that an output reads, (outputs, inputs): those of its group."""
    owner = np.arange(len(table)) * (channels // table.shape[1]) // len(table)
    return np.asarray(owner[:, None] * table.shape[1] + np.arange(table.shape[1]), np.intp)


def _balanced(scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """With a geometric mean of 1, and within bounds; 1 for channels that are dead on either side."""
    alive = np.isfinite(scales) & (scales > 0)
    if not alive.any():
        return np.ones_like(scales)
    scales = np.where(alive, scales, 1.0) / np.exp(np.log(scales[alive]).mean())
    return np.where(alive, np.clip(scales, 1 / _MOST, _MOST), 1.0)


def _takes_input_scales(unit: Unit, value: ir.Value) -> bool:
    """Whether its weights have an axis for the channels of `value`, where `_channel_axis` says they are."""
    shape = static_shape(value)
    return shape is not None and unit.root.op_type in (("Conv",) if len(shape) == 4 else ("MatMul", "Gemm"))


def _absorbers(value: ir.Value) -> list[ir.Node] | None:
    """The nodes that together divide `value` by scales, the last one at its origin; None if there are none."""
    nodes: list[ir.Node] = []
    while True:
        node = value.producer()
        if node is None or node.domain or (nodes and (len(value.uses()) != 1 or value.is_graph_output())):
            return None
        shape = static_shape(value)
        if shape is None:
            return None
        if node.op_type in LINEAR - {"ConvTranspose"} and refusal(node) is None:
            return [*nodes, node]
        if is_default_op(node, "LayerNormalization"):
            axis = node.attributes.get("axis")
            is_last = (axis is None or axis.as_int() in (-1, len(shape) - 1)) and len(node.outputs) == 1
            is_constant = all(array_of(other) is not None for other in node.inputs[1:])
            return [*nodes, node] if is_last and is_constant else None
        constants = [other for other in node.inputs if array_of(other) is not None]
        if node.op_type in ("Add", "Mul") and len(constants) == 1:
            array = array_of(constants[0])
            assert array is not None
            if array.ndim > len(shape) or any(size != 1 for size in _without(array.shape, _channel_axis(shape))):
                return None
            nodes.append(node)
            if node.op_type == "Mul":
                return nodes
        elif node.op_type not in _HOMOGENEOUS:
            return None
        (source,) = [other for other in node.inputs if other not in constants]
        if source is None or static_shape(source) != shape:
            return None
        value = source


def _channel_axis(shape: tuple[int, ...]) -> int:
    """From the end: images have their channels second, rows last."""
    return -3 if len(shape) == 4 else -1


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(size for index, size in enumerate(shape) if index - len(shape) != axis)


def _replace(node: ir.Node, index: int, array: NDArray[np.float64], what: str) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    node.replace_input_with(index, new_constant(graph, array.astype(np.float32), f"{node.name}_{what}"))


def _constant(node: ir.Node, index: int) -> NDArray[np.float64] | None:
    array: Array | None = array_of(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None else array.astype(np.float64)


def _divide_output(node: ir.Node, scales: NDArray[np.float64]) -> None:
    if node.op_type in ("Add", "Mul"):
        index = next(i for i, value in enumerate(node.inputs) if array_of(value) is not None)
        array, shape = _constant(node, index), static_shape(node.outputs[0])
        assert array is not None and shape is not None
        spread = scales.reshape(-1, *[1] * (-_channel_axis(shape) - 1))
        _replace(node, index, array / spread, "scaled")
        return
    if node.op_type == "LayerNormalization":
        shares = {1: scales, 2: scales}
    elif node.op_type == "Conv":
        shares = {1: scales.reshape(-1, 1, 1, 1), 2: scales}
    else:
        shares = {1: scales[:, None] if _has_output_rows(node) else scales, 2: scales}
    for index, spread in shares.items():
        array = _constant(node, index)
        if array is not None:
            _replace(node, index, array / spread, "scaled")


def _multiply_input(node: ir.Node, scales: NDArray[np.float64]) -> None:
    weight = _constant(node, 1)
    assert weight is not None
    _replace(node, 1, weight * _along_inputs(node, weight, scales), "scaled")


def _along_inputs(node: ir.Node, weight: NDArray[np.float64], scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales of the inputs in the shape in which they multiply the weights."""
    if node.op_type == "Conv":
        # (outputs, inputs / group, ...): every group of outputs has inputs of its own
        groups = len(scales) // weight.shape[1]
        rows = np.repeat(scales.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return rows.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    return scales if _has_output_rows(node) else scales[:, None]


def _weight_table(node: ir.Node) -> NDArray[np.float64]:
    """Weights as (outputs, inputs, kernel)."""
    weight = _constant(node, 1)
    assert weight is not None
    if node.op_type == "Conv":
        return weight.reshape(*weight.shape[:2], -1)
    return (weight if _has_output_rows(node) else weight.T)[..., None]


def _input_ranges(node: ir.Node) -> NDArray[np.float64]:
    """The largest weight that each input channel meets."""
    weight = _constant(node, 1)
    assert weight is not None
    if node.op_type != "Conv":
        return _largest(weight, (0,) if _has_output_rows(node) else (1,))
    group = node.attributes.get("group")
    groups = 1 if group is None else group.as_int()
    per_group = weight.reshape(groups, -1, *weight.shape[1:])
    return _largest(per_group, (1, *range(3, per_group.ndim))).reshape(-1)


def _has_output_rows(node: ir.Node) -> bool:
    """Whether the weights of a product are (outputs, inputs)."""
    attribute = node.attributes.get("transB")
    return node.op_type == "Gemm" and attribute is not None and bool(attribute.as_int())


def _output_ranges(node: ir.Node) -> NDArray[np.float64] | None:
    """The largest weight that makes each channel; None where no weights do."""
    weight = _constant(node, 1)
    if weight is None or node.op_type not in LINEAR:
        return None
    if node.op_type == "Conv":
        return _largest(weight.reshape(len(weight), -1), (1,))
    return _largest(weight, (1,) if _has_output_rows(node) else (0,))


def _largest(array: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    return np.asarray(np.abs(array).max(axis=axes), np.float64)
