"""Normalizations. Arguments as in PyTorch, channels first."""

from __future__ import annotations

import numpy as np

from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.functional.sizes import Size
from edgec.engine.nn.init import empty, ones_
from edgec.engine.nn.module import Module
from edgec.engine.tensor import Parameter, Tensor

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LayerNorm", "RMSNorm",
]  # fmt: skip


class BatchNorm2d(Module):
    """Normalizes each channel; see `functional.batch_norm`. Shape: (n, num_features, ...)."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.eps, self.momentum = eps, momentum
        self.weight = ones_(empty(num_features))
        self.bias = empty(num_features)
        self.running_mean = Tensor(np.zeros(num_features, np.float32))
        self.running_var = Tensor(np.ones(num_features, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def describe(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(BatchNorm2d):
    """`BatchNorm2d` for (n, c) and (n, c, l)."""


class BatchNorm3d(BatchNorm2d):
    """`BatchNorm2d` for (n, c, d, h, w)."""


class LayerNorm(Module):
    """Normalizes over the last axes, those of `normalized_shape`."""

    def __init__(self, normalized_shape: Size, eps: float = 1e-5, bias: bool = True) -> None:
        shape = _shape(normalized_shape)
        self.eps = eps
        self.weight, self.bias = ones_(empty(*shape)), empty(*shape) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.weight.shape}, eps={self.eps}"


class RMSNorm(Module):
    """Divides by the root of the mean square over the last axes; see `functional.rms_norm`."""

    def __init__(self, normalized_shape: Size, eps: float | None = None) -> None:
        self.eps = eps
        self.weight = ones_(empty(*_shape(normalized_shape)))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight, self.eps)

    def describe(self) -> str:
        return f"{self.weight.shape}, eps={self.eps}"


class GroupNorm(Module):
    """Normalizes groups of channels of every sample. Shape: (n, num_channels, ...)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        if num_channels % num_groups:
            raise ValueError(f"{num_channels} channels cannot be split into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight, self.bias = _affine(num_channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class InstanceNorm2d(Module):
    """Normalizes every channel of every sample over its pixels. Without learnt scale and shift unless `affine`."""

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        self.num_features, self.eps = num_features, eps
        self.weight, self.bias = _affine(num_features, affine)

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


class InstanceNorm1d(InstanceNorm2d):
    """`InstanceNorm2d` for (n, c, l)."""


class InstanceNorm3d(InstanceNorm2d):
    """`InstanceNorm2d` for (n, c, d, h, w)."""


def _affine(channels: int, is_learnt: bool) -> tuple[Parameter | None, Parameter | None]:
    return (ones_(empty(channels)), empty(channels)) if is_learnt else (None, None)


def _shape(size: Size) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)
