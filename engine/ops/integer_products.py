"""Products and convolutions of 8-bit integers.

They follow edgec's integer contract: sums are exact in int32, and a sum is brought to the next scale by one float32
product, ``saturate(rint(float32(sum) * float32(s_x * s_w / s_y)) + z_y)``, rounded half to even. So the integer part
of a model is the same, bit for bit, wherever it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.ops.convolution import correlate
from edgec.engine.registry import Sample, primitive
from edgec.engine.samples import integers, normal, positive


def _centred(x: Array, zero_point: Array | None, axis: int) -> Array:
    """`x` less its zero point, as float64, where sums of int32 are exact and BLAS can be used.

    A zero point per row or column has one value for each index of `axis`.
    """
    wide = x.astype(np.float64)
    if zero_point is None:
        return np.asarray(wide)
    return np.asarray(wide - _along(zero_point.astype(np.float64), x.ndim, axis))


def _along(values: Array, rank: int, axis: int) -> Array:
    """A scalar, or values of one axis, shaped to broadcast; values of several axes stay."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim > 1:
        return values
    return values.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def _int32(total: Array) -> Array:
    # Sums beyond int32 wrap around, as the hardware's do.
    return total.astype(np.int64).astype(np.int32)


def _requantized(total: Array, factor: Array, scale: Array, zero_point: Array) -> Array:
    """Bring an int32 sum to the scale and type of the output."""
    multiplier = (factor / scale.astype(factor.dtype)).astype(np.float32)
    steps = np.rint(total.astype(np.float32) * multiplier) + zero_point.astype(np.float32)
    info = np.iinfo(zero_point.dtype)
    return np.asarray(np.clip(steps, info.min, info.max), zero_point.dtype)


@primitive("MatMulInteger", differentiable=False)
def mat_mul_integer(a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
    """Zero points are one for all, one per row of `a`, or one per column of `b`."""
    return _int32(np.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)))


# Written out: a generator at import time would load numpy.random.
_BYTES = (np.arange(6).reshape(2, 3) * 97 % 256).astype(np.uint8)
_SIGNED = (np.arange(12).reshape(3, 4) * 67 % 256 - 128).astype(np.int8)

mat_mul_integer.samples = lambda: [
    Sample([_BYTES, _SIGNED]),
    Sample([_BYTES, _SIGNED, np.uint8(120), np.int8(-3)]),
    Sample([np.full((1, 9), 255, np.uint8), np.full((9, 1), -128, np.int8), np.uint8(0), np.int8(127)]),
    Sample([_BYTES[:0], _SIGNED]),
]


