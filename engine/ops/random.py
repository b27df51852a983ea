"""Random tensors. Without a seed of their own they draw from the engine's generator; see `edgec.engine.seed`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine.arrays import Array, dtype_from_onnx
from edgec.engine.random import generator
from edgec.engine.registry import Sample, primitive


def _generator(seed: float | None) -> np.random.Generator:
    return generator() if seed is None else np.random.default_rng(int(seed))


@primitive("RandomNormal", differentiable=False)
def random_normal(
    *, shape: Sequence[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> Array:
    values = np.asarray(_generator(seed).standard_normal(tuple(shape)))
    if scale != 1.0 or mean != 0.0:
        values = values * scale + mean
    return values.astype(dtype_from_onnx(dtype))


# Other implementations draw other numbers.
random_normal.samples = lambda: [
    Sample([], {"shape": [2, 3], "seed": 1.0}, reference=""),
    Sample([], {"shape": [], "seed": 1.0, "mean": 2.0, "scale": 0.5, "dtype": 11}, reference=""),
]


@primitive("RandomUniform", differentiable=False)
def random_uniform(
    *, shape: Sequence[int], dtype: int = 1, high: float = 1.0, low: float = 0.0, seed: float | None = None
) -> Array:
    values = np.asarray(_generator(seed).random(tuple(shape)))
    if (low, high) != (0.0, 1.0):
        values = values * (high - low) + low
    return values.astype(dtype_from_onnx(dtype))


random_uniform.samples = lambda: [
    Sample([], {"shape": [2, 3], "seed": 1.0}, reference=""),
    Sample([], {"shape": [4], "seed": 1.0, "low": -3.0, "high": 5.0}, reference=""),
]


@primitive("edgec.RandomIntegers", differentiable=False)
def random_integers(*, shape: Sequence[int], low: int, high: int, seed: float | None = None) -> Array:
    """From `low` up to, but without, `high`; ONNX has no such operator."""
    return np.asarray(_generator(seed).integers(low, high, tuple(shape)))


random_integers.samples = lambda: [Sample([], {"shape": [5], "low": -2, "high": 3, "seed": 1.0}, reference="")]
