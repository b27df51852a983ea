"""Take a scale and a shift per output channel into the weights and bias of a linear operator.

scale · (W∗x + b) + shift  =  (scale·W)∗x + (scale·b + shift)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.values import Array, array_of, only_consumer
from edgec.passes.rewiring import bypass, new_constant, rounded_to

__all__ = ["ABSORBERS", "absorb_affine", "channel_count", "refusal"]

ABSORBERS = ("Conv", "ConvTranspose", "Gemm")
"""Operators with constant weights in input 1 and an optional bias in input 2."""


def refusal(producer: ir.Node, *, scales: bool) -> str | None:
    """Why ``producer`` cannot take in the node after it; None if it can.

    Args:
        producer: One of `ABSORBERS`.
        scales: Whether the weights change as well, and not the bias alone.
    """
    if only_consumer(producer.outputs[0]) is None:
        return f"the result of {producer.op_type} '{producer.name}' is used elsewhere too"
    if channel_count(producer) is None or (scales and array_of(producer.inputs[1]) is None):
        return f"the weights of {producer.op_type} '{producer.name}' are not constant"
    bias = _bias_of(producer)
    if bias is None:
        return f"the bias of {producer.op_type} '{producer.name}' is not constant per channel"
    return None


def channel_count(producer: ir.Node) -> int | None:
    """The number of output channels (columns, for Gemm), where the shape of the weights is known."""
    weight = producer.inputs[1]
    if weight is None or weight.shape is None or not weight.shape.is_static():
        return None
    shape = weight.shape.numpy()
    if producer.op_type == "Conv":
        return shape[0]
    if producer.op_type == "ConvTranspose":
        return shape[1] * _attribute_int(producer, "group", 1)
    return shape[0 if _attribute_int(producer, "transB", 0) else 1]


def absorb_affine(
    producer: ir.Node, scale: NDArray[np.float64] | None, shift: NDArray[np.float64], node: ir.Node
) -> str | None:
    """Fold a scale (None for 1) and a shift per channel into ``producer`` and remove ``node``, which applied them.

    Returns:
        None, or why nothing was changed: a result that does not fit the data type, or names that forbid it.
    """
    graph = producer.graph
    assert isinstance(graph, ir.Graph)
    bias, weight = _bias_of(producer), producer.inputs[1]
    assert bias is not None and weight is not None and weight.dtype is not None
    dtype = weight.dtype.numpy()
    new_weight: Array | None = None
    if scale is not None:
        old_weight = array_of(weight)
        assert old_weight is not None
        with np.errstate(all="ignore"):  # what overflows is refused below
            scaled = old_weight.astype(np.float64) * _along_outputs(producer, scale, old_weight)
            bias = bias * scale
        new_weight = rounded_to(scaled, dtype)
    new_bias = rounded_to(bias + shift, dtype)
    if new_bias is None or (scale is not None and new_weight is None):
        return f"folding it would overflow {dtype}"
    if not bypass(node, producer.outputs[0]):
        return "it is an output of the model, and so is its input"
    old_bias = producer.inputs[2] if len(producer.inputs) > 2 else None
    if new_weight is not None:
        _set_constant(producer, 1, new_weight, f"{producer.name}_weight")
    producer.resize_inputs(max(3, len(producer.inputs)))
    if old_bias is None:
        producer.replace_input_with(2, new_constant(graph, new_bias, f"{producer.name}_bias"))
    else:
        _set_constant(producer, 2, new_bias, f"{producer.name}_bias")
    producer.attributes.pop("beta", None)
    return None


def _set_constant(node: ir.Node, index: int, array: Array, name: str) -> None:
    """Change a constant input: in place, keeping its name, unless something else reads it too."""
    value = node.inputs[index]
    graph = node.graph
    assert value is not None and isinstance(graph, ir.Graph)
    if len(value.uses()) == 1 and value.is_initializer() and not value.is_graph_output():
        value.const_value = ir.tensor(array, name=value.name)
        value.shape, value.dtype = ir.Shape(array.shape), value.const_value.dtype
    else:
        node.replace_input_with(index, new_constant(graph, array, name))


def _bias_of(producer: ir.Node) -> NDArray[np.float64] | None:
    """The bias as one number per channel, zeros where there is none; None if it is no constant of that form."""
    channels = channel_count(producer)
    if channels is None:
        return None
    if len(producer.inputs) < 3 or producer.inputs[2] is None:
        return np.zeros(channels)
    array = array_of(producer.inputs[2])
    if array is None or array.size not in (1, channels) or (array.ndim > 1 and array.shape[-1] != array.size):
        return None
    beta = producer.attributes.get("beta")
    factor = 1.0 if beta is None else beta.as_float()
    return np.array(np.broadcast_to(array.astype(np.float64).reshape(-1) * factor, (channels,)))


def _along_outputs(producer: ir.Node, scale: NDArray[np.float64], weight: Array) -> NDArray[np.float64]:
    """``scale`` in the shape in which it multiplies the weights."""
    if producer.op_type == "Conv":
        return scale.reshape(-1, *[1] * (weight.ndim - 1))
    if producer.op_type == "ConvTranspose":
        # (inputs, outputs / group, ...): the inputs of a group make the outputs of that group only.
        group = _attribute_int(producer, "group", 1)
        per_group = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
        return per_group.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    return scale.reshape(-1, 1) if _attribute_int(producer, "transB", 0) else scale.reshape(1, -1)


def _attribute_int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
