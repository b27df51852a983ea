"""Rarer ways to move values: Col2Im, CenterCropPad, CastLike, and the old operators Upsample and Scatter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, is_float
from edgec.engine.ops.casting import cast_array
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


@defined("Col2Im")
def col2im(
    x: Tensor,
    image_shape: Tensor,
    block_shape: Tensor,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Add columns back to the image they were taken from, overlaps summed.

    Shape: x (n, c * taps, positions); result (n, c, *image_shape).
    """
    image, block = [int(size) for size in image_shape.data], [int(size) for size in block_shape.data]
    rank, taps = len(image), int(np.prod(block))
    steps, spacing, around = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    padded = [size + around[axis] + around[axis + rank] for axis, size in enumerate(image)]
    index = np.zeros([1] * (2 * rank), np.int64)
    for axis in range(rank):
        count = (padded[axis] - (block[axis] - 1) * spacing[axis] - 1) // steps[axis] + 1
        met = np.arange(block[axis])[:, None] * spacing[axis] + np.arange(count) * steps[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = met.shape
        index = index * padded[axis] + met.reshape(shape)
    n, channels = x.shape[0], x.shape[1] // taps
    columns = p.reshape(x, [n, channels, index.size])
    places = np.broadcast_to(index.reshape(-1), columns.shape)
    flat = p.zeros([n, channels, int(np.prod(padded))], x.dtype)
    y = p.call("ScatterElements", flat, p.constant(np.ascontiguousarray(places)), columns, axis=2, reduction="add")
    y = p.reshape(y, [n, channels, *padded])
    if not any(around):
        return y
    ends = [around[axis] + size for axis, size in enumerate(image)]
    return p.slice_axes(y, list(around[:rank]), ends, list(range(2, rank + 2)), [1] * rank)


col2im.samples = lambda: [
    Sample([normal(1, 8, 6), np.array([3, 4]), np.array([2, 2])]),
    Sample([normal(2, 4, 4), np.array([5, 5]), np.array([2, 2])], {"strides": [3, 3], "pads": [0, 0, 0, 0]}, order=1),
    Sample([normal(1, 4, 9), np.array([3, 3]), np.array([2, 2])], {"dilations": [2, 2], "pads": [1, 1, 1, 1]}, order=1),
    Sample([normal(1, 4, 4) * 1e30, np.array([3, 3]), np.array([2, 2])], varied=()),
    Sample([normal(0, 4, 4), np.array([3, 3]), np.array([2, 2])], reference="", varied=()),
]


@defined("CenterCropPad")
def center_crop_pad(x: Tensor, shape: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Cut or fill up around the middle to a shape; an odd pixel is missing, or added, at the end."""
    over = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for axis, size in zip(over, shape.data, strict=True):
        more = int(size) - x.shape[axis]
        # Rounded down when filling and when cutting, as the operator's function has it.
        begins[axis] = more // 2 if more > 0 else -(-more // 2)
        ends[axis] = more - begins[axis]
    return p.pad(x, [*begins, *ends])


center_crop_pad.samples = lambda: [
    Sample([normal(3, 6), np.array([5, 3])]),
    Sample([normal(3, 4, 2), np.array([6, 1])], {"axes": [-2, 0]}, order=1),
    Sample([normal(2, 3), np.array([2, 3])]),
    Sample([normal(0, 3), np.array([0, 5])], varied=()),
]


@primitive("CastLike", keeps_inputs=())
def cast_like(x: Array, like: Array, *, round_mode: str = "up", saturate: int = 1) -> Array:
    """`x` in the type of `like`."""
    return cast_array(x, like.dtype, bool(saturate), round_mode)


@cast_like.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    # Integers that carry a gradient carry it as a float (see QuantizeLinear).
    return (p.cast(dy, call.dtype(0)) if is_float(call.dtype(0)) else dy,)


cast_like.samples = lambda: [
    Sample([normal(2, 3), normal(1)], order=1, varied=[0]),
    Sample([normal(2, 3) * 10, integers(1)], varied=()),
    Sample([integers(3), normal(1)], varied=()),
    Sample([np.array([np.nan, 3e38, -np.inf], np.float32), np.zeros(1, np.float16)], varied=()),
    Sample([normal(0, 2), integers(1)], varied=()),
]


@defined("Upsample")
def upsample(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    """The ancestor of Resize, dropped in opset 10."""
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return p.call("Resize", x, None, scales, **attributes)


upsample.samples = lambda: [
    Sample([normal(1, 2, 3, 2), np.array([1, 1, 2, 3], np.float32)], varied=[0]),
    Sample([normal(1, 2, 3, 2), np.array([1, 1, 2, 1.5], np.float32)], {"mode": "linear"}, varied=[0], order=1),
    Sample([normal(1, 1, 2, 2), np.array([1, 1, 1, 1], np.float32)], varied=()),
    Sample([normal(0, 1, 2, 2), np.array([1, 1, 2, 2], np.float32)], reference="", varied=()),
]


@defined("Scatter")
def scatter(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0) -> Tensor:
    """The former name of ScatterElements, dropped in opset 11."""
    return p.call("ScatterElements", x, indices, updates, axis=axis)


scatter.samples = lambda: [
    Sample([normal(3, 4), np.array([[1, 0, 2, 1]]), normal(1, 4, seed=1)]),
    Sample([normal(3, 4), np.array([[1], [0], [3]]), normal(3, 1)], {"axis": 1}, order=1),
    Sample([normal(0, 3), np.zeros((0, 3), np.int64), normal(0, 3)], reference="", varied=()),
]
