"""Pieces that several networks are made of."""

from __future__ import annotations

from edgec.engine import Tensor, nn
from edgec.engine import functional as F  # noqa: N812 - the field's name for it

__all__ = ["ConvNormReLU", "Residual"]


class ConvNormReLU(nn.Sequential):
    """Convolution without bias, batch normalization and, unless `activation` is None, an activation.

    A kernel of odd size keeps the extents at stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        *,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        convolution = nn.Conv2d(
            in_channels, out_channels, (height, width), stride, (height // 2, width // 2), groups=groups, bias=False
        )
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        layers: list[nn.Module] = [convolution, nn.BatchNorm2d(out_channels)]
        super().__init__(*layers, *([] if activation is None else [activation()]))


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where shapes change.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", figure 2 and option B of section 3.3.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        self.first = ConvNormReLU(in_channels, out_channels, 3, stride)
        self.second = ConvNormReLU(out_channels, out_channels, 3, activation=None)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            ConvNormReLU(in_channels, out_channels, 1, stride, activation=None) if changes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (n, in_channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        return F.relu(self.second(self.first(x)) + self.shortcut(x))
