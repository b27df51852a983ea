"""Matrix products of every float type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine.arrays import Array, is_float


def product(a: Array, b: Array) -> Array:
    """`a @ b`. BLAS knows no type below float32, so smaller ones are multiplied and summed there and rounded once."""
    if a.dtype.itemsize < 4 and is_float(a.dtype):
        wide: Array = np.matmul(a.astype(np.float32), b.astype(np.float32))
        return wide.astype(a.dtype)
    return np.asarray(np.matmul(a, b))


# OpenBLAS multiplies matrices up to this many products as they lie, and copies larger ones into panels first, which
# costs up to a third of the time where one side is short (0.3.31, AVX-512: 97 against 71 Gflop/s with 16 rows).
_UNPACKED_PRODUCTS = 100**3
# With both operands contiguous along the sum there is a limit on the result, too.
_UNPACKED_RESULT = 1200
# A longer sum is cut, if that leaves enough rows for a piece: up to twice as fast where both matrices have few.
_UNPACKED_LENGTH = 1024
_SHORTEST_PIECE = 64
_FEWEST_ROWS = 32


def products_into(a: Array, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Write `a @ b` to `out` for each pair (b, out).

    All pairs are met a piece of their columns at a time, so that what they have in common stays in the cache.

    Shape: a (m, k) with few rows, b (k, q) with many columns, the same for all; out (m, q).
    """
    columns = pairs[0][0].shape[1]
    fitting = _UNPACKED_PRODUCTS // max(a.size, 1)
    step = columns
    if _SHORTEST_PIECE <= fitting < columns:
        step = -(-columns // -(-columns // fitting))
        step = min(-(-step // 16), fitting // 16) * 16  # whole vectors
    for start in range(0, columns, max(step, 1)):
        for b, out in pairs:
            np.matmul(a, b[:, start : start + step], out=out[:, start : start + step])


def sum_of_products_of_rows(pairs: Sequence[tuple[Array, Array]]) -> Array:
    """The sum of ``a @ b.T`` over the pairs (a, b). Shape: a (k, q), b (m, q) with few rows; result (k, m)."""
    a, b = pairs[0]
    height, (rows, length) = len(a), b.shape
    if length > _UNPACKED_LENGTH and rows * _FEWEST_ROWS <= _UNPACKED_RESULT:
        cut = -(-length // -(-length // _UNPACKED_LENGTH))
        places = [slice(start, start + cut) for start in range(0, length, cut)]
        return sum_of_products_of_rows([(a[:, place], b[:, place]) for a, b in pairs for place in places])
    step = min(_UNPACKED_RESULT, _UNPACKED_PRODUCTS // max(length, 1)) // max(rows, 1)
    step = height if step < _FEWEST_ROWS else -(-height // -(-height // step))
    total = np.empty((height, rows), a.dtype)
    for start in range(0, height, max(step, 1)):
        part = total[start : start + step]
        for number, (left, right) in enumerate(pairs):
            if number:
                part += np.matmul(left[start : start + step], right.T)
            else:
                np.matmul(left[start : start + step], right.T, out=part)
    return total
