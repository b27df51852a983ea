"""Conversion between types, the narrow ones of ml_dtypes included."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, dtype_from_onnx, is_float
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

_EXPONENT_ONLY = "float8_e8m0fnu"
INTEGER_LIMITS = {"int2": (-2, 1), "uint2": (0, 3), "int4": (-8, 7), "uint4": (0, 15)}


def cast_array(x: Array, dtype: np.dtype[np.generic], saturate: bool = True, round_mode: str = "up") -> Array:
    """`x` as another type; values too large for a float8 become its largest one, or what the type has for infinity."""
    if dtype.name in INTEGER_LIMITS:
        return _to_narrow_integer(x, dtype)
    if dtype.name == _EXPONENT_ONLY:
        return _to_exponent(x, dtype, saturate, round_mode)
    if x.dtype.kind == "V" or x.dtype.name in INTEGER_LIMITS:
        # ml_dtypes converts to float32 whatever it can, but not every pair of types.
        x = x.astype(np.float32)
    if not (dtype.name.startswith("float8") or dtype.name.startswith("float4")):
        return x.astype(dtype)
    import ml_dtypes

    largest = np.float32(ml_dtypes.finfo(dtype).max)
    wide = x.astype(np.float32)
    return (np.clip(wide, -largest, largest) if saturate else wide).astype(dtype)


def _to_narrow_integer(x: Array, dtype: np.dtype[np.generic]) -> Array:
    """Truncated, and then the low bits, as for the wider integers."""
    low, high = INTEGER_LIMITS[dtype.name]
    wide = (x.astype(np.float32) if x.dtype.kind == "V" else x).astype(np.int64)
    return ((wide - low) % (high - low + 1) + low).astype(np.int8).astype(dtype)


def _to_exponent(x: Array, dtype: np.dtype[np.generic], saturate: bool, round_mode: str) -> Array:
    """A power of two: the next one up, down, or the nearest."""
    size = np.abs(x.astype(np.float64))
    exponent = np.log2(size, where=size > 0, out=np.full(x.shape, -np.inf))
    if round_mode == "nearest":
        low = np.floor(exponent)
        exponent = low + (size >= 1.5 * np.exp2(low))
    else:
        exponent = np.ceil(exponent) if round_mode == "up" else np.floor(exponent)
    limited = np.clip(exponent, -127, 127) if saturate else np.where(exponent > 127, np.nan, np.maximum(exponent, -127))
    return np.where(np.isnan(x.astype(np.float64)), np.nan, np.exp2(limited)).astype(dtype)


@primitive("Cast", keeps_inputs=())
def cast(x: Array, *, to: int, round_mode: str = "up", saturate: int = 1) -> Array:
    """`saturate` matters for the float8 types, `round_mode` (since opset 24) for the one without a mantissa."""
    return cast_array(x, dtype_from_onnx(to), bool(saturate), round_mode)


@cast.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    # Integers that carry a gradient carry it as a float (see QuantizeLinear).
    return (p.cast(dy, call.dtype(0)) if is_float(call.dtype(0)) else dy,)


cast.samples = lambda: [
    Sample([normal(2, 3)], {"to": 11}, order=1),
    Sample([normal(2, 3) * 10], {"to": 7}, varied=()),
    Sample([integers(2, 3)], {"to": 1}),
    Sample([integers(2, 3, high=2).astype(bool)], {"to": 1}),
    Sample([normal(2, 3)], {"to": 9}, varied=()),
    Sample([normal(2, 3)], {"to": 10}, varied=()),
    Sample([np.array([np.nan, 3e38, -np.inf, 1e-45], np.float32)], {"to": 10}, varied=()),
    Sample([normal(0, 3)], {"to": 7}, varied=()),
]
