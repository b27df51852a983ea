"""Batch normalization in training where each channel is one row of memory, a few channels at a time.

All passes over a block of channels meet it in the cache, so memory is read and written once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.ops.memory import BLOCK_BYTES, batch_last, scratch, sum_rows

__all__ = ["channel_rows", "from_channel_rows", "normalize_rows", "normalize_rows_gradient"]


def channel_rows(x: Array, copies: bool = False) -> Array | None:
    """A view of `x` as (channels, everything else), or None if its memory has another order and `copies` is False."""
    last = batch_last(x)
    if x.dtype.itemsize < 4 or x.ndim < 3 or not (copies or last.flags.c_contiguous):
        return None
    return last.reshape(len(last), -1)


def from_channel_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    made = rows.reshape(*shape[1:], shape[0])
    return made.transpose(-1, *range(made.ndim - 1))


def normalize_rows(rows: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """The scaled and shifted rows, and mean and population variance of each."""
    y = np.empty_like(rows)
    mean, variance = np.empty(len(rows), rows.dtype), np.empty(len(rows), rows.dtype)
    for block in _blocks(rows):
        part, at = y[block], (block, None)
        mean[block] = sum_rows(rows[block]) / rows.shape[1]
        np.subtract(rows[block], mean[at], out=part)
        variance[block] = _dots(part, part) / rows.shape[1]
        part *= (scale[block] / np.sqrt(variance[block] + rows.dtype.type(epsilon)))[:, None]
        part += bias[at]
    return y, mean, variance


def normalize_rows_gradient(rows: Array, scale: Array, dy: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """The gradients by rows, scale and bias; mean and variance are computed again, which costs less than a read."""
    length = rows.shape[1]
    dx = np.empty_like(rows)
    d_scale, d_bias = np.empty(len(rows), rows.dtype), np.empty(len(rows), rows.dtype)
    for block in _blocks(rows):
        part, given = dx[block], dy[block]
        centred = scratch("centred", part.shape, rows.dtype)
        np.subtract(rows[block], (sum_rows(rows[block]) / length)[:, None], out=centred)
        inverse = 1 / np.sqrt(_dots(centred, centred) / length + rows.dtype.type(epsilon))
        d_bias[block] = sum_rows(given)
        d_scale[block] = _dots(given, centred) * inverse
        # dx = scale / deviation (dy - mean(dy) - standard mean(dy standard))
        centred *= (inverse * d_scale[block] / length)[:, None]
        centred += (d_bias[block] / length)[:, None]
        np.subtract(given, centred, out=part)
        part *= (scale[block] * inverse)[:, None]
    return dx, d_scale, d_bias


def _dots(a: Array, b: Array) -> Array:
    """The product of each row of `a` with that of `b`, by BLAS."""
    return np.asarray(np.matmul(a[:, None, :], b[:, :, None])).reshape(-1)


def _blocks(rows: Array) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // max(rows[:1].nbytes, 1))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)
