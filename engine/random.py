"""The engine's own random numbers, for initializers, dropout and shuffling; NumPy's global state is never used."""

from __future__ import annotations

import numpy as np

__all__ = ["generator", "seed"]

# Made when first needed: numpy.random takes a tenth of the import time.
_generator: np.random.Generator | None = None


def seed(number: int) -> None:
    """Start the engine's generator again from `number`."""
    global _generator
    _generator = np.random.default_rng(number)


def generator() -> np.random.Generator:
    """The generator in use; it is replaced by `seed`, so do not keep it."""
    global _generator
    if _generator is None:
        _generator = np.random.default_rng(0)
    return _generator
