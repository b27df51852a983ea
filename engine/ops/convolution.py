"""Convolution over one, two or three spatial axes.

Three operators are closed under differentiation: Conv is linear in x and w, its gradient by x is a ConvTranspose, by
w a ConvWeightGrad, and the gradients of those two are again among the three. ONNX could spell the weight gradient as
a Conv with swapped axes, but only without groups, and its huge kernel and small output would make it slow.

The arithmetic is in `columns` (dense) and `depthwise`. A gradient of the first order, which nobody differentiates
again, is computed by x and w together, because they share their columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.modes import is_first_order
from edgec.engine.ops import columns, depthwise
from edgec.engine.ops.memory import sum_per_channel
from edgec.engine.ops.windows import Window, resolve_window
from edgec.engine.registry import Gradients, Sample, apply, primitive
from edgec.engine.samples import normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _is_depthwise(channels: int, outputs: int, group: int) -> bool:
    return group > 1 and group == channels == outputs


def _conv(x: Array, w: Array, window: Window, group: int) -> Array:
    if x.dtype.itemsize < 4:  # BLAS knows no half precision; it is rounded once, after the sum
        return _conv(x.astype(np.float32), w.astype(np.float32), window, group).astype(x.dtype)
    if _is_depthwise(x.shape[1], len(w), group):
        return depthwise.correlate(x, w, window)
    return columns.correlate(x, w, window, group)


def _conv_gradients(
    x: Array | None, w: Array | None, dy: Array, window: Window, group: int
) -> tuple[Array | None, Array | None]:
    """The gradients of `_conv` by x (if `w` is given) and by w (if `x` is given)."""
    if dy.dtype.itemsize < 4:
        wide_x, wide_w = (None if array is None else array.astype(np.float32) for array in (x, w))
        dx, dw = _conv_gradients(wide_x, wide_w, dy.astype(np.float32), window, group)
        return None if dx is None else dx.astype(dy.dtype), None if dw is None else dw.astype(dy.dtype)
    channels = w.shape[1] * group if w is not None else x.shape[1] if x is not None else 0
    if _is_depthwise(channels, dy.shape[1], group):
        return depthwise.gradients(x, w, dy, window)
    return columns.gradients(x, w, dy, window, group)


def _geometry(window: Window) -> dict[str, object]:
    """The window as attributes with explicit pads."""
    # A tail shorter than a stride is left over anyway, and ONNX has no negative pads.
    ends = [0 if -step < end < 0 else end for end, step in zip(window.ends, window.strides, strict=True)]
    return {
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*window.begins, *ends],
    }


def _transpose_call(dy: Tensor, w: Tensor, window: Window, group: int) -> Tensor:
    """ConvTranspose back to the window's input shape, with ends that ONNX accepts."""
    # Rows at the end that no window reached (a negative end) come back as output_padding.
    attributes = {
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*window.begins, *(max(end, 0) for end in window.ends)],
        "output_padding": [max(-end, 0) for end in window.ends],
        "group": group,
    }
    return apply("ConvTranspose", (dy, w), attributes)[0]


def _weight_grad_call(x: Tensor, dy: Tensor, window: Window, group: int) -> Tensor:
    # Explicit pads here: a negative end says that the tail of x takes no part.
    pads = [*window.begins, *window.ends]
    attributes = {**_geometry(window), "pads": pads, "kernel_shape": list(window.kernel), "group": group}
    return apply("edgec.ConvWeightGrad", (x, dy), attributes)[0]


def _conv_call(x: Tensor, w: Tensor, window: Window, group: int) -> Tensor:
    return apply("Conv", (x, w), {**_geometry(window), "group": group})[0]


