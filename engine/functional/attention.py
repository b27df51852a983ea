"""Attention, written in matrix products and a softmax: opset 23's Attention is newer than traced models."""

from __future__ import annotations

import math

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.functional.dense import dropout
from edgec.engine.tensor import Tensor

__all__ = ["scaled_dot_product_attention", "sinusoidal_positions"]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v.

    Args:
        query: Shape (..., q, d).
        key: Shape (..., k, d).
        value: Shape (..., k, e).
        attn_mask: Broadcast to (..., q, k): True where a query may look, or numbers to be added to the scores. (It is
            the meaning of ONNX, Paddle and of this function in PyTorch; PyTorch's modules mean the opposite.)
        dropout_p: Share of the weights to drop; pass 0 in inference.
        is_causal: Query i sees keys 0 to i only, besides the mask.
        scale: One over the root of d by default.

    A query that may look nowhere gets the mean of all values, not NaN.

    Source: Vaswani et al. 2017, eq. 1.
    """
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    # Scaling the query costs less than scaling the scores.
    scores = p.matmul(p.scale(query, factor), p.swap_axes(key, key.ndim - 2, key.ndim - 1))
    lowest = p.full_like(scores, float(np.finfo(scores.dtype).min))
    if is_causal:
        seen = np.tri(query.shape[-2], key.shape[-2], dtype=bool)
        scores = p.where(p.constant(seen), scores, lowest)
    if attn_mask is not None:
        scores = p.where(attn_mask, scores, lowest) if attn_mask.dtype == np.bool_ else scores + attn_mask
    return p.matmul(dropout(p.softmax(scores, -1), dropout_p), value)


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
    """Sines and cosines of falling frequencies, float32 (length, width). Source: Vaswani et al. 2017, section 3.5."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    table = np.empty((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table
