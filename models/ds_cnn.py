"""A depthwise-separable network for keyword spotting.

Source: Zhang et al. 2017, "Hello Edge: Keyword Spotting on Microcontrollers", in the size of MLPerf Tiny.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgec.engine import Tensor, nn
from edgec.engine.data.transforms import Compose, MixUp
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.keywords import CLASSES, MEAN, SILENCE, STD, load_keywords
from edgec.models.data.speaking import Speaking
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, accuracy, adamw, classify, one_cycle

__all__ = ["DSCNN", "RECIPE"]


class DSCNN(Network):
    """One convolution over time and coefficients and four separable ones of 64 channels; 24,000 parameters."""

    input_shapes: ClassVar = {"features": (1, 1, 49, 10)}

    def __init__(self, classes: int = 12, channels: int = 64, blocks: int = 4) -> None:
        layers: list[nn.Module] = [ConvNormReLU(1, channels, (11, 5), 2)]
        for _ in range(blocks):
            layers += [ConvNormReLU(channels, channels, 3, groups=channels), ConvNormReLU(channels, channels, 1)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of features (n, 1, 49, 10)."""
        return self.classifier(self.pool(self.features(x)))


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are small
    training, test = load_keywords(folder)
    noises = training.features[training.labels == SILENCE]
    augment = Compose(Speaking(MEAN, STD, noises, SILENCE), MixUp(len(CLASSES), 0.3))
    return Task(training.dataset(), test.dataset(), augment, None, f"{len(training)} recordings of Speech Commands")


RECIPE = Recipe(
    network=DSCNN, load=_task, data="keyword features",
    loss=classify(label_smoothing=0.1), optimizer=adamw(4e-3, 0.05), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.85,
    epochs=120, quick_epochs=12, batch_size=32, minutes=5,
)  # fmt: skip
