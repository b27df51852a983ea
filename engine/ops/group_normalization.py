"""Normalizations that are defined by means and norms: group, RMS, Lp and mean-variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import dtype_from_onnx
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Sample
from edgec.engine.samples import normal, positive
from edgec.engine.tensor import Tensor

_EXTREMES = np.array([[0.0, 0.0, 0.0], [1e4, -1e4, 1e4], [1e-6, 0.0, 1e-6]], np.float32)


def _in_stash_dtype(x: Tensor, stash_type: int) -> Tensor:
    """Half precision is normalized in `stash_type`; a wider input stays as it is."""
    wanted = dtype_from_onnx(stash_type)
    return p.cast(x, wanted) if x.dtype.itemsize < wanted.itemsize else x


@defined("GroupNormalization")
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1
) -> Tensor:
    """Zero mean and unit variance over the channels of a group and all positions; then scale and bias per channel.

    Shape: x (n, c, ...), scale and bias (c) or, as until opset 20, (num_groups).
    Source: ONNX GroupNormalization-21; Wu and He 2018.
    """
    shape = x.shape
    grouped = p.reshape(x, [shape[0], num_groups, math.prod(shape[1:]) // num_groups])
    grouped = _in_stash_dtype(grouped, stash_type)
    centred = grouped - p.reduce_mean(grouped, [2], keepdims=True)
    variance = p.reduce_mean(centred * centred, [2], keepdims=True)
    standard = p.cast(centred / p.sqrt(variance + epsilon), x.dtype)
    if scale.shape[0] == num_groups != shape[1]:
        standard = standard * p.reshape(scale, [1, -1, 1]) + p.reshape(bias, [1, -1, 1])
        return p.reshape(standard, shape)
    spread = [1, -1, *[1] * (len(shape) - 2)]
    return p.reshape(standard, shape) * p.reshape(scale, spread) + p.reshape(bias, spread)


group_normalization.samples = lambda: [
    Sample([normal(2, 4, 3, 2), positive(4), normal(4)], {"num_groups": 2}, tolerance=2e-5),
    Sample([normal(2, 6, 5), positive(6), normal(6)], {"num_groups": 3, "epsilon": 1e-2}, order=1),
    Sample([_EXTREMES.reshape(3, 3, 1), positive(3), normal(3)], {"num_groups": 1}, varied=()),
    Sample([normal(0, 4, 3), positive(4), normal(4)], {"num_groups": 2}, reference="", varied=()),
]


@defined("RMSNormalization", since=23)
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Divide by the root of the mean square over the axes from `axis` on.

    Source: ONNX RMSNormalization-23; Zhang and Sennrich 2019.
    """
    wide = _in_stash_dtype(x, stash_type)
    axes = list(range(axis % x.ndim, x.ndim))
    mean_square = p.reduce_mean(wide * wide, axes, keepdims=True)
    return p.cast(wide / p.sqrt(mean_square + epsilon), x.dtype) * scale


rms_normalization.samples = lambda: [
    Sample([normal(2, 3, 4), positive(4)], reference="onnx"),
    Sample([normal(2, 3, 4), positive(3, 4)], {"axis": 1, "epsilon": 1e-2}, reference="onnx", order=1),
    Sample([_EXTREMES, positive(3)], reference="onnx", varied=()),
    Sample([normal(0, 4), positive(4)], reference="onnx", varied=()),
]


@defined("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the 1- or 2-norm along an axis; where the norm is zero the result is zero."""
    return _over_norm(x, axis, p)


def _over_norm(x: Tensor, axis: int, order: int) -> Tensor:
    if order not in (1, 2):
        raise ValueError(f"LpNormalization knows the 1-norm and the 2-norm, not p={order}")
    norm = p.reduce("ReduceL1" if order == 1 else "ReduceL2", x, [axis], keepdims=True)
    return x / p.where(p.equal(norm, p.full_like(norm, 0.0)), p.full_like(norm, 1.0), norm)


lp_normalization.samples = lambda: [
    Sample([normal(2, 3, 4)]),
    Sample([normal(2, 3, 4)], {"axis": 1}, order=1),
    Sample([normal(2, 3)], {"p": 1, "axis": 0}, order=1),
    Sample([_EXTREMES], varied=()),
    Sample([normal(0, 3)], reference="onnx", varied=()),
]


@defined("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """(x - mean) / (deviation + 1e-9) over the axes."""
    centred = x - p.reduce_mean(x, list(axes), keepdims=True)
    deviation = p.sqrt(p.reduce_mean(centred * centred, list(axes), keepdims=True))
    return centred / (deviation + 1e-9)


mean_variance_normalization.samples = lambda: [
    Sample([normal(2, 3, 4, 2)], reference="onnx"),
    Sample([normal(2, 3, 4)], {"axes": [1, 2]}, reference="onnx", order=1),
    Sample([np.array([[1e4, -1e4], [2.0, 2.0]], np.float32)], {"axes": [1]}, reference="onnx", varied=()),
    Sample([normal(2, 3, 0)], {"axes": [0]}, reference="", varied=()),
]
