"""QuantizeLinear and DequantizeLinear, per tensor, per axis and in blocks, to integers and to narrow floats.

The gradient of QuantizeLinear is the straight-through estimator: rounding counts as the identity, saturation as a
constant. The steps are integers that carry a floating gradient, from DequantizeLinear back to QuantizeLinear, so a
quantized graph can be trained as it stands. For a pair of the two that gives the gradient of fake quantization: 1
inside the range and 0 outside for x; for the scale, the rounding error inside and the bound outside.

Source: Bengio et al. 2013 (straight-through), Esser et al. 2020, eq. 3 (scale).
"""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, dtype_from_onnx
from edgec.engine.ops import indexing, pooling, shape
from edgec.engine.ops.casting import INTEGER_LIMITS, cast_array
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


def _spread_scale(scale: Tensor, shape: tuple[int, ...], axis: int, block_size: int) -> Tensor:
    """`_spread` in primitives."""
    if scale.size == 1 and scale.ndim <= 1:
        return p.reshape(scale, [])
    axis %= len(shape)
    if not block_size:
        return p.reshape(scale, [-1 if index == axis else 1 for index in range(len(shape))])
    repeated = [*scale.shape[: axis + 1], block_size, *scale.shape[axis + 1 :]]
    whole = [*scale.shape[:axis], scale.shape[axis] * block_size, *scale.shape[axis + 1 :]]
    blocks = p.reshape(p.expand(p.unsqueeze(scale, [axis + 1]), repeated), whole)
    return blocks if whole[axis] == shape[axis] else p.slice_axes(blocks, [0], [shape[axis]], [axis], [1])


def _gather_scale(slopes: Tensor, scale_shape: tuple[int, ...], axis: int, block_size: int) -> Tensor:
    """The transpose of `_spread_scale`: sum the slopes of every element of the scale."""
    if len(scale_shape) <= 1 and int(np.prod(scale_shape)) == 1:
        return p.reshape(p.reduce_sum(slopes), scale_shape)
    axis %= slopes.ndim
    if not block_size:
        return p.reshape(p.reduce_sum(slopes, [index for index in range(slopes.ndim) if index != axis]), scale_shape)
    missing = scale_shape[axis] * block_size - slopes.shape[axis]
    ends = [missing if index == axis else 0 for index in range(slopes.ndim)]
    slopes = p.pad(slopes, [*[0] * slopes.ndim, *ends])
    blocks = [*scale_shape[: axis + 1], block_size, *scale_shape[axis + 1 :]]
    return p.reduce_sum(p.reshape(slopes, blocks), [axis + 1])


