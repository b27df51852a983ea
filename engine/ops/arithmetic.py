"""Elementwise arithmetic."""

from __future__ import annotations

from functools import reduce

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.error_function import erf_array
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import distinct, integers, normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _binary_samples() -> list[Sample]:
    return [
        Sample([normal(2, 3), normal(2, 3, seed=1)]),
        Sample([normal(2, 1, 3), positive(4, 1)]),
        Sample([normal(3), positive()]),
        Sample([integers(2, 3, low=-9), integers(2, 3, low=1)]),
    ]


@primitive("Add", keeps_inputs=())
def add(a: Array, b: Array) -> Array:
    return np.add(a, b)


@add.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return [p.sum_to(dy, call.shape(index)) if call.wants(index) else None for index in (0, 1)]


add.samples = _binary_samples


@primitive("Sub", keeps_inputs=())
def sub(a: Array, b: Array) -> Array:
    return np.subtract(a, b)


@sub.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    da = p.sum_to(dy, call.shape(0)) if call.wants(0) else None
    return da, -p.sum_to(dy, call.shape(1)) if call.wants(1) else None


sub.samples = _binary_samples


@primitive("Mul", keeps_inputs={0: (1,), 1: (0,)})
def mul(a: Array, b: Array) -> Array:
    return np.multiply(a, b)


@mul.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    da = p.sum_to(dy * call.input(1), call.shape(0)) if call.wants(0) else None
    return da, p.sum_to(dy * call.input(0), call.shape(1)) if call.wants(1) else None


mul.samples = _binary_samples


@primitive("Div", keeps_inputs=(1,), keeps_outputs=(0,))
def div(a: Array, b: Array) -> Array:
    """Floats divide; integers divide and drop the fraction, towards zero."""
    if np.result_type(a, b).kind not in "iu":
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((np.remainder(a, b) != 0) & ((a < 0) != (b < 0))).astype(quotient.dtype))


@div.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    scaled = dy / call.input(1)
    da = p.sum_to(scaled, call.shape(0)) if call.wants(0) else None
    return da, -p.sum_to(scaled * call.output(0), call.shape(1)) if call.wants(1) else None


div.samples = lambda: [
    *_binary_samples(),
    Sample([np.array([7, -7, 7, -7, 6]), np.array([2, 2, -2, -2, 3])]),
    Sample([np.array([1.0, -1.0, 0.0], np.float32), np.zeros(3, np.float32)], varied=()),
]


@primitive("Mod", differentiable=False)
def mod(a: Array, b: Array, *, fmod: int = 0) -> Array:
    return np.fmod(a, b) if fmod else np.mod(a, b)


mod.samples = lambda: [
    Sample([integers(2, 3, low=-9), integers(3, low=1)]),
    Sample([normal(2, 3), positive(3)], {"fmod": 1}),
]


@primitive("Pow", keeps_outputs=(0,))
def power(base: Array, exponent: Array) -> Array:
    """The result has the dtype of the base, as ONNX has it."""
    if exponent.ndim == 0 and exponent == 2:
        return np.multiply(base, base)
    return np.power(base, exponent).astype(base.dtype, copy=False)


@power.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    base, exponent = call.input(0), call.input(1)
    exponent = p.cast(exponent, base.dtype)
    d_base = d_exponent = None
    if call.wants(0):
        # At exponent 0 the slope is 0 * x**0, not 0 * x**-1, which would be nan at x = 0.
        lower = p.where(exponent == 0.0, exponent, exponent - 1.0)
        d_base = p.sum_to(dy * exponent * p.power(base, lower), base.shape)
    if call.wants(1):
        # x**y has no slope in y for x < 0; at x = 0 it is 0 for every y > 0.
        logarithm = p.log(p.where(base > 0.0, base, p.full_like(base, 1.0)))
        d_exponent = p.sum_to(dy * call.output(0) * logarithm, exponent.shape)
    return d_base, d_exponent


power.samples = lambda: [
    Sample([positive(2, 3), normal(3)], tolerance=1e-4),
    Sample([normal(2, 3), np.float32(2.0)], varied=[0]),
    Sample([normal(2, 3), np.array([0, 1, 3])], varied=[0]),
    Sample([np.array([0.0, 4.0], np.float32), np.array([0.0, 0.5], np.float32)], varied=()),
]


@primitive("Neg", keeps_inputs=())
def neg(x: Array) -> Array:
    return np.negative(x)


@neg.gradient
def _(_call: Node, dy: Tensor) -> Gradients:
    return (-dy,)


neg.samples = lambda: [Sample([normal(2, 3)]), Sample([integers(3)])]


@primitive("Abs")
def absolute(x: Array) -> Array:
    return np.abs(x)


@absolute.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (dy * p.sign(call.input(0)),)


absolute.samples = lambda: [Sample([distinct(2, 3)]), Sample([integers(4, low=-5)])]


