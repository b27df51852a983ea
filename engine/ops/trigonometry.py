"""Trigonometric and hyperbolic functions and their inverses, each one row of a table with its slope."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.registry import PRIMITIVES, Gradients, Sample, primitive
from edgec.engine.samples import normal, uniform
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

_EXTREMES = np.array([0.0, -0.0, 1.0, -1.0, 100.0, -100.0, np.inf, -np.inf, np.nan], np.float32)

# Name: function, derivative as a function of the input, and where to check it.
_TABLE: dict[str, tuple[np.ufunc, Callable[[Tensor], Tensor], Callable[[], Array]]] = {
    "Tan": (np.tan, lambda x: 1.0 / (p.call("Cos", x) * p.call("Cos", x)), lambda: uniform(2, 3, low=-1.2, high=1.2)),
    "Asin": (np.arcsin, lambda x: 1.0 / p.sqrt(1.0 - x * x), lambda: uniform(2, 3, low=-0.8, high=0.8)),
    "Acos": (np.arccos, lambda x: -1.0 / p.sqrt(1.0 - x * x), lambda: uniform(2, 3, low=-0.8, high=0.8)),
    "Atan": (np.arctan, lambda x: 1.0 / (1.0 + x * x), lambda: normal(2, 3)),
    "Sinh": (np.sinh, lambda x: p.call("Cosh", x), lambda: normal(2, 3)),
    "Cosh": (np.cosh, lambda x: p.call("Sinh", x), lambda: normal(2, 3)),
    "Asinh": (np.arcsinh, lambda x: 1.0 / p.sqrt(1.0 + x * x), lambda: normal(2, 3)),
    "Acosh": (
        np.arccosh,
        lambda x: 1.0 / (p.sqrt(x - 1.0) * p.sqrt(x + 1.0)),
        lambda: uniform(2, 3, low=1.2, high=3.0),
    ),
    "Atanh": (np.arctanh, lambda x: 1.0 / (1.0 - x * x), lambda: uniform(2, 3, low=-0.8, high=0.8)),
}


def _declare(name: str) -> None:
    function, slope, point = _TABLE[name]

    def forward(x: Array) -> Array:
        result: Array = function(x)
        return result

    made = primitive(name)(forward)

    @made.gradient
    def _(call: Node, dy: Tensor) -> Gradients:
        return (dy * slope(call.input(0)),)

    PRIMITIVES[name].samples = lambda: [
        Sample([point()]),
        Sample([_EXTREMES], varied=(), tolerance=1e-4),
        Sample([np.zeros((0, 2), np.float32)]),
    ]


for _name in _TABLE:
    _declare(_name)