@primitive("ConvInteger", differentiable=False)
def conv_integer(
    x: Array,
    w: Array,
    x_zero: Array | None = None,
    w_zero: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,  # noqa: ARG001
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Padding counts as the zero point, so it adds nothing."""
    centred = _centred(x, x_zero, 1), _centred(w, w_zero, 0)
    return _int32(correlate(*centred, auto_pad, dilations, group, pads, strides))


conv_integer.samples = lambda: [
    Sample([integers(1, 2, 4, 4).astype(np.uint8), integers(3, 2, 3, 3, low=-9).astype(np.int8), np.uint8(3)],
           {"pads": [1, 1, 1, 1]}),
    Sample([integers(1, 2, 4, 5).astype(np.uint8), integers(2, 1, 2, 2).astype(np.uint8), np.uint8(1), np.uint8(4)],
           {"group": 2, "strides": [2, 2]}),
    Sample([np.full((1, 2, 2, 2), 255, np.uint8), np.full((1, 2, 2, 2), -128, np.int8)]),
    Sample([np.zeros((0, 2, 2, 2), np.uint8), np.ones((1, 2, 2, 2), np.int8)], reference=""),
]  # fmt: skip


@primitive("QLinearMatMul", differentiable=False)
def q_linear_mat_mul(
    a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array, y_scale: Array, y_zero: Array
) -> Array:
    total = _int32(np.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1)))
    # The scales may be of half precision; their product would lose digits there.
    factor = _along(a_scale.astype(np.float32), a.ndim, -2) * _along(b_scale.astype(np.float32), b.ndim, -1)
    return _requantized(total, factor, y_scale, y_zero)


_SCALES = np.float32(0.02), np.float32(0.5)

q_linear_mat_mul.samples = lambda: [
    Sample([_BYTES, _SCALES[0], np.uint8(120), _SIGNED, _SCALES[0], np.int8(0), _SCALES[1], np.uint8(9)], varied=()),
    Sample([_BYTES, _SCALES[0], np.uint8(0), _SIGNED, positive(4) * 0.01, np.array([0, 1, 2, 3], np.int8),
            _SCALES[0], np.uint8(9)], varied=()),
    Sample([_BYTES[:0], _SCALES[0], np.uint8(120), _SIGNED, _SCALES[0], np.int8(0), _SCALES[1], np.uint8(9)]),
]  # fmt: skip


@primitive("QLinearConv", differentiable=False)
def q_linear_conv(
    x: Array,
    x_scale: Array,
    x_zero: Array,
    w: Array,
    w_scale: Array,
    w_zero: Array,
    y_scale: Array,
    y_zero: Array,
    bias: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,  # noqa: ARG001
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """The bias is int32 at the scale of the sum; weights may have one scale per output channel."""
    total = correlate(_centred(x, x_zero, 1), _centred(w, w_zero, 0), auto_pad, dilations, group, pads, strides)
    if bias is not None:
        total += _along(bias.astype(np.float64), total.ndim, 1)
    factor = x_scale.reshape(()) * _along(w_scale, total.ndim, 1)
    return _requantized(_int32(total), np.asarray(factor), y_scale, y_zero)


q_linear_conv.samples = lambda: [
    Sample([integers(1, 2, 4, 4, high=255).astype(np.uint8), _SCALES[0], np.uint8(128),
            integers(3, 2, 3, 3, low=-128, high=128).astype(np.int8), positive(3) * 0.01, np.zeros(3, np.int8),
            _SCALES[1], np.uint8(100), integers(3, low=-99).astype(np.int32)], {"pads": [1, 1, 1, 1]}),
    Sample([integers(1, 2, 4, 4, high=255).astype(np.uint8), _SCALES[0], np.uint8(0),
            integers(2, 1, 2, 2, high=255).astype(np.uint8), _SCALES[0], np.uint8(7), _SCALES[0], np.uint8(0)],
           {"group": 2, "strides": [2, 2]}),
    Sample([np.zeros((0, 2, 4, 4), np.uint8), _SCALES[0], np.uint8(0), np.ones((2, 2, 2, 2), np.uint8), _SCALES[0],
            np.uint8(7), _SCALES[0], np.uint8(0)], reference=""),
]  # fmt: skip


@primitive("DynamicQuantizeLinear", differentiable=False)
def dynamic_quantize_linear(x: Array) -> tuple[Array, Array, Array]:
    """uint8 over the range of the values and zero; returns the steps, the scale and the zero point."""
    low = np.minimum(x.min(initial=0), 0)
    high = np.maximum(x.max(initial=0), 0)
    scale = x.dtype.type((high - low) / x.dtype.type(255))
    if scale == 0:  # all zero
        return np.zeros(x.shape, np.uint8), np.asarray(scale), np.zeros((), np.uint8)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    steps = np.clip(np.rint(x / scale) + x.dtype.type(zero), 0, 255).astype(np.uint8)
    return steps, np.asarray(scale), np.asarray(zero)


dynamic_quantize_linear.samples = lambda: [
    Sample([normal(3, 4)], outputs=3),
    Sample([positive(3, 4)], outputs=3),
    Sample([-positive(5) * 1e4], outputs=3),
    Sample([np.zeros((0, 3), np.float32)], outputs=3, reference=""),
]