@primitive("Sign", keeps_inputs=())
def sign(x: Array) -> Array:
    return np.sign(x)


@sign.gradient
def _(_call: Node, _dy: Tensor) -> Gradients:
    return (None,)


sign.samples = lambda: [Sample([distinct(2, 3)]), Sample([np.array([0.0, -0.0, 2.0], np.float32)], varied=())]


@primitive("Sqrt", keeps_inputs=(), keeps_outputs=(0,))
def sqrt(x: Array) -> Array:
    return np.sqrt(x)


@sqrt.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (dy * 0.5 / call.output(0),)


sqrt.samples = lambda: [Sample([positive(2, 3)]), Sample([np.array([0.0, 4.0, -1.0], np.float32)], varied=())]


@primitive("Reciprocal", keeps_inputs=(), keeps_outputs=(0,))
def reciprocal(x: Array) -> Array:
    return np.reciprocal(x)


@reciprocal.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (-dy * call.output(0) * call.output(0),)


reciprocal.samples = lambda: [Sample([positive(2, 3)])]


@primitive("Exp", keeps_inputs=(), keeps_outputs=(0,))
def exp(x: Array) -> Array:
    return np.exp(x)


@exp.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (dy * call.output(0),)


exp.samples = lambda: [Sample([normal(2, 3)]), Sample([np.array([-200.0, 0.0, 200.0], np.float32)], varied=())]


@primitive("Log")
def log(x: Array) -> Array:
    return np.log(x)


@log.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (dy / call.input(0),)


log.samples = lambda: [Sample([positive(2, 3)]), Sample([np.array([0.0, -1.0], np.float32)], varied=())]


@primitive("Sin")
def sin(x: Array) -> Array:
    return np.sin(x)


@sin.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (dy * p.call("Cos", call.input(0)),)


sin.samples = lambda: [Sample([normal(2, 3)])]


@primitive("Cos")
def cos(x: Array) -> Array:
    return np.cos(x)


@cos.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (-dy * p.call("Sin", call.input(0)),)


cos.samples = lambda: [Sample([normal(2, 3)])]


@primitive("Erf")
def erf(x: Array) -> Array:
    return erf_array(x)


@erf.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x = call.input(0)
    return (dy * (2.0 / np.pi**0.5) * p.exp(-x * x),)


erf.samples = lambda: [Sample([normal(2, 3)]), Sample([np.array([-9.0, -3.0, 0.0, 1e-6, 6.0], np.float32)])]


def _constant_steps(name: str) -> None:
    """Operators that are flat almost everywhere: their gradient is zero."""
    function = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint}[name]

    @primitive(name, keeps_inputs=())
    def step(x: Array) -> Array:
        rounded: Array = function(x)
        return rounded

    @step.gradient
    def _(_call: Node, _dy: Tensor) -> Gradients:
        return (None,)

    step.samples = lambda: [
        Sample([normal(2, 3)]),
        Sample([np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)], varied=()),
    ]


for _name in ("Floor", "Ceil", "Round"):
    _constant_steps(_name)


def _extremum_gradient(call: Node, dy: Tensor) -> Gradients:
    # Equal candidates share the gradient evenly.
    y = call.output(0)
    winners = [p.cast(p.equal(call.input(index), y), dy.dtype) for index in range(call.input_count)]
    share = dy / reduce(p.add, winners)
    return [
        p.sum_to(share * winner, call.shape(index)) if call.wants(index) else None
        for index, winner in enumerate(winners)
    ]


def _variadic_samples() -> list[Sample]:
    return [
        Sample([normal(2, 3), normal(2, 3, seed=1), normal(2, 3, seed=2)]),
        Sample([normal(2, 1, 3), normal(4, 1)]),
        Sample([normal(3)]),
    ]


@primitive("Max", keeps_outputs=(0,))
def maximum(*inputs: Array) -> Array:
    return reduce(np.maximum, inputs)


maximum.gradient(_extremum_gradient)
maximum.samples = lambda: [*_variadic_samples(), Sample([integers(3), integers(3, seed=1)])]


@primitive("Min", keeps_outputs=(0,))
def minimum(*inputs: Array) -> Array:
    return reduce(np.minimum, inputs)


minimum.gradient(_extremum_gradient)
minimum.samples = maximum.samples


@primitive("Sum", keeps_inputs=())
def sum_of(*inputs: Array) -> Array:
    return reduce(np.add, inputs)


@sum_of.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return [p.sum_to(dy, call.shape(index)) if call.wants(index) else None for index in range(call.input_count)]


sum_of.samples = _variadic_samples


@primitive("Mean", keeps_inputs=())
def mean_of(*inputs: Array) -> Array:
    total: Array = reduce(np.add, inputs)
    return total / len(inputs)


@mean_of.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    share = p.scale(dy, 1.0 / call.input_count)
    return [p.sum_to(share, call.shape(index)) if call.wants(index) else None for index in range(call.input_count)]


mean_of.samples = _variadic_samples
