"""Matrix products of every float type."""

from __future__ import annotations

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
_SHORTEST_PIECE = 64


def product_into(a: Array, b: Array, out: Array) -> None:
    """Write `a @ b`. Shape: a (m, k) with few rows, b (k, q) with many columns."""
    columns = b.shape[1]
    fitting = _UNPACKED_PRODUCTS // max(a.size, 1)
    if fitting >= columns or fitting < _SHORTEST_PIECE:
        np.matmul(a, b, out=out)
        return
    step = -(-columns // -(-columns // fitting))
    step = min(-(-step // 16), fitting // 16) * 16  # whole vectors
    for start in range(0, columns, step):
        np.matmul(a, b[:, start : start + step], out=out[:, start : start + step])


def product_of_rows(a: Array, b: Array) -> Array:
    """The products of the rows, ``a @ b.T``. Shape: a (k, q), b (m, q) with few rows; result (k, m)."""
    rows, length = b.shape
    step = min(_UNPACKED_RESULT, _UNPACKED_PRODUCTS // max(length, 1)) // max(rows, 1)
    if step >= len(a) or step < 32:
        return np.asarray(np.matmul(a, b.T))
    step = -(-len(a) // -(-len(a) // step))
    made = np.empty((len(a), rows), a.dtype)
    for start in range(0, len(a), step):
        np.matmul(a[start : start + step], b.T, out=made[start : start + step])
    return made
