"""Selecting by condition, uniqueness or place, and small matrices of ones and zeros."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, dtype_from_onnx
from edgec.engine.ops.defined import defined
from edgec.engine.ops.running import running_products
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import integers, normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


@primitive("NonZero", differentiable=False)
def non_zero(x: Array) -> Array:
    """The indices of what is not zero. Shape: (rank, count)."""
    return np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1)


non_zero.samples = lambda: [
    Sample([integers(3, 4, high=2).astype(np.float32)]),
    Sample([np.array([True, False, True])]),
    Sample([np.array([0.0, -0.0, np.nan, np.inf], np.float32)]),
    Sample([np.zeros((0, 3), np.float32)]),
]


@primitive("Compress", keeps_inputs=(1,))
def compress(x: Array, condition: Array, *, axis: int | None = None) -> Array:
    """The slices (or elements) where the condition holds; what lies beyond a short condition is dropped."""
    return np.compress(condition, x, axis)


@compress.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    places = p.constant(np.flatnonzero(call.input(1).data))
    shape, axis = call.shape(0), call.attributes.get("axis")
    size = int(np.prod(shape)) if axis is None else shape[call.integer("axis")]
    over = 0 if axis is None else call.integer("axis") % len(shape)
    front = p.swap_axes(dy, 0, over)
    zeros = p.zeros([size, *front.shape[1:]], dy.dtype)
    spread = p.call("ScatterND", zeros, p.unsqueeze(places, [-1]), front)
    return (p.reshape(p.swap_axes(spread, 0, over), shape),)


compress.samples = lambda: [
    Sample([normal(3, 4), np.array([False, True, True])], {"axis": 0}),
    Sample([normal(3, 4), np.array([True, False, True])], {"axis": -1}),
    Sample([normal(3, 2), np.array([False, True, True, False, True])]),
    Sample([normal(0, 2), np.zeros(0, bool)], {"axis": 0}),
]


@primitive("Unique", differentiable=False)
def unique(x: Array, *, axis: int | None = None, sorted: int = 1) -> tuple[Array, ...]:
    """The different values (or slices along an axis), where each is first, which one each was, and how often."""
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        values = np.take(values, order, axis or 0)
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return values, *(indices.astype(np.int64) for indices in (first, inverse, counts))


unique.samples = lambda: [
    Sample([integers(8, high=4).astype(np.float32)], outputs=4),
    Sample([integers(8, high=4)], {"sorted": 0}, outputs=4),
    Sample([integers(5, 2, high=2).astype(np.float32)], {"axis": 0}, outputs=4),
    Sample([np.zeros(0, np.float32)], outputs=4),
]


@primitive("Trilu", keeps_inputs=(1,))
def trilu(x: Array, k: Array | None = None, *, upper: int = 1) -> Array:
    """The upper or lower triangle of each matrix, from diagonal `k` on; zeros elsewhere."""
    diagonal = 0 if k is None else int(k.reshape(()))
    return np.asarray(np.triu(x, diagonal) if upper else np.tril(x, diagonal))


@trilu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.call("Trilu", dy, call.input(1) if call.has(1) else None, upper=call.attribute("upper")),)


trilu.samples = lambda: [
    Sample([normal(2, 3, 4)]),
    Sample([normal(4, 3), np.array(1)], {"upper": 0}),
    Sample([integers(3, 3), np.array(-1)]),
    Sample([normal(2, 2), np.array(9)]),
    Sample([normal(2, 0, 3)]),
]


@primitive("EyeLike", differentiable=False)
def eye_like(x: Array, *, dtype: int | None = None, k: int = 0) -> Array:
    rows, columns = x.shape
    return np.eye(rows, columns, k, x.dtype if dtype is None else dtype_from_onnx(dtype))


eye_like.samples = lambda: [
    Sample([normal(3, 4)]),
    Sample([integers(3, 3)], {"k": -1, "dtype": 1}),
    Sample([normal(0, 3)]),
]


@primitive("ReverseSequence", keeps_inputs=(1,))
def reverse_sequence(x: Array, lengths: Array, *, batch_axis: int = 1, time_axis: int = 0) -> Array:
    """Each sequence reversed up to its own length."""
    return np.take_along_axis(x, _reversed_places(x.shape, lengths, batch_axis, time_axis), time_axis)


def _reversed_places(shape: tuple[int, ...], lengths: Array, batch_axis: int, time_axis: int) -> Array:
    time = np.arange(shape[time_axis])[:, None]
    places = np.where(time < lengths, lengths - 1 - time, time)
    if batch_axis < time_axis:
        places = places.T
    return places.reshape([size if axis in (batch_axis, time_axis) else 1 for axis, size in enumerate(shape)])


@reverse_sequence.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.call("ReverseSequence", dy, call.input(1), **call.attributes),)


reverse_sequence.samples = lambda: [
    Sample([normal(4, 2, 3), np.array([4, 2])]),
    Sample([normal(2, 4), np.array([1, 3])], {"batch_axis": 0, "time_axis": 1}),
    Sample([normal(0, 2), np.array([0, 0])], reference=""),
]


@defined("TensorScatter", since=24)
def tensor_scatter(
    cache: Tensor, update: Tensor, indices: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Write the update into the cache from each sample's index on. Source: ONNX TensorScatter-24."""
    axis %= cache.ndim
    starts = np.zeros(cache.shape[0], np.int64) if indices is None else indices.data
    places = starts[:, None] + np.arange(update.shape[axis])
    if mode == "circular":
        places = places % cache.shape[axis]
    spread: list[int] = [1] * cache.ndim
    spread[0], spread[axis] = places.shape
    full = np.broadcast_to(places.reshape(spread), update.shape)
    return p.call("ScatterElements", cache, p.constant(np.ascontiguousarray(full)), update, axis=axis)


tensor_scatter.samples = lambda: [
    Sample([normal(2, 3, 4, 2), normal(2, 3, 2, 2), np.array([0, 2])], reference="onnx"),
    Sample([normal(2, 4, 2), normal(2, 3, 2), np.array([1, 3])], {"mode": "circular"}, reference="onnx", order=1),
    Sample([normal(2, 2, 4), normal(2, 2, 3)], {"axis": -1}, reference="onnx", order=1),
    Sample([normal(0, 2, 4), normal(0, 2, 4)], reference="onnx", varied=()),
]


@defined("CumProd", since=26)
def cum_prod(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """The products of all elements up to each one. Source: ONNX CumProd-26."""
    return running_products(x, int(axis.data.reshape(())) % x.ndim, bool(exclusive), bool(reverse))


cum_prod.samples = lambda: [
    Sample([positive(2, 4), np.array(1)], reference="onnx"),
    Sample([normal(3, 2), np.array(0)], {"exclusive": 1}, reference="onnx"),
    Sample([normal(3, 2), np.array(-2)], {"exclusive": 1, "reverse": 1}, reference="onnx"),
    Sample([np.array([2.0, 0.0, 3.0], np.float32), np.array(0)], {"reverse": 1}, reference="onnx"),
    Sample([normal(0, 2), np.array(1)], reference="onnx"),
]
