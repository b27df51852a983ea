"""The engine's own random numbers: initializers, dropout and shuffling draw from here, never from NumPy's global state."""

from __future__ import annotations

import numpy as np

__all__ = ["generator", "seed"]

_generator = np.random.default_rng(0)


def seed(number: int) -> None:
    """Start the engine's generator again from `number`."""
    global _generator
    _generator = np.random.default_rng(number)


def generator() -> np.random.Generator:
    """The generator in use; it is replaced by `seed`, so do not keep it."""
    return _generator
