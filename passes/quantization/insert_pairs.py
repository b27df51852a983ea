"""Write a quantized model: QuantizeLinear and DequantizeLinear where values are rounded, integers for weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, array_of
from edgec.passes.quantization.encoding import Encoding, Floats, encode_bias, encode_weight, least_weight_scales
from edgec.passes.quantization.placement import Unit, place
from edgec.passes.quantization.round_weights import round_weights
from edgec.passes.quantization.weights import Linear, read_linear
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant

__all__ = ["InsertPairs"]


@dataclass(frozen=True)
class InsertPairs(InPlacePass):
    """Makes a float model a quantized one in the form that ONNX Runtime and others read (QDQ).

    1. A value that passes between units of `place` goes through a QuantizeLinear and a DequantizeLinear, which all of
       its readers share; where a float node makes it, only the quantized ones.
    2. Weights of linear units become int8 with a DequantizeLinear, symmetric, with a scale per output channel; the
       bias int32 at the scale of the products. What is added to a MatMul per output counts as its bias.

    Attributes:
        encodings: Of every value that is rounded, by name; see `share_encodings`.
        keep_float: Names of nodes that stay in float.
        per_channel: Whether weights have a scale per channel, or one for all.
        products: Of the inputs of linear operators, by node name: where they are known, weights are rounded by
            `round_weights` instead of to the nearest integer.
        means: Of the channels of a linear operator's input, by node name: where they are known, the bias takes back
            what rounding the weights adds to the output on average.
        only: Names of the first nodes of the units that are quantized, each with the values that it reads; None for
            all of them.
    """

    encodings: Mapping[str, Encoding]
    keep_float: frozenset[str] = frozenset()
    per_channel: bool = True
    products: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    means: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        placement = place(model, [node for node in model.graph if node.name in self.keep_float])
        for name, why in placement.kept.items():
            tally.refused.append(f"'{name}': {why}")
        units = [u for u in placement.units if self.only is None or u.root.name in self.only]
        read = {value for unit in units for value in (*unit.inputs, *unit.sides)}
        makers = {value for unit in placement.units for value in unit.outputs} if self.only is None else set()
        for unit in units:
            if unit.is_linear:
                self._quantize_constants(unit)
                tally.count(unit.root.op_type)
        readers = {node for unit in units for node in unit.nodes}
        for value in [value for value in placement.rounded if value in read]:
            _insert_pair(model.graph, value, self.encodings[str(value.name)], None if value in makers else readers)
            tally.count("rounded value")
        for value in [v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
            if not value.is_graph_input():
                del model.graph.initializers[str(value.name)]
        return tally.result(model)

    def _quantize_constants(self, unit: Unit) -> None:
        node, graph = unit.root, unit.root.graph
        assert isinstance(graph, ir.Graph) and unit.inputs[0].name is not None
        linear = read_linear(node)
        input_scale = self.encodings[unit.inputs[0].name].scale
        adder, bias = (None, linear.bias) if linear.bias is not None else _added_bias(unit)
        axis = linear.channel_axis if self.per_channel else None
        least = (
            None if bias is None else _per_weight_scale(least_weight_scales(bias, input_scale), linear.repeats, axis)
        )
        steps, scales = encode_weight(linear.weight, axis, least)
        products = self.products.get(node.name or "")
        if products is not None:
            steps, scales = _rounded_together(linear, scales, products)
        name = f"{node.name}_weight"
        node.replace_input_with(1, _dequantized(graph, node, steps, scales, axis, name))
        if node.op_type == "Gemm":
            for attribute in ("alpha", "beta", "transB"):
                node.attributes.pop(attribute, None)
        means = self.means.get(node.name or "")
        if means is not None and (bias is not None or node.op_type != "MatMul"):
            spread = (
                scales if axis is None else np.expand_dims(scales, tuple(a for a in range(steps.ndim) if a != axis))
            )
            added = linear.response(steps * spread - linear.weight, means)
            bias = np.asarray(-added if bias is None else bias - added, np.float32)
        if bias is None:
            return
        per_output = linear.spread(scales) if axis is not None else np.full(bias.shape, scales, np.float32)
        bias_scales = np.asarray(np.float32(input_scale) * per_output, np.float32)
        integers = encode_bias(bias, bias_scales)
        reader, index = (node, 2) if adder is None else adder
        reader.resize_inputs(max(index + 1, len(reader.inputs)))
        shape = integers.shape if adder is None else array_shape(reader.inputs[index])
        value = _dequantized(graph, node, integers.reshape(shape), bias_scales, len(shape) - 1, f"{node.name}_bias")
        reader.replace_input_with(index, value)


def _added_bias(unit: Unit) -> tuple[tuple[ir.Node, int] | None, Floats | None]:
    """The Add right after a MatMul whose constant is a number per output: (node and input index, its numbers)."""
    if unit.root.op_type != "MatMul" or len(unit.nodes) < 2 or unit.nodes[1].op_type != "Add":
        return None, None
    node, outputs = unit.nodes[1], unit.root.outputs[0]
    for index, value in enumerate(node.inputs):
        array = None if value is outputs else array_of(value)
        weight = array_of(unit.root.inputs[1])
        if array is not None and weight is not None and array.size == weight.shape[1] == array.shape[-1]:
            return (node, index), array.reshape(-1).astype(np.float32)
    return None, None


def _rounded_together(
    linear: Linear, scales: NDArray[np.float32], products: NDArray[np.float64]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`round_weights` for weights in their own layout: (outputs, inputs ...) or (inputs, outputs)."""
    is_rows = linear.channel_axis == 0
    rows = linear.weight.reshape(len(linear.weight), -1) if is_rows else linear.weight.T
    spread = np.broadcast_to(scales, len(rows)).astype(np.float32)
    steps, found = round_weights(rows, spread, products, is_scale_free=scales.ndim > 0)
    steps = np.ascontiguousarray(steps.reshape(linear.weight.shape) if is_rows else steps.T)
    return steps, found if scales.ndim else scales


