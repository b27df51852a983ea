"""Parameters, inputs and outputs of the plan in `launched_model.py`."""

from __future__ import annotations

import numpy as np

SHAPE = (5, 7)
BYTES = 4 * 35
A = np.linspace(-2, 3, 35, dtype=np.float32).reshape(SHAPE)
B = np.linspace(7, 5, 35, dtype=np.float32).reshape(SHAPE)
PARAMS = A.tobytes() + bytes(192 - BYTES) + B.tobytes()
X = np.linspace(-1, 1, 35, dtype=np.float32).reshape(SHAPE)
U = np.linspace(4, 9, 35, dtype=np.float32).reshape(SHAPE)
SAMPLE = X.tobytes() + U.tobytes()


def expected(x: np.ndarray = X, u: np.ndarray = U) -> bytes:
    """The outputs for one sample, one after the other."""
    t = A * x + B
    y = t + u
    return b"".join(part.astype(np.float32).tobytes() for part in (y, y + t, A * u + B, y))
