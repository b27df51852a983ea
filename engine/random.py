"""The engine's own random numbers, for initializers, dropout and shuffling; NumPy's global state is never used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["generator", "get_state", "preserved", "seed", "set_state"]

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


def get_state() -> dict[str, Any]:
    """Where the generator stands, for `set_state`; plain values that JSON can hold."""
    return dict(generator().bit_generator.state)


def set_state(state: dict[str, Any]) -> None:
    """Continue where `get_state` was called."""
    generator().bit_generator.state = state


@contextmanager
def preserved(start: dict[str, Any] | None = None) -> Iterator[None]:
    """Whatever is drawn inside, the generator goes on afterwards as if it had not been; `start` is where it begins."""
    before = get_state()
    if start is not None:
        set_state(start)
    try:
        yield
    finally:
        set_state(before)
