"""The table of the cases of test_lowering, and how to write one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RNG = np.random.default_rng(1)


@dataclass(frozen=True, eq=False)
class Constant:
    """An operand known at compile time."""

    array: Array

    def __repr__(self) -> str:
        return f"constant{self.array.shape}"


@dataclass(frozen=True)
class Image:
    """An operand that a convolution computes, so that it comes in the blocked layout.

    Attributes:
        positive: Whether all its numbers are.
        whole: Whether they are integers, which every order of the sums gives exactly.
        dtype: ``uint8`` or ``int8`` for whole numbers that are quantized with a scale of 1; else they are floats.
    """

    shape: tuple[int, ...]
    positive: bool = False
    whole: bool = False
    dtype: str = "float32"


@dataclass(eq=False)
class Case:
    """One node."""

    op_type: str
    inputs: list[Array | Constant | Image | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def __repr__(self) -> str:
        inputs = [f"{v.dtype}{v.shape}" if isinstance(v, np.ndarray) else repr(v) for v in self.inputs]
        return f"{self.op_type}({', '.join(inputs)}, {self.attributes})"


CASES: dict[str, list[Case]] = {}


def case(op_type: str, *inputs: Array | Constant | Image | None, outputs: int = 1, **attributes: Any) -> None:
    CASES.setdefault(op_type, []).append(Case(op_type, list(inputs), attributes, outputs))


def f32(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    return RNG.uniform(low, high, shape).astype(np.float32)


def i64(*shape: int, low: int = -5, high: int = 6) -> Array:
    return RNG.integers(low, high, shape, dtype=np.int64)


def flags(*shape: int) -> Array:
    return RNG.integers(0, 2, shape).astype(np.bool_)


def c(values: Array | Iterable[int] | int) -> Constant:
    """A constant; Python integers become int64."""
    return Constant(values if isinstance(values, np.ndarray) else np.asarray(values, np.int64))


def half(*values: float) -> Constant:
    return Constant(np.asarray(values, np.float32).reshape(-1))
