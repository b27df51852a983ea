"""What a node and a value of a graph are, as far as the graph tells."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = [
    "Array",
    "array_of",
    "is_default_op",
    "only_consumer",
    "pads_with_zeros_or_elements",
    "rank_of",
    "static_shape",
]

Array: TypeAlias = NDArray[np.generic]


def is_default_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of these operators of the default ONNX domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def array_of(value: ir.Value | None) -> Array | None:
    """The array of a constant value (an initializer that is no input, or a Constant node's output), else None."""
    if value is None or value.is_graph_input():
        return None
    if not value.is_initializer() and not is_default_op(value.producer(), "Constant"):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.numpy()


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of ``value`` where every dimension is known, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return value.shape.numpy()


def rank_of(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that uses ``value``, once; None where there are others or it leaves the graph."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def pads_with_zeros_or_elements(pad: ir.Node) -> bool:
    """Whether what a Pad adds are numbers that quantization keeps: zero, or (in modes like reflect) the data's own."""
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return True
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    array = array_of(value)
    return value is None or (array is not None and not array.any())
