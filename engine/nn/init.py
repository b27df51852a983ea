"""Initializers; they fill a parameter in place from the engine's generator and return it."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np
from edgec.engine.random import generator
from edgec.engine.tensor import Tensor

__all__ = [
    "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "uniform_", "xavier_normal_",
    "xavier_uniform_", "zeros_",
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
