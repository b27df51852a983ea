"""Convolutions. Arguments as in PyTorch, channels first."""

from __future__ import annotations

import math
from typing import ClassVar

from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.functional.convolution import Padding
from edgec.engine.functional.sizes import Size, sizes_of
from edgec.engine.nn.init import default_bias, default_weight
from edgec.engine.nn.module import Module
from edgec.engine.tensor import Tensor

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _Conv(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        _check_groups(in_channels, out_channels, groups)
        kernel = sizes_of(kernel_size, self.rank)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = default_weight(out_channels, in_channels // groups, *kernel)
        self.bias = default_bias(out_channels, in_channels // groups * math.prod(kernel)) if bias else None

    def describe(self) -> str:
        m, c, *kernel = self.weight.shape
        return f"{c * self.groups}, {m}, {tuple(kernel)}, stride={self.stride}, padding={self.padding}"


class Conv1d(_Conv):
    """Shape: (n, in_channels, l) to (n, out_channels, l')."""

    rank = 1

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """Shape: (n, in_channels, h, w) to (n, out_channels, h', w')."""

    rank = 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv3d(_Conv):
    """Shape: (n, in_channels, d, h, w) to (n, out_channels, d', h', w')."""

    rank = 3

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _ConvTranspose(Module):
    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
    ) -> None:
        _check_groups(in_channels, out_channels, groups)
        kernel = sizes_of(kernel_size, self.rank)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, groups
        self.weight = default_weight(in_channels, out_channels // groups, *kernel)
        self.bias = default_bias(out_channels, out_channels // groups * math.prod(kernel)) if bias else None

    def describe(self) -> str:
        c, m, *kernel = self.weight.shape
        return f"{c}, {m * self.groups}, {tuple(kernel)}, stride={self.stride}, padding={self.padding}"


class ConvTranspose1d(_ConvTranspose):
    """Shape: (n, in_channels, l) to (n, out_channels, l')."""

    rank = 1

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class ConvTranspose2d(_ConvTranspose):
    """Shape: (n, in_channels, h, w) to (n, out_channels, h', w')."""

    rank = 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class ConvTranspose3d(_ConvTranspose):
    """Shape: (n, in_channels, d, h, w) to (n, out_channels, d', h', w')."""

    rank = 3

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose3d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


def _check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"{in_channels} and {out_channels} channels cannot be split into {groups} groups")
