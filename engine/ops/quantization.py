"""QuantizeLinear and DequantizeLinear, per tensor, per axis and in blocks.

QuantizeLinear gives integers and is not differentiable: quantization-aware training wraps the pair in a rule of its
own (a straight-through estimator).
"""

from __future__ import annotations

import numpy as np
from edgec.engine import primitives as p
from edgec.engine.arrays import Array, dtype_from_onnx
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import integers, normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _spread(parameter: Array, shape: tuple[int, ...], axis: int, block_size: int) -> Array:
    """A scale or zero point shaped to broadcast against `shape`."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    if block_size:
        return np.repeat(parameter, block_size, axis)[tuple(slice(size) for size in shape)]
    return parameter.reshape([-1 if index == axis % len(shape) else 1 for index in range(len(shape))])


def _range_of(dtype: np.dtype[np.generic]) -> tuple[int, int]:
    if dtype.name in ("int4", "uint4"):
        return (-8, 7) if dtype.name == "int4" else (0, 15)
    info = np.iinfo(dtype.name)
    return int(info.min), int(info.max)


@primitive("QuantizeLinear", differentiable=False)
def quantize_linear(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    saturate: int = 1,  # noqa: ARG001
) -> Array:
    """saturate(round_half_to_even(x / scale) + zero_point); uint8 unless the zero point or `output_dtype` says else."""
    dtype = np.dtype(np.uint8)
    if zero_point is not None:
        dtype = zero_point.dtype
    elif output_dtype:
        dtype = dtype_from_onnx(output_dtype)
    steps = np.rint(x / _spread(scale, x.shape, axis, block_size))
    if zero_point is not None:
        steps += _spread(zero_point, x.shape, axis, block_size).astype(steps.dtype)
    low, high = _range_of(dtype)
    return np.clip(steps, low, high).astype(dtype)


quantize_linear.samples = lambda: [
    Sample([normal(2, 3, 4) * 100, np.float32(0.5), np.uint8(128)]),
    Sample([normal(2, 3, 4) * 10, np.float32(0.05)]),
    Sample([normal(2, 3, 4), positive(3) * 0.02, np.array([0, 1, -2], np.int8)], {"axis": 1}),
    Sample([np.array([0.5, 1.5, -0.5, 2.5], np.float32), np.float32(1.0), np.int8(0)]),
    Sample([normal(3, 4), np.float32(0.01)], {"output_dtype": 3}),
    Sample([normal(2, 4), positive(2, 2) * 0.02, integers(2, 2).astype(np.int8)], {"axis": 1, "block_size": 2}),
]


@primitive("DequantizeLinear", keeps_inputs=(0, 1, 2))
def dequantize_linear(
    x: Array, scale: Array, zero_point: Array | None = None, *, axis: int = 1, block_size: int = 0
) -> Array:
    """(x - zero_point) * scale, in the dtype of the scale."""
    steps = x.astype(np.int32)
    if zero_point is not None:
        steps = steps - _spread(zero_point, x.shape, axis, block_size).astype(np.int32)
    return steps.astype(scale.dtype) * _spread(scale, x.shape, axis, block_size)


@dequantize_linear.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    """Only the scale is a float; the integers have no gradient."""
    if not call.wants(1):
        return (None,)
    x, scale = call.input(0), call.input(1)
    axis, block = call.integer("axis"), call.integer("block_size")
    steps = x.data.astype(np.int32)
    if call.has(2):
        steps = steps - _spread(call.input(2).data, x.shape, axis, block).astype(np.int32)
    along = dy * p.constant(steps.astype(scale.dtype))
    if block:
        split = axis % len(x.shape)
        blocks = [*x.shape[:split], scale.shape[split], block, *x.shape[split + 1 :]]
        return None, p.reduce_sum(p.reshape(along, blocks), [split + 1])
    spread = _spread(scale.data, x.shape, axis, 0).shape
    return None, p.reshape(p.sum_to(along, spread), scale.shape)


dequantize_linear.samples = lambda: [
    Sample([integers(2, 3, 4, high=255).astype(np.uint8), np.float32(0.5), np.uint8(128)]),
    Sample([integers(2, 3, low=-99).astype(np.int32), np.float32(0.05)]),
    Sample([integers(2, 3, 4, low=-9).astype(np.int8), positive(3), np.array([0, 1, -2], np.int8)], {"axis": 1}),
    Sample([integers(3, 2, low=-9).astype(np.int8), positive(3)], {"axis": 0}),
    Sample([integers(2, 4).astype(np.int8), positive(2, 2), np.zeros((2, 2), np.int8)], {"axis": 1, "block_size": 2}),
]
