"""Activation functions."""

from __future__ import annotations

import math

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.definition import differentiate_definition
from edgec.engine.modes import is_first_order
from edgec.engine.ops.error_function import erf_array
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import distinct, normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

_EXTREMES = np.array([-1e4, -90.0, -0.5, 0.5, 90.0, 1e4], np.float32)


@primitive("Relu", keeps_inputs=(), keeps_outputs=(0,))
def relu(x: Array) -> Array:
    return np.asarray(np.maximum(x, x.dtype.type(0)))


@relu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    if is_first_order():
        return (p.constant(dy.array * (call.output(0).array > 0)),)
    return (p.mask(p.greater(call.output(0), 0.0), dy),)


relu.samples = lambda: [Sample([distinct(2, 3)]), Sample([_EXTREMES])]


@primitive("LeakyRelu")
def leaky_relu(x: Array, *, alpha: float = 0.01) -> Array:
    return np.where(x < 0, x * x.dtype.type(alpha), x)


@leaky_relu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.where(p.less(call.input(0), 0.0), p.scale(dy, call.real("alpha")), dy),)


leaky_relu.samples = lambda: [Sample([distinct(2, 3)]), Sample([distinct(2, 3)], {"alpha": 0.2})]


@primitive("PRelu")
def prelu(x: Array, slope: Array) -> Array:
    return np.where(x < 0, x * slope, x)


@prelu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x, slope = call.input(0), call.input(1)
    negative = p.less(x, 0.0)
    dx = p.where(negative, dy * slope, dy) if call.wants(0) else None
    return dx, p.sum_to(p.mask(negative, dy * x), slope.shape) if call.wants(1) else None


prelu.samples = lambda: [
    Sample([distinct(2, 3, 4), positive(3, 1)]),
    Sample([distinct(2, 3), positive(1)]),
]


@primitive("Elu", keeps_outputs=(0,))
def elu(x: Array, *, alpha: float = 1.0) -> Array:
    return np.where(x < 0, x.dtype.type(alpha) * np.expm1(x), x)


@elu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.where(p.less(call.input(0), 0.0), dy * (call.output(0) + call.real("alpha")), dy),)


elu.samples = lambda: [Sample([distinct(2, 3)]), Sample([distinct(2, 3)], {"alpha": 0.5}), Sample([_EXTREMES])]

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


@primitive("Selu", keeps_outputs=(0,))
def selu(x: Array, *, alpha: float = _SELU_ALPHA, gamma: float = _SELU_GAMMA) -> Array:
    return np.asarray(x.dtype.type(gamma) * np.where(x <= 0, x.dtype.type(alpha) * np.expm1(x), x))


@selu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    alpha, gamma = call.real("alpha"), call.real("gamma")
    negative = dy * (call.output(0) + alpha * gamma)
    return (p.where(p.greater(call.input(0), 0.0), p.scale(dy, gamma), negative),)


selu.samples = lambda: [Sample([distinct(2, 3)]), Sample([_EXTREMES])]


@primitive("Sigmoid", keeps_inputs=(), keeps_outputs=(0,))
def sigmoid(x: Array) -> Array:
    # exp of a large positive number overflows to inf, and 1 / inf is the right 0.
    return np.asarray(np.reciprocal(np.exp(-x) + x.dtype.type(1)))


@sigmoid.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    y = call.output(0)
    return (dy * (y * (1.0 - y)),)


sigmoid.samples = lambda: [Sample([normal(2, 3)]), Sample([_EXTREMES])]


@primitive("HardSigmoid")
def hard_sigmoid(x: Array, *, alpha: float = 0.2, beta: float = 0.5) -> Array:
    linear = x * x.dtype.type(alpha) + x.dtype.type(beta)
    # Not np.clip, which makes float32 of bfloat16.
    return np.asarray(np.minimum(np.maximum(linear, x.dtype.type(0)), x.dtype.type(1)))


@hard_sigmoid.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    alpha = call.real("alpha")
    linear = call.input(0) * alpha + call.real("beta")
    return (p.mask((linear > 0.0) & (linear < 1.0), p.scale(dy, alpha)),)


hard_sigmoid.samples = lambda: [Sample([normal(2, 3)]), Sample([normal(2, 3)], {"alpha": 0.5, "beta": 0.6})]


@primitive("HardSwish")
def hard_swish(x: Array) -> Array:
    one = x.dtype.type
    return np.asarray(x * np.minimum(np.maximum(x * one(1 / 6) + one(0.5), one(0)), one(1)))


@hard_swish.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x = call.input(0)
    inside = (x > -3.0) & (x < 3.0)
    slope = p.where(inside, x * (1.0 / 3.0) + 0.5, p.cast(x >= 3.0, x.dtype))
    return (dy * slope,)


