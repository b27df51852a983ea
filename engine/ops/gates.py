"""Activations that switch, shrink or gate: Celu, Shrink, Hardmax, Swish, SwiGLU."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import distinct, integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

_EXTREMES = np.array([-1e4, -90.0, -0.5, 0.0, 0.5, 90.0, 1e4], np.float32)
_EMPTY = np.zeros((0, 3), np.float32)


@primitive("Celu")
def celu(x: Array, *, alpha: float = 1.0) -> Array:
    real = x.dtype.type
    below = np.minimum(real(alpha) * np.expm1(x / real(alpha)), real(0))
    return np.asarray(np.maximum(x, real(0)) + below)


@celu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x = call.input(0)
    is_negative = p.less(x, 0.0)
    # The exponential of the positive part would overflow and make nan of a zero.
    negative = p.where(is_negative, x, p.full_like(x, 0.0))
    return (dy * p.exp(p.scale(negative, 1.0 / call.real("alpha"))),)


celu.samples = lambda: [
    Sample([distinct(2, 3)]),
    Sample([distinct(2, 3)], {"alpha": 0.5}),
    Sample([_EXTREMES], varied=()),
    Sample([_EMPTY]),
]


@primitive("Shrink")
def shrink(x: Array, *, bias: float = 0.0, lambd: float = 0.5) -> Array:
    """Zero within `lambd` of zero; beyond, `bias` nearer to zero."""
    shift, border = x.dtype.type(bias), x.dtype.type(lambd)
    inner = np.where(x > border, x - shift, x.dtype.type(0))
    return np.asarray(np.where(x < -border, x + shift, inner))


@shrink.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.mask(p.greater(abs(call.input(0)), call.real("lambd")), dy),)


shrink.samples = lambda: [
    Sample([distinct(3, 4)], {"lambd": 0.3, "bias": 0.2}),
    Sample([integers(5, low=-4).astype(np.int32)], {"lambd": 2.0}),
    Sample([_EXTREMES], varied=()),
    Sample([_EMPTY]),
]


@primitive("Hardmax", keeps_inputs=())
def hardmax(x: Array, *, axis: int = -1) -> Array:
    """One at the first largest value of the axis, zero elsewhere."""
    y = np.zeros_like(x)
    if x.size:
        np.put_along_axis(y, np.argmax(x, axis, keepdims=True), x.dtype.type(1), axis)
    return y


@hardmax.gradient
def _(_call: Node, _dy: Tensor) -> Gradients:
    return (None,)


hardmax.samples = lambda: [
    Sample([distinct(2, 3, 4)]),
    Sample([distinct(2, 3, 4)], {"axis": 1}),
    Sample([np.array([[3.0, 3.0, 1.0], [-np.inf, -np.inf, -np.inf]], np.float32)], reference="onnx", varied=()),
    Sample([_EMPTY]),
]


@primitive("Swish")
def swish(x: Array, *, alpha: float = 1.0) -> Array:
    """Times a gate: x sigmoid(alpha x). Source: ONNX Swish-24."""
    return np.asarray(x / (np.exp(x * x.dtype.type(-alpha)) + x.dtype.type(1)))


@swish.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x, alpha = call.input(0), call.real("alpha")
    gate = p.sigmoid(p.scale(x, alpha))
    return (dy * (gate + p.scale(x, alpha) * gate * (1.0 - gate)),)


swish.expansion = lambda x, alpha=1.0: x * p.sigmoid(p.scale(x, alpha))
swish.samples = lambda: [
    Sample([normal(2, 3)], reference="onnx"),
    Sample([normal(2, 3)], {"alpha": 1.7}, reference="onnx"),
    Sample([_EXTREMES], reference="", varied=()),
    Sample([_EMPTY], reference="onnx"),
]


@defined("SwiGLU", since=28)
def swi_glu(gate: Tensor, value: Tensor, *, alpha: float = 1.0) -> Tensor:
    """swish(gate) * value. Source: ONNX SwiGLU-28; Shazeer 2020."""
    return p.call("Swish", gate, alpha=alpha) * value


swi_glu.samples = lambda: [
    Sample([normal(2, 3), normal(2, 3, seed=1)], reference="onnx"),
    Sample([normal(2, 3), normal(2, 3, seed=1)], {"alpha": 0.5}, reference="onnx"),
    Sample([_EXTREMES, _EXTREMES[::-1].copy()], reference="", varied=()),
    Sample([_EMPTY, _EMPTY], reference="onnx"),
]
