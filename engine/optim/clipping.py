"""Clipping of gradients by their norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from edgec.engine.tensor import Tensor

__all__ = ["clip_grad_norm_"]


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients in place so that their common norm is at most `max_norm`; gives the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = math.sqrt(sum(float(np.vdot(gradient.data, gradient.data)) for gradient in gradients))
    if norm > max_norm:
        for gradient in gradients:
            gradient.data *= max_norm / norm
    return norm
