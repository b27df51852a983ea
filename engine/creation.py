"""New tensors. Random ones come from the engine's generator; see `edgec.engine.seed`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import DTypeLike, onnx_from_dtype
from edgec.engine.tensor import Tensor

__all__ = ["arange", "eye", "full", "ones", "ones_like", "rand", "randint", "randn", "zeros", "zeros_like"]


def _shape(sizes: Sequence[int | Sequence[int]]) -> tuple[int, ...]:
    first = sizes[0] if sizes else ()
    if len(sizes) == 1 and isinstance(first, Sequence):
        return tuple(first)
    return tuple(size for size in sizes if isinstance(size, int))


def zeros(*shape: int | Sequence[int], dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(np.zeros(_shape(shape), dtype), requires_grad)


def ones(*shape: int | Sequence[int], dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(np.ones(_shape(shape), dtype), requires_grad)


def full(shape: Sequence[int], value: float, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(np.full(tuple(shape), value, dtype), requires_grad)


def zeros_like(x: Tensor) -> Tensor:
    return Tensor(np.zeros(x.shape, x.dtype))


def ones_like(x: Tensor) -> Tensor:
    return Tensor(np.ones(x.shape, x.dtype))


def eye(size: int, dtype: DTypeLike = np.float32) -> Tensor:
    return Tensor(np.eye(size, dtype=dtype))


def arange(start: float, stop: float | None = None, step: float = 1, dtype: DTypeLike | None = None) -> Tensor:
    """Like Python's range; int64 for integers, float32 as soon as one argument is a float."""
    first, last = (0, start) if stop is None else (start, stop)
    if dtype is None:
        dtype = np.float32 if any(isinstance(value, float) for value in (first, last, step)) else np.int64
    return Tensor(np.arange(first, last, step).astype(dtype))


# Drawn by primitives, so that a traced function draws anew whenever its graph is run.


def randn(*shape: int | Sequence[int], dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    drawn = p.call("RandomNormal", shape=_shape(shape), dtype=onnx_from_dtype(dtype))
    return drawn.requires_grad_(requires_grad)


def rand(*shape: int | Sequence[int], dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    drawn = p.call("RandomUniform", shape=_shape(shape), dtype=onnx_from_dtype(dtype))
    return drawn.requires_grad_(requires_grad)


def randint(low: int, high: int, shape: Sequence[int]) -> Tensor:
    """Integers from `low` up to, but without, `high`."""
    return p.call("edgec.RandomIntegers", shape=tuple(shape), low=low, high=high)
