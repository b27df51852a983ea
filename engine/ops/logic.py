"""Comparison, logic and selection. Comparisons give booleans, which carry no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.registry import PRIMITIVES, Gradients, Sample, primitive
from edgec.engine.samples import integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

_NAN = np.array([np.nan, 1.0, np.inf, -np.inf], np.float32)


def _comparison_samples() -> list[Sample]:
    return [
        Sample([normal(2, 1, 3), normal(4, 1)]),
        Sample([integers(2, 3, high=3), integers(3, high=3)]),
        Sample([_NAN, np.array([np.nan, 1.0, np.inf, 0.0], np.float32)]),
    ]


def _logic_samples() -> list[Sample]:
    return [Sample([integers(2, 1, 3, high=2).astype(bool), integers(4, 1, high=2).astype(bool)])]


def _table(functions: dict[str, Callable[[Any, Any], Any]], samples: Callable[[], list[Sample]]) -> None:
    """Declare one primitive per entry: two arrays in, booleans out."""
    for name, function in functions.items():

        def forward(a: Array, b: Array, function: Callable[[Any, Any], Any] = function) -> Array:
            result: Array = function(a, b)
            return result

        primitive(name, differentiable=False)(forward)
        PRIMITIVES[name].samples = samples


_table(
    {
        "Equal": np.equal,
        "Greater": np.greater,
        "GreaterOrEqual": np.greater_equal,
        "Less": np.less,
        "LessOrEqual": np.less_equal,
    },
    _comparison_samples,
)
_table({"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}, _logic_samples)


@primitive("Not", differentiable=False)
def logical_not(x: Array) -> Array:
    return np.logical_not(x)


logical_not.samples = lambda: [Sample([integers(2, 3, high=2).astype(bool)])]


@primitive("IsNaN", differentiable=False)
def is_nan(x: Array) -> Array:
    return np.isnan(x)


is_nan.samples = lambda: [Sample([_NAN])]


@primitive("IsInf", differentiable=False)
def is_inf(x: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Array:
    infinite: Array = np.isinf(x)
    if not detect_negative:
        infinite &= x > 0
    if not detect_positive:
        infinite &= x < 0
    return infinite


is_inf.samples = lambda: [
    Sample([_NAN]),
    Sample([_NAN], {"detect_negative": 0}),
    Sample([_NAN], {"detect_positive": 0}),
]


@primitive("Where", keeps_inputs=(0,))
def where(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition, a, b)


@where.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    condition, zero = call.input(0), p.full_like(dy, 0.0)
    da = p.sum_to(p.where(condition, dy, zero), call.shape(1)) if call.wants(1) else None
    return None, da, p.sum_to(p.where(condition, zero, dy), call.shape(2)) if call.wants(2) else None


where.samples = lambda: [
    Sample([integers(2, 1, 3, high=2).astype(bool), normal(4, 1), normal(1, 3)]),
    Sample([integers(3, high=2).astype(bool), integers(3), integers(3, seed=1)]),
]
