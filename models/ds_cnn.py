"""A depthwise-separable network for keyword spotting.

Source: Zhang et al. 2017, "Hello Edge: Keyword Spotting on Microcontrollers", in the size of MLPerf Tiny.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from edgec.engine import Tensor, concat, nn, stack
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.keywords import MEAN, SILENCE, STD, load_keywords
from edgec.models.data.speaking import Speaking
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, accuracy, adamw, classify, one_cycle

__all__ = ["DSCNN", "RECIPE"]


class DSCNN(Network):
    """Three small networks whose logits are averaged; 139,000 parameters.

    With as few recordings as the recipe has, what one network makes of a doubtful word is chance, and three that were
    trained apart err less. Each has one convolution over all coefficients and four separable ones over time: the
    published network convolves over coefficients as well and has 64 channels. All together do about as many
    multiplications as that one, 2.9 million.

    Source: Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation Using Deep Ensembles".
    """

    input_shapes: ClassVar = {"features": (1, 1, 49, 10)}

    def __init__(self, classes: int = 12, channels: int = 96, coefficients: int = 10, members: int = 3) -> None:
        self.members = nn.ModuleList(_Member(classes, channels, coefficients) for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of features (n, 1, 49, 10); in training each sample's are those of one member alone."""
        if not self.training:
            return stack([member(x) for member in self.members]).mean(0)
        ends = [len(x) * number // len(self.members) for number in range(len(self.members) + 1)]
        shares = [(member, x[start:end]) for member, (start, end) in zip(self.members, pairwise(ends), strict=True)]
        return concat([member(share) for member, share in shares if len(share)])


class _Member(nn.Module):
    def __init__(self, classes: int, channels: int, coefficients: int) -> None:
        first = nn.Conv2d(1, channels, (5, coefficients), padding=(2, 0), bias=False)
        self.first = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU())
        self.features = nn.Sequential(
            *_separable(channels, 2), nn.Dropout(0.2), *_separable(channels, 1),
            *_separable(channels, 2), nn.Dropout(0.2), *_separable(channels, 1),
        )  # fmt: skip
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(self.first(x))))


def _separable(channels: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return (
        ConvNormReLU(channels, channels, (5, 1), (stride, 1), groups=channels),
        ConvNormReLU(channels, channels, 1),
    )


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are small
    training, test = load_keywords(folder)
    noises = training.features[training.labels == SILENCE]
    augment = Speaking(MEAN, STD, noises, SILENCE)
    return Task(training.dataset(), test.dataset(), augment, None, f"{len(training)} recordings of Speech Commands")


RECIPE = Recipe(
    network=DSCNN, load=_task, data="keyword features",
    loss=classify(label_smoothing=0.1), optimizer=adamw(4e-3, 0.05), schedule=one_cycle(0.2),
    metric="accuracy", metrics=accuracy, expected=0.85,
    epochs=720, quick_epochs=48, batch_size=120, minutes=3,
)  # fmt: skip
