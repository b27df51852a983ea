"""Friendly functions over the primitives, with the names and arguments of PyTorch; channels come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from edgec.engine import primitives as p
from edgec.engine.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from edgec.engine.registry import apply
from edgec.engine.tensor import Tensor

__all__ = [
    "adaptive_avg_pool2d", "avg_pool2d", "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "conv1d", "conv2d", "conv3d", "conv_transpose2d", "cross_entropy", "dropout", "elu", "embedding", "flatten",
    "gelu", "hardsigmoid", "hardswish", "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear",
    "log_softmax", "max_pool2d", "mish", "mse_loss", "nll_loss", "one_hot", "pad", "relu", "relu6", "selu",
    "sigmoid", "silu", "smooth_l1_loss", "softmax", "softplus", "tanh",
]  # fmt: skip

Size: TypeAlias = "int | Sequence[int]"


def _sizes(value: Size, rank: int) -> list[int]:
    return [value] * rank if isinstance(value, int) else list(value)


def _pads(padding: Size, rank: int) -> list[int]:
    """Symmetric padding of one number per axis, or the begins and ends of all axes as ONNX has them."""
    sizes = _sizes(padding, rank)
    return sizes * 2 if len(sizes) == rank else sizes


# --- activations ---


def relu(x: Tensor) -> Tensor:
    return p.call("Relu", x)


def relu6(x: Tensor) -> Tensor:
    return x.clip(0.0, 6.0)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return p.call("LeakyRelu", x, alpha=negative_slope)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return p.call("Elu", x, alpha=alpha)


def selu(x: Tensor) -> Tensor:
    return p.call("Selu", x)


def sigmoid(x: Tensor) -> Tensor:
    return p.sigmoid(x)


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


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return p.call("Gelu", x, approximate=approximate)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return p.softmax(x, axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    return p.call("LogSoftmax", x, axis=axis)


# --- layers ---


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product x Wᵀ, plus the bias.

    Shape: x (..., in), weight (out, in), bias (out); result (..., out).
    """
    if x.ndim == 2:
        return p.call("Gemm", x, weight, bias, transB=1) if bias is not None else p.call("Gemm", x, weight, transB=1)
    product = p.matmul(x, p.transpose(weight))
    return product if bias is None else product + bias


