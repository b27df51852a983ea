"""Pooling by the p-norm, and the way back from a maximum pooling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.defined import defined
from edgec.engine.ops.windows import resolve_window
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _powers(x: Tensor, order: int) -> Tensor:
    if order == 1:
        return abs(x)
    return x * x if order == 2 else abs(x) ** float(order)


def _root(total: Tensor, order: int) -> Tensor:
    """The root of a sum of powers, with slope 0 where it is zero."""
    if order == 1:
        return total
    is_zero = p.equal(total, p.full_like(total, 0.0))
    safe = p.where(is_zero, p.full_like(total, 1.0), total)
    return p.where(is_zero, total, p.sqrt(safe) if order == 2 else safe ** (1.0 / order))


@defined("LpPool")
def lp_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int],
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """The p-norm of each window; padding adds nothing."""
    window = resolve_window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    channels = x.shape[1]
    attributes = {
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*window.begins, *(max(end, 0) for end in window.ends)],
        "group": channels,
    }
    return _root(_window_sums(_powers(x, p), channels, window.kernel, attributes), p)


def _window_sums(x: Tensor, channels: int, kernel: Sequence[int], attributes: dict[str, object]) -> Tensor:
    ones = p.constant(np.ones((channels, 1, *kernel), x.dtype))
    return p.call("Conv", x, ones, **attributes)


lp_pool.samples = lambda: [
    Sample([normal(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Sample([normal(1, 2, 7, 6)], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "p": 1}, order=1),
    Sample([positive(1, 2, 8)], {"kernel_shape": [3], "p": 3, "auto_pad": "SAME_UPPER"}, order=1, tolerance=1e-4),
    Sample([normal(1, 1, 7, 7)], {"kernel_shape": [2, 2], "dilations": [2, 2], "strides": [2, 2], "ceil_mode": 1},
           order=1),
    Sample([np.array([[[0.0, 0.0, 1e10, 1e10]]], np.float32)], {"kernel_shape": [2], "strides": [2]}, varied=()),
    Sample([normal(0, 2, 4)], {"kernel_shape": [2]}, reference="", varied=()),
]  # fmt: skip


@defined("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """The p-norm of each channel."""
    return _root(_spatial_sums(_powers(x, p)), p)


def _spatial_sums(x: Tensor) -> Tensor:
    return p.reduce_sum(x, list(range(2, x.ndim)), keepdims=True)


global_lp_pool.samples = lambda: [
    Sample([normal(2, 3, 4, 5)]),
    Sample([normal(2, 3, 4)], {"p": 1}, order=1),
    Sample([positive(1, 2, 3)], {"p": 3}, order=1),
    Sample([np.zeros((1, 2, 3), np.float32)], varied=()),
    Sample([normal(0, 2, 3)], reference="", varied=()),
]


@primitive("MaxUnpool", keeps_inputs=(1,))
def max_unpool(
    x: Array,
    indices: Array,
    output_shape: Array | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Each value at its index of the flat output, as MaxPool gave it; zeros elsewhere.

    The indices are those of the inferred shape; a larger `output_shape` grows each plane at its ends.
    """
    rank = len(kernel_shape)
    steps, around = strides or [1] * rank, pads or [0] * 2 * rank
    inferred = [
        (size - 1) * step + kernel - around[axis] - around[axis + rank]
        for axis, (size, step, kernel) in enumerate(zip(x.shape[2:], steps, kernel_shape, strict=True))
    ]
    shape = [*x.shape[:2], *inferred]
    y = np.zeros(int(np.prod(shape)), x.dtype)
    y[indices.reshape(-1)] = x.reshape(-1)
    y = y.reshape(shape)
    if output_shape is None:
        return y
    grown = np.zeros([int(size) for size in output_shape], x.dtype)
    grown[tuple(slice(size) for size in shape)] = y
    return grown


@max_unpool.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    indices = call.input(1)
    if call.has(2):
        (kernel, rank), sizes = (call.integers("kernel_shape") or [], dy.ndim - 2), call.shape(0)[2:]
        steps = call.integers("strides") or [1] * rank
        around = call.integers("pads") or [0] * 2 * rank
        inferred = [
            (size - 1) * step + width - around[axis] - around[axis + rank]
            for axis, (size, step, width) in enumerate(zip(sizes, steps, kernel, strict=True))
        ]
        dy = p.slice_axes(dy, [0] * rank, inferred, list(range(2, dy.ndim)), [1] * rank)
    return (p.gather(p.reshape(dy, [-1]), indices),)


max_unpool.samples = lambda: [
    Sample([normal(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]])], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Sample([normal(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]]), np.array([1, 1, 5, 5])],
           {"kernel_shape": [2, 2], "strides": [2, 2]}, reference="onnx"),
    Sample([np.array([[[np.inf, -np.inf]]], np.float32), np.array([[[1, 2]]])], {"kernel_shape": [2], "strides": [2]},
           varied=()),
    Sample([normal(0, 1, 2), np.zeros((0, 1, 2), np.int64)], {"kernel_shape": [2], "strides": [2]}, reference="",
           varied=()),
]  # fmt: skip