def array_shape(value: ir.Value | None) -> tuple[int, ...]:
    array = array_of(value)
    assert array is not None
    return array.shape


def _per_weight_scale(per_output: Floats, repeats: int, axis: int | None) -> Floats:
    """Bounds of the output channels as bounds of the scales that they have."""
    if axis is None:
        return np.asarray(per_output.max())
    return np.asarray(per_output.reshape(repeats, -1).max(axis=0))


def _dequantized(
    graph: ir.Graph, reader: ir.Node, integers: Array, scales: Floats, axis: int | None, name: str
) -> ir.Value:
    """Integer constants and the DequantizeLinear that makes them numbers, before `reader`."""
    constants = [
        new_constant(graph, integers, f"{name}_quantized"),
        new_constant(graph, np.asarray(scales, np.float32), f"{name}_scale"),
        new_constant(graph, np.zeros(scales.shape, integers.dtype), f"{name}_zero_point"),
    ]
    node = ir.node(
        "DequantizeLinear", constants, {} if axis is None else {"axis": axis}, name=f"{name}_DequantizeLinear"
    )
    return _placed(graph, reader, node, name, integers.shape, before=True)


def _insert_pair(graph: ir.Graph, value: ir.Value, encoding: Encoding, readers: set[ir.Node] | None) -> None:
    """Round `value` for these readers, or for all."""
    name, producer = str(value.name), value.producer()
    if value.is_graph_output():
        value.name = name + "_float"
    uses = [use for use in value.uses() if readers is None or use.node in readers]
    scale = new_constant(graph, np.asarray(encoding.scale, np.float32), f"{name}_scale")
    zero = new_constant(graph, np.asarray(encoding.zero_point, encoding.dtype), f"{name}_zero_point")
    quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_QuantizeLinear")
    shape = () if value.shape is None else value.shape.numpy()
    integers = _placed(
        graph, producer, quantize, f"{name}_quantized", shape, dtype=ir.DataType.from_numpy(np.dtype(encoding.dtype))
    )
    dequantize = ir.node("DequantizeLinear", [integers, scale, zero], name=f"{name}_DequantizeLinear")
    result = _placed(graph, quantize, dequantize, f"{name}_dequantized", shape)
    for use in uses:
        use.node.replace_input_with(use.idx, result)
    if value.is_graph_output() and readers is None:
        graph.outputs[graph.outputs.index(value)] = result
        result.name = name
    elif value.is_graph_output():
        value.name = name


def _placed(
    graph: ir.Graph,
    anchor: ir.Node | None,
    node: ir.Node,
    name: str,
    shape: tuple[int, ...],
    *,
    before: bool = False,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    """Put a node after `anchor` (at the beginning if there is none) or before it; its output, named and typed."""
    (output,) = node.outputs
    output.name, output.shape, output.dtype = name, ir.Shape(shape), dtype
    if anchor is None:
        graph.insert_before(graph[0], node)
    elif before:
        graph.insert_before(anchor, node)
    else:
        graph.insert_after(anchor, node)
    return output
