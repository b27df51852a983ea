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