def correlate(
    x: Array,
    w: Array,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Conv without a bias, on arrays of any type."""
    if x.shape[1] != w.shape[1] * group or w.shape[0] % group:
        raise ValueError(f"Conv: {x.shape[1]} channels do not fit weights of {w.shape} in {group} groups")
    return _conv(x, w, resolve_window(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad), group)


@primitive("Conv", keeps_inputs={0: (1,), 1: (0,)})
def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,  # noqa: ARG001
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Shape: x (n, c, *window.padded_shape), w (m, c / group, *kernel), b (m); result (n, m, *outputs)."""
    y = correlate(x, w, auto_pad, dilations, group, pads, strides)
    if b is not None:
        y += b.reshape(-1, *(1,) * (y.ndim - 2))
    return y


@conv.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    # Each gradient reads the other input, and the one it is of may not have been kept.
    x, w = (call.input(index) if call.wants(1 - index) else None for index in (0, 1))
    group, window = call.integer("group"), _window_of(call, call.shape(0), call.shape(1))
    if is_first_order():
        given = None if x is None else x.array, None if w is None else w.array
        made = (None, None) if x is None and w is None else _conv_gradients(*given, dy.array, window, group)
        sums = sum_per_channel(dy.array) if call.wants(2) else None
        return [None if gradient is None else p.constant(gradient) for gradient in (*made, sums)]
    dx = None if w is None else _transpose_call(dy, w, window, group)
    dw = None if x is None else _weight_grad_call(x, dy, window, group)
    db = p.reduce_sum(dy, [0, *range(2, dy.ndim)]) if call.wants(2) else None
    return dx, dw, db


def _window_of(call: Node, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> Window:
    return resolve_window(
        x_shape[2:],
        w_shape[2:],
        call.integers("strides"),
        call.integers("dilations"),
        call.integers("pads"),
        str(call.attribute("auto_pad")),
    )


conv.samples = lambda: [
    Sample([normal(2, 3, 5, 6), normal(4, 3, 3, 3), normal(4)], {"pads": [1, 1, 1, 1]}),
    Sample([normal(1, 2, 7, 8), normal(3, 2, 3, 2)], {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    Sample([normal(1, 2, 7, 7), normal(2, 2, 3, 3)], {"dilations": [2, 2], "auto_pad": "VALID"}),
    Sample([normal(1, 4, 5, 5), normal(6, 2, 3, 3), normal(6)], {"group": 2, "strides": [2, 2]}),
    Sample([normal(2, 3, 6, 5), normal(3, 1, 3, 3), normal(3)], {"group": 3, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Sample([normal(1, 2, 6, 5), normal(4, 1, 3, 3)], {"group": 2}),
    Sample([normal(2, 3, 4, 4), normal(2, 3, 1, 1)]),
    Sample([normal(2, 3, 5, 4), normal(2, 3, 1, 1)], {"strides": [2, 2]}),
    Sample([normal(1, 2, 6, 7), normal(2, 2, 4, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Sample([normal(1, 2, 6, 7), normal(2, 2, 4, 3)], {"auto_pad": "SAME_LOWER", "kernel_shape": [4, 3]}),
    Sample([normal(2, 2, 9), normal(3, 2, 3), normal(3)], {"strides": [2], "pads": [1, 1]}),
    Sample([normal(1, 2, 4, 4, 3), normal(2, 2, 2, 3, 2)], {"pads": [0, 1, 0, 1, 0, 1]}, order=1),
]


def _transposed_window(
    dy_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    auto_pad: str,
    dilations: Sequence[int] | None,
    output_padding: Sequence[int] | None,
    output_shape: Sequence[int] | None,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
) -> Window:
    """The window of the Conv whose gradient this ConvTranspose is."""
    rank = len(dy_shape) - 2
    steps, spacing = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
    extra = list(output_padding or (0,) * rank)
    full = [
        (dy_shape[axis + 2] - 1) * steps[axis] + (w_shape[axis + 2] - 1) * spacing[axis] + 1 + extra[axis]
        for axis in range(rank)
    ]
    begins = list((pads or (0,) * 2 * rank)[:rank])
    result = [full[axis] - begins[axis] - (pads or (0,) * 2 * rank)[rank + axis] for axis in range(rank)]
    if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        result = list(output_shape[-rank:]) if output_shape else [dy_shape[a + 2] * steps[a] for a in range(rank)]
        for axis in range(rank):
            total = max(full[axis] - result[axis], 0)
            # ConvTranspose gives the odd one to the begin unless SAME_UPPER, as the ONNX text has it.
            begins[axis] = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
    elif auto_pad == "VALID":
        begins, result = [0] * rank, full
    ends = [full[axis] - extra[axis] - begins[axis] - result[axis] for axis in range(rank)]
    return Window(tuple(result), tuple(dy_shape[2:]), tuple(w_shape[2:]), steps, spacing, tuple(begins), tuple(ends))


@primitive("ConvTranspose", keeps_inputs=(0, 1))
def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,  # noqa: ARG001
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Shape: x (n, c, *window.padded_shape), w (c, m / group, *kernel), b (m); result (n, m, *outputs)."""
    if x.shape[1] != w.shape[0] or w.shape[0] % group:
        raise ValueError(f"ConvTranspose: {x.shape[1]} channels do not fit weights of {w.shape} in {group} groups")
    window = _transposed_window(x.shape, w.shape, auto_pad, dilations, output_padding, output_shape, pads, strides)
    y, _ = _conv_gradients(None, w, x, window, group)
    assert y is not None
    if b is not None:
        y += b.reshape(-1, *(1,) * (y.ndim - 2))
    return y


@conv_transpose.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x, w, group = call.input(0), call.input(1), call.integer("group")
    window = _transposed_window(
        x.shape,
        w.shape,
        str(call.attribute("auto_pad")),
        call.integers("dilations"),
        call.integers("output_padding"),
        call.integers("output_shape"),
        call.integers("pads"),
        call.integers("strides"),
    )
    dx = _conv_call(dy, w, window, group) if call.wants(0) else None
    dw = _weight_grad_call(dy, x, window, group) if call.wants(1) else None
    db = p.reduce_sum(dy, [0, *range(2, dy.ndim)]) if call.wants(2) else None
    return dx, dw, db


conv_transpose.samples = lambda: [
    Sample([normal(1, 3, 4, 5), normal(3, 2, 3, 3), normal(2)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Sample([normal(1, 3, 3, 3), normal(3, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1]}),
    Sample([normal(1, 4, 3, 4), normal(4, 3, 2, 2)], {"group": 2, "strides": [2, 2]}),
    Sample([normal(1, 3, 4, 4), normal(3, 1, 3, 3)], {"group": 3, "pads": [1, 1, 1, 1]}),
    Sample([normal(1, 2, 4, 4), normal(2, 2, 3, 3)], {"dilations": [2, 2]}),
    Sample([normal(1, 2, 4, 4), normal(2, 2, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    Sample([normal(1, 2, 3, 3), normal(2, 2, 3, 3)], {"strides": [3, 2], "output_shape": [10, 8]}),
    Sample([normal(1, 2, 5), normal(2, 3, 3)], {"strides": [2]}),
]


@primitive("edgec.ConvWeightGrad")
def conv_weight_grad(
    x: Array,
    dy: Array,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    group: int = 1,
) -> Array:
    """The gradient of Conv by its weights; pads are explicit.

    Shape: x (n, c, *window.padded_shape), dy (n, m, *outputs); result (m, c / group, *kernel_shape).
    """
    window = _explicit_window(x.shape, dy.shape, kernel_shape, strides, dilations, pads)
    _, dw = _conv_gradients(x, None, dy, window, group)
    assert dw is not None
    return dw


def _explicit_window(
    x_shape: tuple[int, ...],
    dy_shape: tuple[int, ...],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> Window:
    rank = len(kernel)
    return Window(
        x_shape[2:],
        dy_shape[2:],
        tuple(kernel),
        tuple(strides),
        tuple(dilations),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
    )


@conv_weight_grad.gradient
def _(call: Node, dw: Tensor) -> Gradients:
    x, dy, group = call.input(0), call.input(1), call.integer("group")
    names = ("kernel_shape", "strides", "dilations", "pads")
    window = _explicit_window(x.shape, dy.shape, *(call.integers(name) or [] for name in names))
    dx = _transpose_call(dy, dw, window, group) if call.wants(0) else None
    return dx, _conv_call(x, dw, window, group) if call.wants(1) else None


conv_weight_grad.samples = lambda: [
    Sample(
        [normal(2, 2, 5, 6), normal(2, 3, 2, 3)],
        {"kernel_shape": [3, 2], "strides": [2, 2], "dilations": [1, 1], "pads": [1, 0, -1, 0]},
        reference="",
    ),
    Sample(
        [normal(2, 4, 4, 4), normal(2, 4, 4, 4)],
        {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1], "group": 4},
        reference="",
    ),
    Sample(
        [normal(0, 1, 4, 4), normal(0, 2, 2, 2)],
        {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]},
        reference="",
    ),
]
