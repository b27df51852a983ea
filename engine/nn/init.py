"""Initializers; they fill a parameter in place from the engine's generator and return it."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np

from edgec.engine.random import generator
from edgec.engine.tensor import Parameter, Tensor

__all__ = [
    "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_", "trunc_normal_", "uniform_",
    "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip

_T = TypeVar("_T", bound=Tensor)
Fan = Literal["fan_in", "fan_out"]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs per element of a weight of shape (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(f"a weight needs two axes for its fan, this one has shape {tensor.shape}")
    receptive = int(np.prod(tensor.shape[2:]))
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def uniform_(tensor: _T, low: float = 0.0, high: float = 1.0) -> _T:
    tensor.data = generator().uniform(low, high, tensor.shape).astype(tensor.dtype)
    return tensor


def normal_(tensor: _T, mean: float = 0.0, std: float = 1.0) -> _T:
    tensor.data = generator().normal(mean, std, tensor.shape).astype(tensor.dtype)
    return tensor


def constant_(tensor: _T, value: float) -> _T:
    tensor.data = np.full(tensor.shape, value, tensor.dtype)
    return tensor


def zeros_(tensor: _T) -> _T:
    return constant_(tensor, 0.0)


def ones_(tensor: _T) -> _T:
    return constant_(tensor, 1.0)


def _kaiming_std(tensor: Tensor, mode: Fan, slope: float) -> float:
    fan = _fans(tensor)[0 if mode == "fan_in" else 1]
    return math.sqrt(2.0 / (1.0 + slope**2) / fan)


def kaiming_normal_(tensor: _T, mode: Fan = "fan_in", negative_slope: float = 0.0) -> _T:
    """Keeps the variance through ReLU. Source: He et al. 2015, eq. 10 and 14."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, mode, negative_slope))


def kaiming_uniform_(tensor: _T, mode: Fan = "fan_in", negative_slope: float = 0.0) -> _T:
    """`kaiming_normal_` with a uniform distribution of the same variance."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, mode, negative_slope)
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: _T, gain: float = 1.0) -> _T:
    """Keeps the variance both ways through linear layers. Source: Glorot and Bengio 2010, eq. 12."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))))


def xavier_uniform_(tensor: _T, gain: float = 1.0) -> _T:
    """Source: Glorot and Bengio 2010, eq. 16."""
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound)


def trunc_normal_(tensor: _T, mean: float = 0.0, std: float = 1.0, low: float = -2.0, high: float = 2.0) -> _T:
    """Normal, but every value outside [low, high] is drawn again. The bounds are values, not deviations."""
    if not low < high or high < mean - 4 * std or low > mean + 4 * std:
        raise ValueError(f"trunc_normal_: [{low}, {high}] holds next to nothing of N({mean}, {std})")
    values = generator().normal(mean, std, tensor.shape)
    while (outside := (values < low) | (values > high)).any():
        values[outside] = generator().normal(mean, std, int(outside.sum()))
    tensor.data = np.asarray(values).astype(tensor.dtype)
    return tensor


def orthogonal_(tensor: _T, gain: float = 1.0) -> _T:
    """Orthogonal rows (or columns, if there are fewer of them) of the weight as a matrix. Source: Saxe et al. 2014."""
    rows, columns = tensor.shape[0], int(np.prod(tensor.shape[1:]))
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs a matrix, this tensor has shape {tensor.shape}")
    q, r = np.linalg.qr(generator().standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diagonal(r))  # makes the distribution uniform
    tensor.data = (gain * (q.T if rows < columns else q)).reshape(tensor.shape).astype(tensor.dtype)
    return tensor


# --- what layers start with, as in PyTorch ---


def empty(*shape: int) -> Parameter:
    return Parameter(np.zeros(shape, np.float32))


def default_weight(*shape: int) -> Parameter:
    """Uniform within one over the square root of the fan-in."""
    return kaiming_uniform_(empty(*shape), negative_slope=math.sqrt(5.0))


def default_bias(size: int, fan_in: int) -> Parameter:
    bound = 1.0 / math.sqrt(max(fan_in, 1))
    return uniform_(empty(size), -bound, bound)
