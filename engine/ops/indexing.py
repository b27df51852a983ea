"""Picking, placing and searching elements."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.scatter import element_index, nd_index
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import distinct, integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _slice_parts(
    shape: tuple[int, ...], starts: Array, ends: Array, axes: Array | None, steps: Array | None
) -> list[slice]:
    """One slice per axis, in ONNX's meaning: out of range is clamped, also for negative steps."""
    parts = [slice(None)] * len(shape)
    over = range(len(starts)) if axes is None else [int(axis) % len(shape) for axis in axes]
    for index, axis in enumerate(over):
        size, step = shape[axis], 1 if steps is None else int(steps[index])
        start, end = (int(value) + size if value < 0 else int(value) for value in (starts[index], ends[index]))
        if step > 0:
            parts[axis] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
        else:
            last = min(max(end, -1), size - 1)
            parts[axis] = slice(min(max(start, 0), size - 1), None if last < 0 else last, step)
    return parts


@primitive("Slice", keeps_inputs=(1, 2, 3, 4))
def slice_of(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    return x[tuple(_slice_parts(x.shape, starts, ends, axes, steps))]


@slice_of.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    shape = call.shape(0)
    starts, ends, axes, steps = (call.input(index).data if call.has(index) else None for index in (1, 2, 3, 4))
    assert starts is not None
    assert ends is not None
    spans = [
        part.indices(size) for part, size in zip(_slice_parts(shape, starts, ends, axes, steps), shape, strict=True)
    ]
    begins, after = [], []
    for axis, ((start, _, step), size) in enumerate(zip(spans, shape, strict=True)):
        if step != 1:
            # Spread along this axis first; then it has its full size and needs no padding.
            dy = _spread(dy, start, step, size, axis)
            start = 0
        begins.append(start if dy.shape[axis] else 0)
        after.append(size - begins[-1] - dy.shape[axis])
    return (p.pad(dy, [*begins, *after]),)


def _spread(dy: Tensor, start: int, step: int, size: int, axis: int) -> Tensor:
    """`dy` at every `step`-th place of an axis of zeros."""
    places = p.constant(start + np.arange(dy.shape[axis], dtype=np.int64) * step)
    return _add_at(dy, places, axis, size)


slice_of.samples = lambda: [
    Sample([normal(4, 5), np.array([1, 0]), np.array([3, 100])]),
    Sample([normal(4, 5), np.array([-2]), np.array([2**62]), np.array([1])]),
    Sample([normal(6, 5), np.array([4, 1]), np.array([-100, 4]), np.array([0, -1]), np.array([-2, 2])]),
    Sample([normal(6), np.array([-1]), np.array([-(2**62)]), np.array([0]), np.array([-1])]),
    Sample([normal(3, 4), np.array([2]), np.array([2]), np.array([1])], varied=()),
]


@primitive("Pad", keeps_inputs=(1, 3))
def pad(
    x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, *, mode: str = "constant"
) -> Array:
    """Negative pads cut off."""
    widths = _pad_widths(x.ndim, pads, axes)
    x = x[tuple(slice(max(-begin, 0), x.shape[axis] - max(-end, 0)) for axis, (begin, end) in enumerate(widths))]
    grown = [(max(begin, 0), max(end, 0)) for begin, end in widths]
    if mode != "constant":
        return np.pad(x, grown, mode=mode)  # type: ignore[call-overload, no-any-return]
    shape = [begin + size + end for size, (begin, end) in zip(x.shape, grown, strict=True)]
    padded = np.zeros(shape, x.dtype) if value is None else np.full(shape, value.reshape(()), x.dtype)
    padded[tuple(slice(begin, begin + size) for size, (begin, _) in zip(x.shape, grown, strict=True))] = x
    return padded


def _pad_widths(ndim: int, pads: Array, axes: Array | None) -> list[tuple[int, int]]:
    over = range(ndim) if axes is None else [int(axis) % ndim for axis in axes]
    widths = [(0, 0)] * ndim
    for index, axis in enumerate(over):
        widths[axis] = (int(pads[index]), int(pads[index + len(over)]))
    return widths


@pad.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    shape, mode = call.shape(0), str(call.attribute("mode"))
    widths = _pad_widths(len(shape), call.input(1).data, call.input(3).data if call.has(3) else None)
    if mode == "constant":
        dx = p.pad(dy, [-begin for begin, _ in widths] + [-end for _, end in widths]) if call.wants(0) else None
        if not call.wants(2):
            return dx, None, None
        inside = p.reduce_sum(dx if dx is not None else dy)
        return dx, None, p.reshape(p.reduce_sum(dy) - inside, call.shape(2))
    for axis, width in enumerate(widths):
        if width != (0, 0):
            places = np.pad(np.arange(shape[axis]), [tuple(max(w, 0) for w in width)], mode=mode)  # type: ignore[call-overload]
            kept = places[max(-width[0], 0) : len(places) - max(-width[1], 0)]
            dy = _add_at(dy, p.constant(kept), axis, shape[axis])
    return (dy,)


pad.samples = lambda: [
    Sample([normal(2, 3), np.array([0, 1, 2, 0])]),
    Sample([normal(2, 3), np.array([1, 0, 0, 2]), np.float32(1.5)]),
    Sample([normal(3, 4), np.array([-1, 1, 0, -2])]),
    Sample([normal(3, 4), np.array([2, 1, 1, 3])], {"mode": "reflect"}),
    Sample([normal(3, 4), np.array([2, 1, 1, 3])], {"mode": "edge"}),
    Sample([normal(3, 4), np.array([2, 1, 1, 3])], {"mode": "wrap"}),
    Sample([normal(3, 4), np.array([1, 2]), None, np.array([-1])]),
]


@primitive("Gather", keeps_inputs=(1,))
def gather(x: Array, indices: Array, *, axis: int = 0) -> Array:
    return np.take(x, indices, axis)


@gather.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    axis = call.integer("axis") % len(call.shape(0))
    return (_add_at(dy, call.input(1), axis, call.shape(0)[axis]),)


def _add_at(dy: Tensor, indices: Tensor, axis: int, size: int) -> Tensor:
    """The transpose of Gather: add each slice of `dy` at its index of an axis of zeros."""
    count = indices.ndim
    perm = [*range(axis, axis + count), *range(axis), *range(axis + count, dy.ndim)]
    moved = p.transpose(dy, perm)
    zeros = p.zeros([size, *moved.shape[count:]], dy.dtype)
    added = p.call("ScatterND", zeros, p.unsqueeze(p.cast(indices, np.int64), [-1]), moved, reduction="add")
    back = [*range(1, axis + 1), 0, *range(axis + 1, added.ndim)]
    return p.transpose(added, back)


gather.samples = lambda: [
    Sample([normal(4, 3), integers(2, 2, high=4)]),
    Sample([normal(2, 4, 3), np.array([0, -1, 0])], {"axis": 1}),
    Sample([normal(3, 4), np.array(2)], {"axis": -1}),
    Sample([integers(5), np.array([1, 1], np.int32)]),
]


@primitive("GatherElements", keeps_inputs=(1,))
def gather_elements(x: Array, indices: Array, *, axis: int = 0) -> Array:
    return np.asarray(x[element_index(x.shape, indices, axis)])


@gather_elements.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    zeros = p.zeros(call.shape(0), dy.dtype)
    return (p.call("ScatterElements", zeros, call.input(1), dy, axis=call.attribute("axis"), reduction="add"),)


gather_elements.samples = lambda: [
    Sample([normal(3, 4), integers(2, 4, high=3)]),
    Sample([normal(3, 4), integers(3, 2, low=-4, high=4)], {"axis": 1}),
]


@primitive("GatherND", keeps_inputs=(1,))
def gather_nd(x: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    return np.asarray(x[nd_index(indices, batch_dims)])


@gather_nd.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    indices, batch_dims = call.input(1), call.integer("batch_dims")
    if batch_dims:
        parts = np.broadcast_arrays(*nd_index(indices.data, batch_dims))
        indices = p.constant(np.stack(parts, -1))
    return (p.call("ScatterND", p.zeros(call.shape(0), dy.dtype), indices, dy, reduction="add"),)


gather_nd.samples = lambda: [
    Sample([normal(3, 4), np.array([[0, 1], [2, 3], [0, 1]])]),
    Sample([normal(3, 4), np.array([[1], [-1]])]),
    Sample([normal(2, 3, 4), np.array([[1], [2]])], {"batch_dims": 1}),
]


@primitive("OneHot", keeps_inputs=(0, 1))
def one_hot(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    """Indices outside [-depth, depth) give a row of the off value."""
    count = int(depth.reshape(()))
    places = np.arange(count).reshape(-1, *(1,) * indices.ndim)
    hits = places == np.where(indices < 0, indices + count, indices)
    return np.asarray(np.where(np.moveaxis(hits, 0, axis % (indices.ndim + 1)), values[1], values[0]))


@one_hot.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    ones = p.constant(np.array([0, 1]).astype(dy.dtype))
    hits = p.call("OneHot", call.input(0), call.input(1), ones, axis=call.attribute("axis"))
    on = p.reduce_sum(dy * hits)
    return None, None, p.concat([p.unsqueeze(part, [0]) for part in (p.reduce_sum(dy) - on, on)], 0)


one_hot.samples = lambda: [
    Sample([np.array([1, -1, 5]), np.array(4), np.array([0.0, 1.0], np.float32)]),
    Sample([integers(2, 3, high=4), np.array([4]), np.array([-1.0, 2.0], np.float32)], {"axis": 1}),
]


def _extremum_index(x: Array, axis: int, keepdims: int, select_last_index: int, largest: bool) -> Array:
    function = np.argmax if largest else np.argmin
    if select_last_index:
        found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=bool(keepdims))
    else:
        found = function(x, axis=axis, keepdims=bool(keepdims))
    return np.asarray(found, np.int64)


@primitive("ArgMax", differentiable=False)
def arg_max(x: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    return _extremum_index(x, axis, keepdims, select_last_index, largest=True)


@primitive("ArgMin", differentiable=False)
def arg_min(x: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    return _extremum_index(x, axis, keepdims, select_last_index, largest=False)


def _extremum_samples() -> list[Sample]:
    ties = integers(3, 6, high=3).astype(np.float32)
    return [
        Sample([distinct(3, 4)]),
        Sample([ties], {"axis": -1, "keepdims": 0}),
        Sample([ties], {"axis": 1, "select_last_index": 1}),
    ]


arg_max.samples = arg_min.samples = _extremum_samples


@primitive("TopK", keeps_inputs=(), keeps_outputs=(1,))
def top_k(x: Array, k: Array, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Array, Array]:  # noqa: ARG001
    """Always sorted; among equal values the lower index comes first."""
    count = int(k.reshape(()))
    if largest:
        # A stable descending sort is an ascending one of the reversed array, read from its end.
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    indices = np.take(order, np.arange(count), axis).astype(np.int64)
    return np.take_along_axis(x, indices, axis), indices


@top_k.gradient
def _(call: Node, dy: Tensor | None, _indices: Tensor | None = None) -> Gradients:
    if dy is None:
        return (None,)
    zeros = p.zeros(call.shape(0), dy.dtype)
    axis = call.attribute("axis")
    return (p.call("ScatterElements", zeros, call.output(1), dy, axis=axis, reduction="add"),)


top_k.samples = lambda: [
    Sample([distinct(3, 5), np.array([2])], outputs=2),
    Sample([distinct(4, 3), np.array([3])], {"axis": 0, "largest": 0}, outputs=2),
    Sample([integers(2, 8, high=3).astype(np.float32), np.array([5])], outputs=2, varied=()),
]


@primitive("CumSum", keeps_inputs=(1,))
def cum_sum(x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
    over = int(axis.reshape(()))
    total = np.flip(x, over) if reverse else x
    total = np.cumsum(total, over, dtype=x.dtype) - (total if exclusive else 0)
    return np.flip(total, over) if reverse else total


@cum_sum.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    reverse = 1 - call.integer("reverse")
    return (p.call("CumSum", dy, call.input(1), exclusive=call.attribute("exclusive"), reverse=reverse),)


cum_sum.samples = lambda: [
    Sample([normal(2, 4), np.array(1)]),
    Sample([normal(3, 2), np.array(0)], {"exclusive": 1}),
    Sample([normal(3, 2), np.array(-2)], {"exclusive": 1, "reverse": 1}),
]
