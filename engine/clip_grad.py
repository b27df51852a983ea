"""Clipping of gradients: PyTorch's functions, and Paddle's objects for an optimizer's ``grad_clip``."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from edgec.engine.tensor import Tensor

__all__ = ["ClipGradByGlobalNorm", "ClipGradByNorm", "ClipGradByValue", "clip_grad_norm_", "clip_grad_value_"]


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> float:
    """Scale all gradients in place so that their common norm is at most `max_norm`; gives the norm before.

    The norm is summed in float64. Source: Pascanu et al. 2013, algorithm 1.
    """
    gradients = _gradients(parameters)
    if norm_type == math.inf:
        norm = max((float(np.abs(gradient.data).max(initial=0.0)) for gradient in gradients), default=0.0)
    elif norm_type == 2.0:
        norm = math.sqrt(sum(_square_sum(gradient) for gradient in gradients))
    else:
        total = sum(float((np.abs(gradient.data).astype(np.float64) ** norm_type).sum()) for gradient in gradients)
        norm = total ** (1.0 / norm_type)
    if norm > max_norm:
        for gradient in gradients:
            _scale(gradient, max_norm / norm)
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Hold every element of the gradients within plus and minus `clip_value`, in place."""
    for gradient in _gradients(parameters):
        gradient.data = np.clip(gradient.data, -clip_value, clip_value)


class ClipGradByValue:
    """Every element within [`min`, `max`]; `min` defaults to minus `max`."""

    def __init__(self, max: float, min: float | None = None) -> None:
        self.max, self.min = max, -max if min is None else min

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        for gradient in _gradients(parameters):
            gradient.data = np.clip(gradient.data, self.min, self.max)


class ClipGradByNorm:
    """The norm of each gradient by itself at most `clip_norm`."""

    def __init__(self, clip_norm: float) -> None:
        self.clip_norm = clip_norm

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            clip_grad_norm_(parameter, self.clip_norm)


class ClipGradByGlobalNorm:
    """The norm of all gradients together at most `clip_norm`."""

    def __init__(self, clip_norm: float) -> None:
        self.clip_norm = clip_norm

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        clip_grad_norm_(parameters, self.clip_norm)


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    several = [parameters] if isinstance(parameters, Tensor) else parameters
    return [parameter.grad for parameter in several if parameter.grad is not None]


def _square_sum(gradient: Tensor) -> float:
    values = gradient.data.astype(np.float64).reshape(-1)
    return float(np.dot(values, values))


def _scale(gradient: Tensor, factor: float) -> None:
    with np.errstate(invalid="ignore"):  # an infinite gradient becomes NaN, as in PyTorch; a loss scaler skips the step
        gradient.data *= gradient.dtype.type(factor)
