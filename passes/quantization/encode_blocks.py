"""Weights as small integers with a scale per block: so many neighbours of one column, along its depth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["encode_blocks"]

_SHRINKS = np.linspace(1.0, 0.6, 17, dtype=np.float32)
"""Scales that are tried, as shares of the one with which nothing is clipped."""

_LEAST_SCALE = 1e-30


def encode_blocks(
    matrix: NDArray[np.float32], bits: int, block_size: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix as symmetric integers of so many bits, with a scale per block of each column.

    The scale is the one of a few with the least square error; with few bits it pays to clip the largest weights.

    Args:
        matrix: Shape (K, N).
        bits: 8 or 4; the least integer, which has no opposite, is used, too.
        block_size: Rows per block; the last one may be shorter.

    Returns:
        The integers, shape (K, N), and the scales, shape (ceil(K / block_size), N).
    """
    depth, columns = matrix.shape
    blocks = -(-depth // block_size)
    padded = np.zeros((blocks * block_size, columns), np.float32)
    padded[:depth] = matrix
    parts = padded.reshape(blocks, block_size, columns)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    largest = np.maximum(np.abs(parts).max(axis=1, keepdims=True), np.float32(_LEAST_SCALE * high))
    best, least = np.zeros_like(largest), np.full(largest.shape, np.inf, np.float32)
    for shrink in _SHRINKS:
        scales = largest * np.float32(shrink / high)
        error = np.square(np.clip(np.rint(parts / scales), low, high) * scales - parts).sum(axis=1, keepdims=True)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    steps = np.clip(np.rint(parts / best), low, high).astype(np.int8)
    return np.ascontiguousarray(steps.reshape(-1, columns)[:depth]), best[:, 0]
