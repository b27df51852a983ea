"""Convolutions; channels come first."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgec.engine.functional.sizes import Size, pads_of, sizes_of
from edgec.engine.registry import apply
from edgec.engine.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

Padding: TypeAlias = Size | Literal["same", "valid"]


def _conv(
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
) -> Tensor:
    kernel, dilations = weight.shape[2:], sizes_of(dilation, rank)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f'padding must be numbers, "same" or "valid", not {padding!r}')
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
        pads = [size // 2 for size in total] + [size - size // 2 for size in total]
    else:
        pads = pads_of(padding, rank)
    attributes: dict[str, object] = {
        "kernel_shape": list(kernel),
        "strides": sizes_of(stride, rank),
        "dilations": dilations,
        "group": groups,
        "pads": pads,
    }
    return apply("Conv", (x, weight) if bias is None else (x, weight, bias), attributes)[0]


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
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
    padding: Padding = 0,
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
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Shape: x (n, c, d, h, w), weight (m, c / groups, kd, kh, kw)."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    rank: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> Tensor:
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": sizes_of(stride, rank),
        "dilations": sizes_of(dilation, rank),
        "pads": pads_of(padding, rank),
        "output_padding": sizes_of(output_padding, rank),
        "group": groups,
    }
    return apply("ConvTranspose", (x, weight) if bias is None else (x, weight, bias), attributes)[0]


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Shape: x (n, c, l), weight (c, m / groups, k)."""
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation)


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
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """Shape: x (n, c, d, h, w), weight (c, m / groups, kd, kh, kw)."""
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation)
