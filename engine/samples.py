"""Arrays for the primitives' samples: fixed by their arguments, float32, away from kinks where that is asked for."""

from __future__ import annotations

import zlib

import numpy as np

from edgec.engine.arrays import Array

__all__ = ["distinct", "integers", "normal", "positive", "uniform"]


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def normal(*shape: int, seed: int = 0) -> Array:
    return _rng("normal", shape, seed).standard_normal(shape).astype(np.float32)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Array:
    return _rng("uniform", shape, seed).uniform(low, high, shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> Array:
    return uniform(*shape, low=0.5, high=2.0, seed=seed)


def distinct(*shape: int, seed: int = 0) -> Array:
    """Values at least 0.1 apart and at least 0.05 from zero, for maxima, kinks and rounding."""
    count = int(np.prod(shape))
    values = (_rng("distinct", shape, seed).permutation(count) - count // 2) * 0.1 + 0.05
    return values.reshape(shape).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 10, seed: int = 0) -> Array:
    return _rng("integers", shape, seed).integers(low, high, shape)
