"""Let quantized activations have the signedness that the target's instructions want."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, is_default_op
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant

__all__ = ["UnifySignedness"]

_BYTES = {ir.DataType.INT8, ir.DataType.UINT8}

_MOVES = (
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
"""Operators whose results are some of the bytes they get, whatever these mean; MaxPool keeps their order."""

_ZERO_POINTS = {"ConvInteger": (2,), "DequantizeLinear": (2,), "MatMulInteger": (2, 3)}
"""Input of the zero point of operand 0, and 1 where that may be data too."""


@dataclass(frozen=True)
class UnifySignedness(InPlacePass):
    """Adds or takes 128 from quantized tensors of the other signedness, and from their zero points.

    Tensors that operators only move hang together: all of them change or none. They change where each is made by
    QuantizeLinear, a table or such an operator, and read by an operator with a zero point, a cast to int32 or such an
    operator; none of them is an input or output of the graph.

    Attributes:
        dtype: ``int8`` or ``uint8``.
    """

    dtype: str

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        wanted = ir.DataType[self.dtype.upper()]
        (other,) = _BYTES - {wanted}
        for group in _groups(model.graph, other):
            if all(_may_change(value) for value in group):
                _change(model.graph, group, wanted)
                tally.count(f"{other.name.lower()} tensors as {self.dtype}")
        return tally.result(model)


def _groups(graph: ir.Graph, dtype: ir.DataType) -> Iterator[list[ir.Value]]:
    """The tensors of the type that hang together."""
    seen: set[ir.Value] = set()
    for node in graph:
        for value in node.outputs:
            if value.dtype != dtype or value in seen:
                continue
            group, waiting = [], [value]
            while waiting:
                member = waiting.pop()
                if member in seen:
                    continue
                seen.add(member)
                group.append(member)
                waiting += [near for near in _neighbours(member) if near.dtype == dtype and array_of(near) is None]
            yield group


def _neighbours(value: ir.Value) -> Iterator[ir.Value]:
    producer = value.producer()
    for node in [*([producer] if producer is not None else []), *(usage.node for usage in value.uses())]:
        if is_default_op(node, *_MOVES) and not _is_table(node):
            yield from (data for data in _data_inputs(node) if data is not value)
            yield from (output for output in node.outputs if output is not value)


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    """What a moving operator moves; its other inputs are indices and sizes."""
    values = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return [value for value in values if value is not None]


def _is_table(node: ir.Node) -> bool:
    return is_default_op(node, "Gather") and array_of(node.inputs[0]) is not None


def _may_change(value: ir.Value) -> bool:
    producer = value.producer()
    if producer is None or value.is_graph_output() or value.is_graph_input():
        return False
    is_made = (is_default_op(producer, "QuantizeLinear") and _is_constant(producer, 2)) or _is_table(producer)
    if not is_made and not (is_default_op(producer, *_MOVES) and value.index() == 0) and producer.op_type != "Split":
        return False
    return all(_reads_either(usage.node, usage.idx) for usage in value.uses())


def _is_constant(node: ir.Node, index: int) -> bool:
    """Whether an input is constant or left out."""
    return len(node.inputs) <= index or node.inputs[index] is None or array_of(node.inputs[index]) is not None


def _reads_either(node: ir.Node, index: int) -> bool:
    if is_default_op(node, *_ZERO_POINTS):
        places = _ZERO_POINTS[node.op_type]
        return index < len(places) and _is_constant(node, places[index])
    if is_default_op(node, "Cast"):
        return bool(node.attributes["to"].as_int() == ir.DataType.INT32)
    return is_default_op(node, *_MOVES) and node.inputs[index] in _data_inputs(node)


def _change(graph: ir.Graph, group: list[ir.Value], dtype: ir.DataType) -> None:
    for value in group:
        producer = value.producer()
        assert producer is not None
        if is_default_op(producer, "QuantizeLinear"):
            producer.attributes.pop("output_dtype", None)
            _flip_input(graph, producer, 2, dtype)
        elif _is_table(producer):
            _flip_input(graph, producer, 0, dtype)
        else:
            for index, moved in enumerate(producer.inputs):
                if moved in _data_inputs(producer) and array_of(moved) is not None:
                    _flip_input(graph, producer, index, dtype)
        for usage in tuple(value.uses()):
            if is_default_op(usage.node, *_ZERO_POINTS):
                _flip_input(graph, usage.node, _ZERO_POINTS[usage.node.op_type][usage.idx], dtype)
            elif is_default_op(usage.node, "Cast"):
                _add_to_cast(graph, usage.node, 128 if dtype == ir.DataType.INT8 else -128)
        value.type = ir.TensorType(dtype)  # not `value.dtype`, whose type a clone of the model shares


def _flip_input(graph: ir.Graph, node: ir.Node, index: int, dtype: ir.DataType) -> None:
    """Make a constant of bytes one of the other signedness; what is left out is a zero."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = array_of(value) if value is not None else np.zeros((), (_BYTES - {dtype}).pop().numpy())
    assert array is not None
    if array.dtype == dtype.numpy():
        return
    flipped = (array.view(np.uint8) ^ np.uint8(0x80)).view(dtype.numpy())
    name = value.name if value is not None else f"{node.outputs[0].name}_zero_point"
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, new_constant(graph, flipped, f"{name}_{dtype.name.lower()}"))


def _add_to_cast(graph: ir.Graph, cast: ir.Node, amount: int) -> None:
    """What the cast gave before: the bytes have ``amount`` less now."""
    out = cast.outputs[0]
    addend = new_constant(graph, np.array(amount, np.int32), f"{out.name}_offset")
    add = ir.node("Add", [out, addend], name=f"{cast.name or out.name}_offset")
    add.outputs[0].shape, add.outputs[0].type = out.shape, out.type
    add.outputs[0].name = f"{out.name}_unsigned" if amount > 0 else f"{out.name}_signed"
    out.replace_all_uses_with(add.outputs[0])
    add.replace_input_with(0, out)
    graph.insert_after(cast, add)
