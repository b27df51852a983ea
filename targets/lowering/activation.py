"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tvm import tirx

from edgec.targets.lowering import scalars
from edgec.targets.lowering.attributes import number, text
from edgec.targets.lowering.elementwise import emit_elementwise, emit_map
from edgec.targets.lowering.emitter import Emitter, lowers
from edgec.targets.lowering.scalars import Scalar, in_float32

__all__: list[str] = []


def _c(value: float, x: tirx.Expr) -> tirx.Expr:
    return tirx.const(value, x.ty.dtype)


def _unit(x: tirx.Expr) -> tirx.Expr:
    """Cut off below 0 and above 1."""
    return scalars.at_least(scalars.at_most(x, _c(1, x)), _c(0, x))


def _relu(_: ir.Node) -> Scalar:
    return lambda x: scalars.at_least(x, _c(0, x))


def _leaky_relu(node: ir.Node) -> Scalar:
    alpha = number(node, "alpha", 0.01)
    return lambda x: tirx.Select(x < _c(0, x), x * _c(alpha, x), x)


def _elu(node: ir.Node) -> Scalar:
    alpha = number(node, "alpha", 1.0)
    return lambda x: tirx.Select(x < _c(0, x), scalars.expm1(tirx.min(x, _c(0, x))) * _c(alpha, x), x)


def _selu(node: ir.Node) -> Scalar:
    alpha, gamma = number(node, "alpha", 1.6732632423543772), number(node, "gamma", 1.0507009873554805)
    return lambda x: tirx.Select(x < _c(0, x), scalars.expm1(tirx.min(x, _c(0, x))) * _c(alpha, x), x) * _c(gamma, x)


def _hard_sigmoid(node: ir.Node) -> Scalar:
    alpha, beta = number(node, "alpha", 0.2), number(node, "beta", 0.5)
    return lambda x: _unit(x * _c(alpha, x) + _c(beta, x))


def _hard_swish(_: ir.Node) -> Scalar:
    return lambda x: x * _unit(x * _c(1 / 6, x) + _c(0.5, x))


def _gelu(node: ir.Node) -> Scalar:
    """Normal distribution times x, exactly or with the tanh approximation."""
    if text(node, "approximate", "none") == "tanh":
        return lambda x: (
            _c(0.5, x) * x * (_c(1, x) + scalars.tanh(_c(0.7978845608028654, x) * (x + _c(0.044715, x) * x * x * x)))
        )
    return lambda x: _c(0.5, x) * x * (_c(1, x) + scalars.erf(x * _c(0.7071067811865476, x)))


def _mish(_: ir.Node) -> Scalar:
    """Product of x and tanh(softplus(x)): x * n / (n + 2) with n = e**x * (e**x + 2); from x = 20 on it is x."""

    def function(x: tirx.Expr) -> tirx.Expr:
        e = scalars.exp(tirx.min(x, _c(20.0, x)))
        t = tirx.Var("e", "float32")
        n = t * (t + _c(2, t))
        return x * tirx.Let(t, e, n / (n + _c(2, t)))

    return in_float32(function)


_ACTIVATIONS: dict[str, Callable[[ir.Node], Scalar]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Elu": _elu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Mish": _mish,
    "Sigmoid": lambda _: scalars.sigmoid,
    "Tanh": lambda _: scalars.tanh,
    "Softplus": lambda _: scalars.softplus,
    "Softsign": lambda _: lambda x: x / (_c(1, x) + tirx.abs(x)),
}


@lowers(*_ACTIVATIONS)
def activation(emitter: Emitter, node: ir.Node) -> None:
    name = f"map_{node.op_type.lower()}" if node.op_type == "Tanh" else node.op_type.lower()
    emit_map(emitter, node, _ACTIVATIONS[node.op_type](node), name=name)


@lowers("PRelu")
def prelu(emitter: Emitter, node: ir.Node) -> None:
    emit_elementwise(emitter, node, node.inputs, lambda x, slope: tirx.Select(x < _c(0, x), x * slope, x))


@lowers("Clip")
def clip(emitter: Emitter, node: ir.Node) -> None:
    """Bounds that are left out do not bound."""
    has_low = len(node.inputs) > 1 and node.inputs[1] is not None
    has_high = len(node.inputs) > 2 and node.inputs[2] is not None

    def function(x: tirx.Expr, *bounds: tirx.Expr) -> tirx.Expr:
        if has_low:
            x = scalars.at_least(x, bounds[0])
        return scalars.at_most(x, bounds[-1]) if has_high else x

    emit_elementwise(emitter, node, node.inputs, function)
