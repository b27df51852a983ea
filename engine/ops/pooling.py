"""Pooling: the window's taps are visited one after the other, each as one array operation over all outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, is_float
from edgec.engine.modes import is_first_order
from edgec.engine.ops.memory import ordered_like
from edgec.engine.ops.windows import Window, resolve_window
from edgec.engine.registry import Gradients, Sample, apply, primitive
from edgec.engine.samples import distinct, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

Index: TypeAlias = "tuple[Any, ...]"


@primitive("MaxPool", keeps_inputs=(0,), keeps_outputs=(0,))
def max_pool(
    x: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    output_count: int = 1,
) -> tuple[Array, ...]:
    """The largest value per window and, as a second output, its index in the flat input."""
    window = resolve_window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    lowest = -np.inf if is_float(x.dtype) else np.iinfo(x.dtype).min
    padded = window.pad(x, lowest)
    if output_count == 2:
        return _max_with_indices(padded, x.shape, window, bool(storage_order))
    best = padded
    for axis in reversed(range(len(window.kernel))):  # the longest runs of memory first
        behind: Index = (slice(None),) * (len(window.kernel) - 1 - axis)
        taps: list[Index] = [(..., met, *behind) for met in window.along(axis)]
        first, *others = (best[tap] for tap in taps)
        best = np.maximum(first, others[0]) if others else first
        for other in others[1:]:
            np.maximum(best, other, out=best)
    return (np.copy(best) if np.may_share_memory(best, x) else best,)


def _max_with_indices(padded: Array, shape: tuple[int, ...], window: Window, column_major: bool) -> tuple[Array, Array]:
    taps = list(window.taps())
    best = np.copy(padded[taps[0][1]])
    # Which tap won, in a small type: the loop is bound by memory.
    winner = np.zeros_like(best, np.uint8 if len(taps) <= 256 else np.int32)
    for number, (_, met_at) in enumerate(taps[1:], 1):
        met = padded[met_at]
        np.copyto(winner, winner.dtype.type(number), where=met > best)
        np.maximum(best, met, out=best)
    rank = len(window.kernel)
    before = [window.input_shape[:axis] if column_major else window.input_shape[axis + 1 :] for axis in range(rank)]
    step = [math.prod(sizes) for sizes in before]
    offsets = np.array(
        [sum(k * d * t for k, d, t in zip(tap, window.dilations, step, strict=True)) for tap, _ in taps], np.int64
    )
    indices = offsets[winner]
    for axis in range(rank):
        position = np.arange(window.output_shape[axis]) * window.strides[axis] - window.begins[axis]
        indices += (position * step[axis]).reshape([-1 if a == axis else 1 for a in range(rank)])
    plane = math.prod(window.input_shape)
    if any(window.begins) or any(end > 0 for end in window.ends):
        # Only where a whole window is -inf can padding win; any index in the input will do.
        np.clip(indices, 0, plane - 1, out=indices)
    indices += (np.arange(shape[0] * shape[1]) * plane).reshape(*shape[:2], *(1,) * rank)
    return best, indices


@max_pool.gradient
def _(call: Node, dy: Tensor | None, _indices: Tensor | None = None) -> Gradients:
    if dy is None:
        return (None,)
    x = call.input(0)
    if is_first_order():
        return (p.constant(_max_pool_gradient(x.array, call.output(0).array, dy.array, _max_window(call, x.shape))),)
    attributes = {**call.attributes, "storage_order": 0}
    _, indices = apply("MaxPool", (p.detach(x),), attributes, outputs=2)
    flat = p.zeros([int(np.prod(x.shape))], dy.dtype)
    spread = p.call("ScatterElements", flat, p.reshape(indices, [-1]), p.reshape(dy, [-1]), axis=0, reduction="add")
    return (p.reshape(spread, x.shape),)


def _max_window(call: Node, shape: tuple[int, ...]) -> Window:
    return resolve_window(
        shape[2:],
        call.integers("kernel_shape") or [],
        call.integers("strides"),
        call.integers("dilations"),
        call.integers("pads"),
        str(call.attribute("auto_pad")),
        bool(call.attribute("ceil_mode")),
    )


def _max_pool_gradient(x: Array, y: Array, dy: Array, window: Window) -> Array:
    """Give each window's gradient to the first of its taps that holds the maximum."""
    dy = ordered_like(dy, y)
    if window.is_partition:
        return _partition_gradient(x, y, dy, window)
    dx = np.zeros_like(x, dtype=dy.dtype)  # x may be quantized steps
    is_given = np.zeros_like(y, dtype=bool)
    for _, outputs, inputs in window.meetings():
        places: Index = (..., *outputs)
        met: Index = (..., *inputs)
        wins = np.equal(x[met], y[places])
        np.greater(wins, is_given[places], out=wins)
        is_given[places] |= wins
        dx[met] += dy[places] * wins
    return dx


