"""Operations on the bits of integers, and on the bits of anything as another type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.engine.arrays import Array, dtype_from_onnx
from edgec.engine.registry import PRIMITIVES, Sample, primitive
from edgec.engine.samples import integers, normal

_EXTREMES = np.array([0, 1, -1, 127, -128], np.int8)


def _declare(name: str, function: Callable[[Any, Any], Any]) -> None:
    def forward(a: Array, b: Array) -> Array:
        result: Array = function(a, b)
        return result

    primitive(name, differentiable=False)(forward)
    PRIMITIVES[name].samples = lambda: [
        Sample([integers(2, 1, 3, low=-9), integers(4, 1, low=-9)]),
        Sample([integers(3, high=250).astype(np.uint8), integers(3, high=250, seed=1).astype(np.uint8)]),
        Sample([_EXTREMES, _EXTREMES[::-1].copy()]),
        Sample([integers(0, 3), integers(3)]),
    ]


_declare("BitwiseAnd", np.bitwise_and)
_declare("BitwiseOr", np.bitwise_or)
_declare("BitwiseXor", np.bitwise_xor)


@primitive("BitwiseNot", differentiable=False)
def bitwise_not(x: Array) -> Array:
    return np.bitwise_not(x)


bitwise_not.samples = lambda: [Sample([integers(2, 3, low=-9)]), Sample([_EXTREMES]), Sample([integers(0, 2)])]


@primitive("BitShift", differentiable=False)
def bit_shift(x: Array, by: Array, *, direction: str) -> Array:
    """A shift by the width or more leaves zero, or the sign of a signed integer that is shifted to the right."""
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f'BitShift: direction must be "LEFT" or "RIGHT", not {direction!r}')
    width = x.dtype.itemsize * 8
    if direction == "RIGHT" and x.dtype.kind == "i":
        return np.asarray(np.right_shift(x, np.minimum(by, by.dtype.type(width - 1))))
    shifted: Array = np.left_shift(x, by) if direction == "LEFT" else np.right_shift(x, by)
    return np.where(by < width, shifted, x.dtype.type(0))


bit_shift.samples = lambda: [
    Sample([integers(2, 3, high=99).astype(np.uint8), integers(3, high=8).astype(np.uint8)], {"direction": "LEFT"}),
    Sample([integers(2, 3, high=99).astype(np.uint32), np.array(2, np.uint32)], {"direction": "RIGHT"}),
    Sample([np.array([1, 2**63], np.uint64), np.array([63, 63], np.uint64)], {"direction": "RIGHT"}),
    Sample([np.zeros((0, 2), np.uint8), np.array([1, 2], np.uint8)], {"direction": "LEFT"}),
]


@primitive("BitCast", differentiable=False)
def bit_cast(x: Array, *, to: int) -> Array:
    """The same bytes read as another type of the same width. Source: ONNX BitCast-26."""
    dtype = dtype_from_onnx(to)
    if dtype.itemsize != x.dtype.itemsize:
        raise ValueError(f"BitCast: {x.dtype} and {dtype} differ in width")
    return np.ascontiguousarray(x).view(dtype).reshape(x.shape)


bit_cast.samples = lambda: [
    Sample([normal(2, 3)], {"to": 6}, reference="onnx"),
    Sample([integers(2, 3).astype(np.int8)], {"to": 2}, reference="onnx"),
    Sample([np.array([np.nan, -np.inf, -0.0], np.float32)], {"to": 12}, reference="onnx"),
    Sample([np.zeros((0, 2), np.float32)], {"to": 6}, reference="onnx"),
]
