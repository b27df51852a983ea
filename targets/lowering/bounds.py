"""How large the values of a quantized model can become, whatever its inputs are: sums of bytes have known bounds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.emitter import Emitter, dtype_name, static_shape

__all__ = ["largest"]

_MOST_NODES = 8
"""So far back a bound is looked for; what lies between two quantizers is shorter."""

_UNKNOWN = np.array(np.inf)


def largest(emitter: Emitter, value: ir.Value | None, most_nodes: int = _MOST_NODES) -> np.ndarray:
    """A bound of the elements' magnitudes, but for the rounding of floats; it is infinite where none is known.

    Returns:
        Dtype: float64. Shape: one that broadcasts over the value; a convolution's bound differs between channels.
    """
    if value is None:
        return _UNKNOWN
    if (array := emitter.constant(value)) is not None:
        return np.abs(array.astype(np.float64))
    name = dtype_name(value)
    if name in ("int8", "uint8"):
        return np.array(float(max(abs(int(bound)) for bound in (np.iinfo(name).min, np.iinfo(name).max))))
    node = value.producer()
    if node is None or most_nodes == 0:
        return _UNKNOWN

    def operand(index: int) -> np.ndarray:
        return largest(emitter, node.inputs[index], most_nodes - 1)

    if node.op_type in ("ConvInteger", "MatMulInteger"):
        found = _sum_of_products(emitter, node)
    elif node.op_type == "Add":
        found = operand(0) + operand(1)
    elif node.op_type == "DequantizeLinear":
        found = _dequantized(emitter, node, operand(0))
    elif node.op_type == "Relu":
        found = operand(0)
    else:
        return _UNKNOWN
    if name == "int32" and not (found <= np.iinfo(np.int32).max).all():  # it wraps around
        return _UNKNOWN
    return found


def _sum_of_products(emitter: Emitter, node: ir.Node) -> np.ndarray:
    """Per output channel: the weights' magnitudes, times how far the data can be from their zero point."""
    weights = emitter.constant(node.inputs[1])
    zeros = [emitter.constant(value) for value in node.inputs[2:]]
    if weights is None or any(zero is None or zero.size != 1 for zero in zeros):
        return _UNKNOWN
    zero, weights_zero = [float(zero.reshape(())) for zero in zeros if zero is not None] + [0.0] * (2 - len(zeros))
    info = np.iinfo(dtype_name(node.inputs[0]))
    reach = max(float(info.max) - zero, zero - float(info.min))
    magnitudes: np.ndarray = np.abs(weights.astype(np.float64) - weights_zero) * reach
    if node.op_type == "MatMulInteger":
        return magnitudes.sum(axis=-2) if weights.ndim == 2 else _UNKNOWN
    by_channel: np.ndarray = magnitudes.reshape(len(weights), -1).sum(axis=1)
    return by_channel.reshape(-1, *[1] * (weights.ndim - 2))


def _dequantized(emitter: Emitter, node: ir.Node, steps: np.ndarray) -> np.ndarray:
    scale, *zero = [emitter.constant(value) for value in node.inputs[1:]]
    rank = len(static_shape(node.inputs[0]))
    if scale is None or any(array is None for array in zero) or integer(node, "block_size", 0):
        return _UNKNOWN
    along = [-1 if axis == integer(node, "axis", 1) % rank else 1 for axis in range(rank)] if scale.size > 1 else []
    offset = max((float(np.abs(array.astype(np.float64)).max()) for array in zero if array is not None), default=0.0)
    return (steps + offset) * np.abs(scale.astype(np.float64)).reshape(along)