def _partition_gradient(x: Array, y: Array, dy: Array, window: Window) -> Array:
    """The same where each input is met by exactly one window: fewer passes over memory, which bounds it."""
    shape = (*x.shape[:2], *itertools.chain(*zip(window.output_shape, window.kernel, strict=True)))
    of_windows: Index = (..., *(slice(None), None) * len(window.kernel))
    wins = np.equal(x.reshape(shape), y[of_windows])
    is_given = np.zeros_like(y, dtype=bool)
    for tap in itertools.product(*map(range, window.kernel)):
        of_tap: Index = (..., *itertools.chain(*((slice(None), place) for place in tap)))
        first = wins[of_tap]
        np.greater(first, is_given, out=first)
        is_given |= first
    dx = np.empty_like(x, dtype=dy.dtype)
    spread = dx.reshape(shape)  # a view, since axes are only split
    np.copyto(spread, wins, casting="unsafe")
    spread *= dy[of_windows]
    return dx


max_pool.samples = lambda: [
    Sample([distinct(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Sample([distinct(1, 2, 7, 7)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Sample([distinct(1, 2, 7, 6)], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, outputs=2),
    Sample([distinct(1, 1, 7, 7)], {"kernel_shape": [2, 2], "dilations": [2, 2]}, outputs=2),
    Sample([distinct(1, 2, 5, 5)], {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Sample([distinct(1, 2, 5, 5)], {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}),
    Sample([distinct(1, 2, 4, 6)], {"kernel_shape": [2, 2], "storage_order": 1}, outputs=2),
    Sample([distinct(2, 2, 9)], {"kernel_shape": [3], "strides": [2]}),
    Sample([distinct(1, 1, 4, 4, 4)], {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    Sample([-distinct(1, 1, 4, 4) - 9], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
]


def _average_window(
    shape: tuple[int, ...],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: bool,
    count_include_pad: bool,
    dtype: np.dtype[np.generic],
) -> tuple[Window, Array]:
    """The window, and by how many elements each output divides."""
    window = resolve_window(shape[2:], kernel, strides, dilations, pads, auto_pad, ceil_mode)
    declared = window.ends if auto_pad.startswith("SAME") else (pads or (0,) * 2 * len(kernel))[len(kernel) :]
    counted = np.zeros(window.padded_shape, dtype)
    inner = []
    for n, begin, end in zip(window.input_shape, window.begins, declared, strict=True):
        inner.append(slice(0, begin + n + max(end, 0)) if count_include_pad else slice(begin, begin + n))
    counted[tuple(inner)] = 1
    total = np.zeros(window.output_shape, dtype)
    for _, met_at in window.taps():
        total += counted[met_at]
    return window, total


@primitive("AveragePool", keeps_inputs=())
def average_pool(
    x: Array,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    window, counts = _average_window(
        x.shape, kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode), bool(count_include_pad), x.dtype
    )
    padded = window.pad(x)
    total = np.zeros_like(x, shape=(*x.shape[:2], *window.output_shape))
    for _, met_at in window.taps():
        total += padded[met_at]
    return np.asarray(np.divide(total, counts, out=total))


@average_pool.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    shape = call.shape(0)
    window, counts = _average_window(
        shape,
        call.integers("kernel_shape") or [],
        call.integers("strides"),
        call.integers("dilations"),
        call.integers("pads"),
        str(call.attribute("auto_pad")),
        bool(call.attribute("ceil_mode")),
        bool(call.attribute("count_include_pad")),
        np.dtype(dy.dtype),
    )
    ones = p.constant(np.ones((shape[1], 1, *window.kernel), dy.dtype))
    attributes = {
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*window.begins, *(max(end, 0) for end in window.ends)],
        "output_padding": [max(-end, 0) for end in window.ends],
        "group": shape[1],
    }
    return (apply("ConvTranspose", (dy / p.constant(counts), ones), attributes)[0],)


average_pool.samples = lambda: [
    Sample([normal(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Sample([normal(1, 2, 7, 7)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Sample(
        [normal(1, 2, 7, 7)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    Sample([normal(1, 2, 7, 6)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Sample(
        [normal(1, 2, 6, 6)],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1},
    ),
    Sample([normal(1, 2, 5, 5)], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    Sample([normal(1, 2, 7, 7)], {"kernel_shape": [2, 2], "dilations": [2, 2], "strides": [2, 2]}),
    Sample([normal(2, 2, 9)], {"kernel_shape": [3], "strides": [3]}),
]


@primitive("GlobalAveragePool", keeps_inputs=())
def global_average_pool(x: Array) -> Array:
    return np.mean(x, axis=tuple(range(2, x.ndim)), keepdims=True, dtype=x.dtype)


@global_average_pool.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    shape = call.shape(0)
    return (p.expand(p.scale(dy, 1.0 / max(int(np.prod(shape[2:])), 1)), shape),)


global_average_pool.samples = lambda: [Sample([normal(2, 3, 4, 5)]), Sample([normal(2, 3, 4)])]


@primitive("GlobalMaxPool", keeps_outputs=(0,))
def global_max_pool(x: Array) -> Array:
    return np.asarray(np.max(x, axis=tuple(range(2, x.ndim)), keepdims=True))


@global_max_pool.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    winners = p.cast(p.equal(call.input(0), call.output(0)), dy.dtype)
    return (winners * (dy / p.reduce_sum(winners, list(range(2, dy.ndim)), keepdims=True)),)


global_max_pool.samples = lambda: [Sample([distinct(2, 3, 4, 5)])]
