"""Numbers as integers: a scale and a zero point, from a range or from the numbers themselves.

x ≈ (q - zero_point) · scale
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ActivationType",
    "Encoding",
    "Floats",
    "Integers",
    "Range",
    "encode_bias",
    "encode_range",
    "encode_weight",
    "least_weight_scales",
]

ActivationType: TypeAlias = Literal["uint8", "int8"]
Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int8] | NDArray[np.int32]

WEIGHT_LIMIT = 127
"""Weights are symmetric: -128 is not used, so that a weight and its negative are both there."""

_BIAS_LIMIT = 2**30
"""Half of int32: the other half is for the products."""

_LEAST_SCALE = 1e-30
"""Above it, products of two scales are normal numbers in float32."""


@dataclass(frozen=True)
class Range:
    """The least and the largest value that integers must reach; 0 lies between them or is one of them."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= 0 <= self.high:
            raise ValueError(f"zero is not in the range from {self.low} to {self.high}")

    @property
    def width(self) -> float:
        return self.high - self.low

    @classmethod
    def around(cls, low: float, high: float) -> Range:
        """The range from `low` to `high`, widened so that it holds 0: padding and ReLU need an exact zero."""
        return cls(min(float(low), 0.0), max(float(high), 0.0))

    def joined(self, other: Range) -> Range:
        """The range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Encoding:
    """How the values of one activation are stored.

    Attributes:
        scale: The step between two neighbours, a number of float32.
        zero_point: The integer that stands for 0.
        dtype: ``uint8`` or ``int8``.
    """

    scale: float
    zero_point: int
    dtype: ActivationType

    @property
    def range(self) -> Range:
        """What the integers reach."""
        info = np.iinfo(self.dtype)
        return Range.around((info.min - self.zero_point) * self.scale, (info.max - self.zero_point) * self.scale)

    def rounded(self, array: Floats) -> NDArray[np.float32]:
        """`array` as it comes out of a QuantizeLinear and a DequantizeLinear, float32 of the same shape."""
        info = np.iinfo(self.dtype)
        steps = np.rint(array.astype(np.float32) / np.float32(self.scale)) + np.float32(self.zero_point)
        centered = np.clip(steps, info.min, info.max) - np.float32(self.zero_point)
        return np.asarray(centered * np.float32(self.scale), np.float32)


def encode_range(span: Range, dtype: ActivationType = "uint8", *, symmetric: bool = False) -> Encoding:
    """The encoding of a range.

    Args:
        span: What must be reached.
        dtype: Of the integers.
        symmetric: Whether the zero point is the middle: 128 for uint8, 0 for int8.
    """
    info = np.iinfo(dtype)
    if symmetric:
        middle = 128 if dtype == "uint8" else 0
        scale = max(-span.low, span.high) / (info.max - middle)
        return Encoding(_as_scale(scale), middle, dtype)
    scale = _as_scale(span.width / (info.max - info.min))
    zero_point = int(np.clip(np.rint(info.min - span.low / scale), info.min, info.max))
    return Encoding(scale, zero_point, dtype)


def encode_weight(
    array: Floats, channel_axis: int | None, least_scales: Floats | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as int8, symmetric, with a scale per channel; and the scales, (channels,) or () without an axis.

    Args:
        array: The weights.
        channel_axis: The axis of the output channels; None for one scale for all.
        least_scales: No scale is smaller than these; see `least_weight_scales`.
    """
    axes = tuple(axis for axis in range(array.ndim) if axis != channel_axis)
    scales = np.abs(array).max(axis=axes if channel_axis is not None else None).astype(np.float64) / WEIGHT_LIMIT
    if least_scales is not None:
        scales = np.maximum(scales, least_scales)
    scales = np.where(scales < _LEAST_SCALE, 1.0, scales).astype(np.float32)
    spread = scales if channel_axis is None else np.expand_dims(scales, axes)
    steps = np.clip(np.rint(array.astype(np.float32) / spread), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    return steps.astype(np.int8), scales


def least_weight_scales(bias: Floats, input_scale: float) -> NDArray[np.float64]:
    """The least scales of the weights, per channel, with which the bias at scale input · weight fits into int32.

    A channel whose weights are (nearly) zero would otherwise get a scale too fine for its bias.
    """
    return np.abs(bias.astype(np.float64)) / (_BIAS_LIMIT * input_scale)


def encode_bias(bias: Floats, scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bias as int32 at these scales, one per channel."""
    steps = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    limit = 2**31 - 1
    return np.clip(steps, -limit, limit).astype(np.int32)


def _as_scale(scale: float) -> float:
    """A number of float32; 1 for a tensor of zeros, which any scale fits."""
    return float(np.float32(scale)) if scale >= _LEAST_SCALE else 1.0
