"""Residual networks: ResNet-8 and ResNet-20 for 32×32 images, ResNet-18 for 224×224.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 and table 1; ResNet-8 is the image
classifier of MLPerf Tiny (Banbury et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from edgec.engine import Tensor, nn
from edgec.models.blocks import ConvNormReLU, Residual
from edgec.models.data.cifar10 import cifar10_task
from edgec.models.network import Network
from edgec.models.recipe import Recipe, accuracy, classify, one_cycle, sgd

__all__ = ["RESNET8_RECIPE", "RESNET20_RECIPE", "ResNet8", "ResNet18", "ResNet20"]


class _ResNet(Network):
    def __init__(self, stem: nn.Module, widths: Sequence[int], blocks_per_stage: int, classes: int) -> None:
        self.stem = stem
        stages: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks_per_stage):
                stages.append(Residual(channels, width, stride=2 if stage and not block else 1))
                channels = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, h, w)."""
        return self.classifier(self.pool(self.stages(self.stem(x))))


class ResNet8(_ResNet):
    """Three residual blocks of 16, 32 and 64 channels; 78,000 parameters, 12.5 million multiplications."""

    input_shapes: ClassVar = {"image": (1, 3, 32, 32)}

    def __init__(self, classes: int = 10) -> None:
        super().__init__(ConvNormReLU(3, 16), (16, 32, 64), 1, classes)


class ResNet20(_ResNet):
    """Nine residual blocks of 16, 32 and 64 channels; 272,000 parameters, 41 million multiplications."""

    input_shapes: ClassVar = {"image": (1, 3, 32, 32)}

    def __init__(self, classes: int = 10) -> None:
        super().__init__(ConvNormReLU(3, 16), (16, 32, 64), 3, classes)


class ResNet18(_ResNet):
    """Eight residual blocks of 64 to 512 channels; 11.7 million parameters, 1.8 thousand million multiplications."""

    input_shapes: ClassVar = {"image": (1, 3, 224, 224)}

    def __init__(self, classes: int = 1000) -> None:
        stem = nn.Sequential(ConvNormReLU(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
        super().__init__(stem, (64, 128, 256, 512), 2, classes)


# Augmented lightly and smoothed by nothing: in so few epochs so small a network underfits.
RESNET8_RECIPE = Recipe(
    network=ResNet8, load=cifar10_task, data="CIFAR-10",
    loss=classify(), optimizer=sgd(0.1, weight_decay=3e-4), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.80,
    epochs=12, quick_epochs=3, batch_size=32, minutes=22,
)  # fmt: skip

RESNET20_RECIPE = Recipe(
    network=ResNet20, load=cifar10_task, data="CIFAR-10",
    loss=classify(), optimizer=sgd(0.2), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.855,
    epochs=8, quick_epochs=3, batch_size=64, minutes=40,
)  # fmt: skip
