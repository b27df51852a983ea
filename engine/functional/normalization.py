"""Normalizations. Traced in inference they are made of operators that ONNX opset 22 and the targets have."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.modes import no_grad, state
from edgec.engine.registry import apply
from edgec.engine.tensor import Tensor

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "normalize", "rms_norm"]


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel (axis 1); in training by the batch, and the running statistics move by `momentum`.

    The batch is normalized by its population variance, but the running variance follows the unbiased one, as in
    PyTorch (in ONNX's training mode, and Paddle, it is the population's).

    Raises:
        ValueError: A training batch has one value per channel, whose variance is unknown.
    """
    inputs = (x, weight, bias, running_mean, running_var)
    if not training:
        return apply("BatchNormalization", inputs, {"epsilon": eps})[0]
    count = x.size // x.shape[1] if x.size else 0
    if count < 2:
        raise ValueError(f"batch_norm: a training batch needs two values per channel, this one has shape {x.shape}")
    attributes = {"epsilon": eps, "momentum": 1.0 - momentum, "training_mode": 1}
    y, mean, variance = apply("BatchNormalization", inputs, attributes, outputs=3)
    # The operator gave old (1 - momentum) + population momentum; make up what the unbiased variance is more.
    running_mean.set_value(mean)
    if state.recording is not None:  # it has to see the arithmetic
        with no_grad():
            more = (variance - running_var * (1.0 - momentum)) * (1.0 / (count - 1))
            running_var.set_value(variance + more)
        return y
    old, moved = running_var.array, variance.array
    number = old.dtype.type
    running_var.set_value(moved + (moved - old * number(1.0 - momentum)) * number(1.0 / (count - 1)))
    return y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalize over the last axes, as many as `weight` has."""
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return apply("LayerNormalization", inputs, {"axis": -weight.ndim, "epsilon": eps})[0]


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalize every channel of every sample over its spatial axes."""
    channels = x.shape[1]
    scale = p.constant(np.ones(channels, x.dtype)) if weight is None else weight
    shift = p.constant(np.zeros(channels, x.dtype)) if bias is None else bias
    return apply("InstanceNormalization", (x, scale, shift), {"epsilon": eps})[0]


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalize groups of neighbouring channels of every sample, then scale and shift each channel.

    It is written as an InstanceNormalization of the groups: opset 21's GroupNormalization is newer than many runtimes.

    Source: Wu and He 2018, eq. 7.
    """
    n, channels = x.shape[:2]
    if channels % groups:
        raise ValueError(f"group_norm: {channels} channels cannot be split into {groups} groups")
    y = p.reshape(instance_norm(p.reshape(x, [n, groups, -1]), eps=eps), x.shape)
    shape = [channels, *[1] * (x.ndim - 2)]
    if weight is not None:
        y = y * p.reshape(weight, shape)
    return y if bias is None else y + p.reshape(bias, shape)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float | None = None, rank: int = 1) -> Tensor:
    """Divide by the root of the mean square over the last axes, as many as `weight` has (else `rank`).

    `eps` None is the machine epsilon of the dtype, as in PyTorch. Written in primitives: RMSNormalization is of
    opset 23, and traced models are of opset 22.

    Source: Zhang and Sennrich 2019, eq. 4.
    """
    axes = list(range(-(rank if weight is None else weight.ndim), 0))
    floor = float(np.finfo(x.dtype).eps) if eps is None else eps
    y = x / p.sqrt(p.reduce_mean(x * x, axes, keepdims=True) + floor)
    return y if weight is None else y * weight


def normalize(x: Tensor, order: float = 2.0, axis: int = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the norm along `axis`, held above `eps`."""
    if order == 2.0:
        norm = p.reduce("ReduceL2", x, [axis], keepdims=True)
    elif order == 1.0:
        norm = p.reduce("ReduceL1", x, [axis], keepdims=True)
    else:
        norm = (abs(x) ** order).sum(axis, keepdim=True) ** (1.0 / order)
    return x / norm.clip(min=eps)