def _conv(
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | Literal["same", "valid"],
    dilation: Size,
    groups: int,
) -> Tensor:
    attributes: dict[str, object] = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": _sizes(stride, rank),
        "dilations": _sizes(dilation, rank),
        "group": groups,
    }
    if isinstance(padding, str):
        total = [
            d * (k - 1) if padding == "same" else 0
            for d, k in zip(_sizes(dilation, rank), weight.shape[2:], strict=True)
        ]
        attributes["pads"] = [size // 2 for size in total] + [size - size // 2 for size in total]
    else:
        attributes["pads"] = _pads(padding, rank)
    return apply("Conv", (x, weight) if bias is None else (x, weight, bias), attributes)[0]


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | Literal["same", "valid"] = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Shape: x (n, c, l), weight (m, c / groups, k)."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | Literal["same", "valid"] = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Shape: x (n, c, h, w), weight (m, c / groups, kh, kw)."""
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | Literal["same", "valid"] = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Shape: x (n, c, d, h, w), weight (m, c / groups, kd, kh, kw)."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Shape: x (n, c, h, w), weight (c, m / groups, kh, kw)."""
    attributes = {
        "strides": _sizes(stride, 2),
        "dilations": _sizes(dilation, 2),
        "pads": _pads(padding, 2),
        "output_padding": _sizes(output_padding, 2),
        "group": groups,
    }
    return apply("ConvTranspose", (x, weight) if bias is None else (x, weight, bias), attributes)[0]


def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`stride` None means the kernel's size."""
    return p.call(
        "MaxPool",
        x,
        kernel_shape=_sizes(kernel_size, 2),
        strides=_sizes(kernel_size if stride is None else stride, 2),
        pads=_pads(padding, 2),
        dilations=_sizes(dilation, 2),
        ceil_mode=int(ceil_mode),
    )


def avg_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`stride` None means the kernel's size."""
    return p.call(
        "AveragePool",
        x,
        kernel_shape=_sizes(kernel_size, 2),
        strides=_sizes(kernel_size if stride is None else stride, 2),
        pads=_pads(padding, 2),
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def adaptive_avg_pool2d(x: Tensor, output_size: Size) -> Tensor:
    """Average to a fixed output size that divides the input's.

    Raises:
        ValueError: The windows would overlap or differ in size.
    """
    sizes = _sizes(output_size, 2)
    if sizes == [1, 1]:
        return p.call("GlobalAveragePool", x)
    if any(n % size for n, size in zip(x.shape[2:], sizes, strict=True)):
        raise ValueError(f"adaptive_avg_pool2d: {x.shape[2:]} is not a multiple of {tuple(sizes)}")
    return avg_pool2d(x, [n // size for n, size in zip(x.shape[2:], sizes, strict=True)])


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

    The running variance is the population variance, as ONNX has it, not PyTorch's unbiased one.
    """
    inputs = (x, weight, bias, running_mean, running_var)
    if not training:
        return apply("BatchNormalization", inputs, {"epsilon": eps})[0]
    attributes = {"epsilon": eps, "momentum": 1.0 - momentum, "training_mode": 1}
    y, mean, variance = apply("BatchNormalization", inputs, attributes, outputs=3)
    running_mean.data, running_var.data = mean.data, variance.data
    return y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalize over the last axes, as many as `weight` has."""
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return apply("LayerNormalization", inputs, {"axis": -weight.ndim, "epsilon": eps})[0]


def dropout(x: Tensor, p_drop: float = 0.5, training: bool = True) -> Tensor:
    """Zero a random share of `x` and scale up the rest; in inference `x` itself, without a node."""
    if not 0.0 <= p_drop <= 1.0:
        raise ValueError(f"dropout: the share must lie in [0, 1], not {p_drop}")
    if not training or p_drop == 0.0:
        return x
    return apply("Dropout", (x, p.constant(p_drop, np.float32), p.constant(np.array(True))), outputs=2)[0]


def flatten(x: Tensor, start_axis: int = 1) -> Tensor:
    """Everything from `start_axis` on in one axis."""
    return p.call("Flatten", x, axis=1) if start_axis == 1 else x.flatten(start_axis)


def pad(
    x: Tensor, pads: Sequence[int], mode: Literal["constant", "reflect", "edge", "wrap"] = "constant", value: float = 0
) -> Tensor:
    """Pad all axes; begins of every axis first, then the ends, as ONNX has it."""
    if mode != "constant" or value == 0:
        return p.call("Pad", x, p.int64(list(pads)), mode=mode)
    return p.call("Pad", x, p.int64(list(pads)), p.full_like(x, value))


def interpolate(
    x: Tensor,
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: Literal["nearest", "linear", "bilinear", "bicubic"] = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Resize the spatial axes to `size`, or by `scale_factor`."""
    rank = x.ndim - 2
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    attributes: dict[str, object] = {"mode": {"nearest": "nearest", "bicubic": "cubic"}.get(mode, "linear")}
    transform = "align_corners" if align_corners else "asymmetric" if mode == "nearest" else "pytorch_half_pixel"
    attributes["coordinate_transformation_mode"] = transform
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
    if size is not None:
        sizes = p.int64([*x.shape[:2], *_sizes(size, rank)])
        return apply("Resize", (x, None, None, sizes), attributes)[0]
    factors = [scale_factor] * rank if isinstance(scale_factor, int | float) else list(scale_factor or ())
    return apply("Resize", (x, None, p.constant(np.array([1, 1, *factors], np.float32))), attributes)[0]


def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """The rows of `weight` at `indices`."""
    return p.gather(weight, indices)


def one_hot(indices: Tensor, classes: int) -> Tensor:
    """A new last axis with a float32 1 at each index."""
    return p.call("OneHot", indices, p.int64(classes), p.constant(np.array([0, 1], np.float32)))
