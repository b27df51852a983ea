"""Activations, with the names and defaults of PyTorch."""

from __future__ import annotations

from typing import Literal

from edgec.engine import primitives as p
from edgec.engine.tensor import Tensor

__all__ = [
    "celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "logsigmoid",
    "mish", "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh",
]  # fmt: skip


def relu(x: Tensor) -> Tensor:
    return p.call("Relu", x)


def relu6(x: Tensor) -> Tensor:
    return x.clip(0.0, 6.0)


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    return x.clip(min_val, max_val)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return p.call("LeakyRelu", x, alpha=negative_slope)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """A learnt slope below zero: one for all, or one per channel (axis 1)."""
    return p.call("PRelu", x, p.reshape(weight, [-1, *[1] * max(x.ndim - 2, 0)]))


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return p.call("Elu", x, alpha=alpha)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Elu of x / alpha, times alpha, so that its slope is continuous."""
    return p.scale(p.call("Elu", p.scale(x, 1.0 / alpha)), alpha)


def selu(x: Tensor) -> Tensor:
    return p.call("Selu", x)


def sigmoid(x: Tensor) -> Tensor:
    return p.sigmoid(x)


def logsigmoid(x: Tensor) -> Tensor:
    return -p.call("Softplus", -x)


def hardsigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6, as PyTorch has it; the ONNX default has a slope of 0.2."""
    return p.call("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5)


def hardswish(x: Tensor) -> Tensor:
    return p.call("HardSwish", x)


def silu(x: Tensor) -> Tensor:
    return x * p.sigmoid(x)


def mish(x: Tensor) -> Tensor:
    return p.call("Mish", x)


def tanh(x: Tensor) -> Tensor:
    return p.tanh(x)


def softplus(x: Tensor) -> Tensor:
    return p.call("Softplus", x)


def softsign(x: Tensor) -> Tensor:
    return p.call("Softsign", x)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return p.call("Gelu", x, approximate=approximate)


def glu(x: Tensor, axis: int = -1) -> Tensor:
    """The first half along `axis`, gated by the sigmoid of the second."""
    half, rest = divmod(x.shape[axis], 2)
    if rest:
        raise ValueError(f"glu: axis {axis} of size {x.shape[axis]} cannot be halved")
    return p.slice_axes(x, [0], [half], [axis], [1]) * p.sigmoid(p.slice_axes(x, [half], [2 * half], [axis], [1]))


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return p.softmax(x, axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    return p.call("LogSoftmax", x, axis=axis)