def _range_of(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    """The least and largest value of an integer or narrow float type."""
    if dtype.name in INTEGER_LIMITS:
        return INTEGER_LIMITS[dtype.name]
    if dtype.kind in "iu":
        info = np.iinfo(dtype.name)
        return int(info.min), int(info.max)
    import ml_dtypes

    largest = float(ml_dtypes.finfo(dtype).max)
    return -largest, largest


def _is_narrow_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.name.startswith("float") and dtype.itemsize == 1


@primitive("QuantizeLinear", keeps_inputs=(0, 1, 2))
def quantize_linear(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Array:
    """saturate(round_half_to_even(x / scale) + zero_point); uint8 unless the zero point or `output_dtype` says else.

    Dtype: `precision` (since opset 23) is that of the division. A narrow float is not rounded to integers first.
    """
    dtype = np.dtype(np.uint8)
    if zero_point is not None:
        dtype = zero_point.dtype
    elif output_dtype:
        dtype = dtype_from_onnx(output_dtype)
    if precision:
        x, scale = (array.astype(dtype_from_onnx(precision)) for array in (x, scale))
    ratio = x / _spread(scale, x.shape, axis, block_size)
    if _is_narrow_float(dtype):
        return cast_array(ratio, dtype, bool(saturate))
    steps = np.rint(ratio)
    if zero_point is not None:
        # Half precision cannot count to the zero points of 16 bits.
        steps = steps.astype(np.float32 if steps.dtype.itemsize < 4 else steps.dtype, copy=False)
        steps += _spread(zero_point, x.shape, axis, block_size).astype(steps.dtype)
    low, high = _range_of(dtype)
    return cast_array(np.clip(steps, low, high), dtype)


@quantize_linear.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x, scale = call.input(0), call.input(1)
    axis, block = call.integer("axis"), call.integer("block_size")
    spread = _spread_scale(scale, x.shape, axis, block)
    ratio = x / spread
    dtype = call.output_dtype(0)
    steps = ratio if _is_narrow_float(dtype) else p.call("Round", ratio)
    if call.has(2) and not _is_narrow_float(dtype):
        zero = call.input(2).data.astype(np.int32)
        steps = steps + p.constant(_spread(zero, x.shape, axis, block).astype(x.dtype))
    low, high = _range_of(dtype)
    inside = (steps >= float(low)) & (steps <= float(high))
    dx = p.mask(inside, dy) / spread
    return dx, _gather_scale(-dx * ratio, scale.shape, axis, block) if call.wants(1) else None


quantize_linear.samples = lambda: [
    Sample([normal(2, 3, 4) * 100, np.float32(0.5), np.uint8(128)], varied=()),
    Sample([normal(2, 3, 4) * 10, np.float32(0.05)], varied=()),
    Sample([normal(2, 3, 4), positive(3) * 0.02, np.array([0, 1, -2], np.int8)], {"axis": 1}, varied=()),
    Sample([np.array([0.5, 1.5, -0.5, 2.5], np.float32), np.float32(1.0), np.int8(0)], varied=()),
    Sample([normal(3, 4), np.float32(0.01)], {"output_dtype": 3}, varied=()),
    Sample([normal(2, 4), positive(2, 2) * 0.02, integers(2, 2).astype(np.int8)], {"axis": 1, "block_size": 2},
           varied=()),
    Sample([normal(2, 4) * 100, np.float32(0.01), np.uint16(32768)], varied=()),
    Sample([np.array([1e30, -1e30, 0.0], np.float32), np.float32(1e-3), np.int8(5)], varied=()),
    Sample([normal(0, 3), np.float32(0.5), np.uint8(128)], varied=()),
]  # fmt: skip


@primitive("DequantizeLinear", keeps_inputs=(0, 1, 2))
def dequantize_linear(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    """(x - zero_point) * scale, in the dtype of the scale, or in `output_dtype` (since opset 23)."""
    product = _steps(x, zero_point, axis, block_size).astype(scale.dtype) * _spread(scale, x.shape, axis, block_size)
    return product.astype(dtype_from_onnx(output_dtype)) if output_dtype else product


def _steps(x: Array, zero_point: Array | None, axis: int, block_size: int) -> Array:
    """The integers less the zero point, exactly."""
    exact = np.float32 if _is_narrow_float(x.dtype) else np.int32
    steps = x.astype(np.float32).astype(exact) if x.dtype.kind == "V" else x.astype(exact)
    if zero_point is None:
        return steps
    return np.asarray(steps - _spread(zero_point, x.shape, axis, block_size).astype(exact))


@dequantize_linear.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x, scale = call.input(0), call.input(1)
    axis, block = call.integer("axis"), call.integer("block_size")
    dy = p.cast(dy, scale.dtype)
    dx = dy * _spread_scale(scale, x.shape, axis, block) if call.wants(0) else None
    if not call.wants(1):
        return (dx,)
    # In primitives, so that the integers may be traced, and differentiated again where they carry a gradient.
    steps = p.cast(x, scale.dtype)
    if call.has(2):
        zero = _spread(call.input(2).data, x.shape, axis, block).astype(np.float32)
        steps = steps - p.constant(zero.astype(scale.dtype))
    return dx, _gather_scale(dy * steps, scale.shape, axis, block)


dequantize_linear.samples = lambda: [
    Sample([integers(2, 3, 4, high=255).astype(np.uint8), np.float32(0.5), np.uint8(128)]),
    Sample([integers(2, 3, low=-99).astype(np.int32), np.float32(0.05)]),
    Sample([integers(2, 3, 4, low=-9).astype(np.int8), positive(3), np.array([0, 1, -2], np.int8)], {"axis": 1}),
    Sample([integers(3, 2, low=-9).astype(np.int8), positive(3)], {"axis": 0}),
    Sample([integers(2, 4).astype(np.int8), positive(2, 2), np.zeros((2, 2), np.int8)], {"axis": 1, "block_size": 2}),
    Sample([integers(2, 3).astype(np.int8), positive(2, 2)], {"axis": 1, "block_size": 2}, reference="onnx"),
    Sample([np.array([-128, 127], np.int8), np.float32(1e30), np.int8(127)], varied=()),
    Sample([np.zeros((0, 3), np.uint8), np.float32(0.5), np.uint8(128)], varied=()),
]

# Between the two, the steps may be moved about; where they come from quantized floats, their gradient goes along.
for _made in (
    quantize_linear, indexing.gather, indexing.pad, indexing.slice_of, pooling.max_pool, shape.concat, shape.expand,
    shape.flatten, shape.identity, shape.reshape, shape.split, shape.squeeze, shape.tile, shape.transpose,
    shape.unsqueeze,
):  # fmt: skip
    _made.carries_integers = True
