"""What a QuantizeLinear or DequantizeLinear node says, where it is of the form that integer arithmetic takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.values import Array, array_of, is_default_op

__all__ = ["Scaled", "read_dequantize", "read_quantize"]

_Scalar = TypeVar("_Scalar", bound=np.generic)

_BYTES = (ir.DataType.UINT8, ir.DataType.INT8)


@dataclass(frozen=True, eq=False)
class Scaled:
    """A QuantizeLinear or DequantizeLinear with constant parameters: real = scale · (integer - zero point).

    Attributes:
        node: The node itself.
        source: What it reads: integers (DequantizeLinear) or real numbers (QuantizeLinear).
        scale: float32, finite, not negative, and positive in a QuantizeLinear; a scalar, or one per index of ``axis``.
        zero_point: Of the integers' type; a scalar, or one per index of ``axis``.
        axis: As written in the node; it may be negative, and means nothing for scalars.
    """

    node: ir.Node
    source: ir.Value
    scale: NDArray[np.float32]
    zero_point: Array
    axis: int

    @property
    def dtype(self) -> ir.DataType:
        """The type of the integers."""
        return ir.DataType.from_numpy(self.zero_point.dtype)

    @property
    def is_byte(self) -> bool:
        """Whether the integers are of 8 bits."""
        return self.dtype in _BYTES

    @property
    def is_per_tensor(self) -> bool:
        return self.scale.ndim == 0 and self.zero_point.ndim == 0

    @property
    def is_activation(self) -> bool:
        """Whether it has the form that activations have: 8 bits, one scale and zero point."""
        return self.is_byte and self.is_per_tensor

    @property
    def limits(self) -> tuple[int, int]:
        """The least and largest integer of 8 bits."""
        return (0, 255) if self.dtype == ir.DataType.UINT8 else (-128, 127)

    def is_like(self, other: Scaled) -> bool:
        """Whether integers of ``other`` mean the same real numbers."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.is_per_tensor or self.axis == other.axis)
        )


def read_dequantize(value: ir.Value | None) -> Scaled | None:
    """What makes ``value``, if that is a DequantizeLinear of uint8, int8 or int32 to float32."""
    node = None if value is None else value.producer()
    if node is None or not is_default_op(node, "DequantizeLinear"):
        return None
    source = node.inputs[0]
    if source is None or source.dtype not in (*_BYTES, ir.DataType.INT32):
        return None
    return _read(node, source, source.dtype)


def read_quantize(node: ir.Node) -> Scaled | None:
    """``node``, if it is a QuantizeLinear of float32 to uint8 or int8."""
    if not is_default_op(node, "QuantizeLinear") or node.inputs[0] is None:
        return None
    dtype = ir.DataType.UINT8
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    if zero_point is not None and zero_point.dtype is not None:
        dtype = zero_point.dtype
    elif "output_dtype" in node.attributes:
        dtype = ir.DataType(node.attributes["output_dtype"].as_int() or dtype)
    scaled = _read(node, node.inputs[0], dtype) if dtype in _BYTES else None
    return scaled if scaled is not None and bool(scaled.scale.all()) else None


def _read(node: ir.Node, source: ir.Value, dtype: ir.DataType) -> Scaled | None:
    block_size = node.attributes.get("block_size")
    if block_size is not None and block_size.as_int():
        return None
    scale = array_of(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = array_of(given)
    if scale is None or scale.dtype != np.float32 or (given is not None and zero_point is None):
        return None
    if scale.ndim > 1 or not bool((np.isfinite(scale) & (scale >= np.float32(0))).all()):
        return None
    if zero_point is None:
        zero_point = np.zeros((), dtype.numpy())
    axis = node.attributes.get("axis")
    return Scaled(
        node=node,
        source=source,
        scale=np.asarray(_plain(scale), np.float32),
        zero_point=_plain(zero_point),
        axis=1 if axis is None else axis.as_int(),
    )


def _plain(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """A scalar where all elements are equal."""
    if array.size == 1:
        return array.reshape(())
    return np.asarray(array.flat[0]) if array.size and bool((array == array.flat[0]).all()) else array
