"""MobileNets: depthwise-separable convolutions, and inverted residuals with linear bottlenecks.

Source: Howard et al. 2017, "MobileNets", table 1; Sandler et al. 2018, "MobileNetV2", table 2. At a stride of 1 in the
stem they take the 32×32 images of CIFAR-10.
"""

from __future__ import annotations

from typing import ClassVar

from edgec.engine import Tensor, nn
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.cifar10 import cifar10_task
from edgec.models.network import Network
from edgec.models.recipe import Recipe, accuracy, classify, one_cycle, sgd

__all__ = [
    "MOBILENET_V1_RECIPE", "MOBILENET_V2_RECIPE", "CifarMobileNetV1", "CifarMobileNetV2", "MobileNetV1", "MobileNetV2",
]  # fmt: skip

# Output channels and stride of each separable convolution.
_V1 = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip
# Expansion, output channels, repetitions and stride of each group of inverted residuals.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def scaled(channels: int, width: float) -> int:
    """A number of channels times `width`, as a multiple of 8 that is not more than a tenth below."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


class MobileNetV1(Network):
    """Thirteen separable convolutions at a quarter of the channels; 0.5 million parameters with 1000 classes.

    Args:
        classes: Number of classes.
        width: Factor on all channels.
        stride: Of the first convolution.
    """

    input_shapes: ClassVar = {"image": (1, 3, 224, 224)}

    def __init__(self, classes: int = 1000, width: float = 0.25, stride: int = 2) -> None:
        channels = scaled(32, width)
        layers: list[nn.Module] = [ConvNormReLU(3, channels, 3, stride)]
        for out_channels, step in _V1:
            wider = scaled(out_channels, width)
            layers += [ConvNormReLU(channels, channels, 3, step, groups=channels), ConvNormReLU(channels, wider, 1)]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, h, w)."""
        return self.classifier(self.features(x))


class InvertedResidual(nn.Module):
    """Widen, convolve each channel, narrow without an activation; a residual where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        hidden = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        widen = [ConvNormReLU(in_channels, hidden, 1, activation=nn.ReLU6)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *widen,
            ConvNormReLU(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            ConvNormReLU(hidden, out_channels, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.is_residual else y


class MobileNetV2(Network):
    """Seventeen inverted residuals; 3.5 million parameters, 300 million multiplications at 224×224.

    Args:
        classes: Number of classes.
        width: Factor on all channels.
        strides: Of the first convolution and of the first two groups that reduce the image.
    """

    input_shapes: ClassVar = {"image": (1, 3, 224, 224)}

    def __init__(self, classes: int = 1000, width: float = 1.0, strides: tuple[int, int, int] = (2, 2, 2)) -> None:
        channels = scaled(32, width)
        layers: list[nn.Module] = [ConvNormReLU(3, channels, 3, strides[0], activation=nn.ReLU6)]
        own_strides = {1: strides[1], 2: strides[2]}
        for group, (expansion, out_channels, repetitions, stride) in enumerate(_V2):
            wider = scaled(out_channels, width)
            for repetition in range(repetitions):
                step = 1 if repetition else own_strides.get(group, stride)
                layers.append(InvertedResidual(channels, wider, step, expansion))
                channels = wider
        last = scaled(1280, max(width, 1.0)) if width >= 1 else 640
        layers.append(ConvNormReLU(channels, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, h, w)."""
        return self.classifier(self.features(x))


class CifarMobileNetV1(MobileNetV1):
    """A quarter of the channels, for images of 32×32; 216,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 3, 32, 32)}

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes, 0.25, stride=1)


class CifarMobileNetV2(MobileNetV2):
    """A third of the channels, for images of 32×32; 330,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 3, 32, 32)}

    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes, 0.35, strides=(1, 2, 2))


MOBILENET_V1_RECIPE = Recipe(
    network=CifarMobileNetV1, load=cifar10_task, data="CIFAR-10",
    loss=classify(), optimizer=sgd(0.1, weight_decay=1e-4), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.76,
    epochs=8, quick_epochs=3, batch_size=64, minutes=13,
)  # fmt: skip

MOBILENET_V2_RECIPE = Recipe(
    network=CifarMobileNetV2, load=cifar10_task, data="CIFAR-10",
    loss=classify(), optimizer=sgd(0.1, weight_decay=1e-4), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.775,
    epochs=8, quick_epochs=3, batch_size=64, minutes=33,
)  # fmt: skip