hard_swish.samples = lambda: [Sample([normal(2, 3) * 3])]


@primitive("Tanh", keeps_inputs=(), keeps_outputs=(0,))
def tanh(x: Array) -> Array:
    return np.tanh(x)


@tanh.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    y = call.output(0)
    return (dy * (1.0 - y * y),)


tanh.samples = lambda: [Sample([normal(2, 3)]), Sample([_EXTREMES])]


@primitive("Softplus")
def softplus(x: Array) -> Array:
    return np.asarray(np.logaddexp(x, x.dtype.type(0)))


@softplus.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (dy * p.sigmoid(call.input(0)),)


softplus.samples = lambda: [Sample([normal(2, 3)]), Sample([_EXTREMES])]


@primitive("Softsign")
def softsign(x: Array) -> Array:
    return np.asarray(x / (np.abs(x) + x.dtype.type(1)))


@softsign.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    below = abs(call.input(0)) + 1.0
    return (dy / (below * below),)


softsign.samples = lambda: [Sample([distinct(2, 3)])]


@primitive("Softmax", keeps_inputs=(), keeps_outputs=(0,))
def softmax(x: Array, *, axis: int = -1) -> Array:
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return np.asarray(powers / np.sum(powers, axis=axis, keepdims=True))


@softmax.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    y, axis = call.output(0), call.integer("axis")
    weighted = dy * y
    return (weighted - y * p.reduce_sum(weighted, [axis], keepdims=True),)


softmax.samples = lambda: [
    Sample([normal(2, 3, 4)]),
    Sample([normal(2, 3, 4)], {"axis": 1}),
    Sample([_EXTREMES]),
]


@primitive("LogSoftmax", keeps_inputs=(), keeps_outputs=(0,))
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)))


@log_softmax.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    total = p.reduce_sum(dy, [call.integer("axis")], keepdims=True)
    return (dy - p.exp(call.output(0)) * total,)


log_softmax.samples = softmax.samples


@primitive("Clip")
def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


@clip.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x = call.input(0)
    dx, d_low, d_high = dy, None, None
    below = x < call.input(1) if call.has(1) else None
    above = x > call.input(2) if call.has(2) else None
    for outside in (below, above):
        if outside is not None:
            dx = p.mask(p.call("Not", outside), dx)
    if below is not None and call.wants(1):
        d_low = p.sum_to(p.mask(below, dy), ())
    if above is not None and call.wants(2):
        d_high = p.sum_to(p.mask(above, dy), ())
    return dx, d_low, d_high


clip.samples = lambda: [
    Sample([distinct(3, 4), np.float32(-0.3), np.float32(0.4)]),
    Sample([distinct(3, 4), None, np.float32(0.2)]),
    Sample([distinct(3, 4), np.float32(0.0)]),
    Sample([np.arange(5), np.array(1), np.array(3)]),
]


@primitive("Gelu")
def gelu(x: Array, *, approximate: str = "none") -> Array:
    half, one = x.dtype.type(0.5), x.dtype.type(1)
    if approximate == "tanh":
        inner = x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x * x * x)
        return np.asarray(half * x * (one + np.tanh(inner)))
    return np.asarray(half * x * (one + erf_array(x * x.dtype.type(math.sqrt(0.5)))))


@gelu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x = call.input(0)
    if call.attribute("approximate") == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        t = p.tanh(inner)
        slope = (1.0 - t * t) * x * 0.5 * ((x * x * (3 * 0.044715) + 1.0) * math.sqrt(2 / math.pi))
        return (dy * ((t + 1.0) * 0.5 + slope),)
    normal_cdf = (p.call("Erf", x * math.sqrt(0.5)) + 1.0) * 0.5
    density = p.exp(x * x * -0.5) * (1.0 / math.sqrt(2 * math.pi))
    return (dy * (normal_cdf + x * density),)


gelu.samples = lambda: [
    Sample([normal(2, 3)]),
    Sample([normal(2, 3)], {"approximate": "tanh"}),
]


@primitive("Mish")
def mish(x: Array) -> Array:
    return np.asarray(x * np.tanh(np.logaddexp(x, x.dtype.type(0))))


@mish.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return differentiate_definition(call, [dy], lambda x: x * p.tanh(p.call("Softplus", x)))


mish.samples = lambda: [Sample([normal(2, 3)], reference="onnx")]


@primitive("ThresholdedRelu")
def thresholded_relu(x: Array, *, alpha: float = 1.0) -> Array:
    return np.where(x > x.dtype.type(alpha), x, x.dtype.type(0))


@thresholded_relu.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.mask(p.greater(call.input(0), call.real("alpha")), dy),)


thresholded_relu.samples = lambda: [Sample([distinct(2, 3)], {"alpha": 0.2})]
