"""A reader of text lines: convolutions, a recurrent network over the columns, and CTC.

Source: Shi, Bai and Yao 2017, "An End-to-End Trainable Neural Network for Image-Based Sequence Recognition".
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from edgec.engine import Tensor, nn
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.ctc import ctc_greedy_decode
from edgec.engine.data import TensorDataset
from edgec.engine.data.transforms import Compose, GaussianNoise, Normalize, ToFloat
from edgec.engine.metrics import CharacterErrorRate, Metric, Values
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.text_lines import ALPHABET, BLANK, HEIGHT, WIDTH, render_lines
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, adamw, one_cycle

__all__ = ["CRNN", "RECIPE", "read"]


class CRNN(Network):
    """Four convolutions, which leave one column of features every four pixels, and a GRU in both directions.

    97,000 parameters.
    """

    input_shapes: ClassVar = {"image": (1, 1, HEIGHT, WIDTH)}

    def __init__(self, classes: int = len(ALPHABET) + 1, hidden: int = 64) -> None:
        self.features = nn.Sequential(
            ConvNormReLU(1, 16, 5, 2),
            ConvNormReLU(16, 24), nn.MaxPool2d(2),
            ConvNormReLU(24, 48), nn.MaxPool2d((2, 1)),
            ConvNormReLU(48, 64), nn.MaxPool2d((4, 1)),
        )  # fmt: skip
        self.recurrent = nn.GRU(64, hidden, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 32, classes) of images (n, 1, 32, 128): for every column the character, or the blank, 0."""
        columns = self.features(x).squeeze(2).transpose(0, 2, 1)
        outputs, _ = self.recurrent(columns)
        return self.classifier(outputs)


def reading_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """CTC over the columns; targets are padded with negative numbers."""
    padded = targets.numpy()
    lengths = (padded >= 0).sum(1)
    n, columns, _ = logits.shape
    log_probabilities = F.log_softmax(logits, -1).transpose(1, 0, 2)
    return F.ctc_loss(log_probabilities, targets, np.full(n, columns), lengths, blank=BLANK, zero_infinity=True)


def read(logits: np.ndarray, alphabet: str = ALPHABET) -> list[str]:
    """The texts that the network saw."""
    found = ctc_greedy_decode(logits.transpose(1, 0, 2), blank=BLANK)
    return ["".join(alphabet[place - 1] for place in text) for text in found]


class ReadingError(CharacterErrorRate):
    """Character errors of the greedy reading."""

    def update(self, outputs: Values, targets: Values) -> None:
        """Logits (n, columns, classes) and padded targets."""
        found = ctc_greedy_decode(np.asarray(outputs).transpose(1, 0, 2), blank=BLANK)
        self.add(found, [row[row >= 0].tolist() for row in np.asarray(targets)])


def _metrics() -> dict[str, Metric]:
    return {"character error": ReadingError()}


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the lines are rendered here
    counts = (320, 64) if quick else (12000, 1000)
    alphabet, longest = ("0123", 4) if quick else (ALPHABET, 8)
    parts = [render_lines(count, seed, alphabet, longest) for seed, count in enumerate(counts)]
    prepare = Compose(ToFloat(), Normalize(0.5, 0.25))
    datasets = [TensorDataset(part.pixels, part.targets) for part in parts]
    return Task(datasets[0], datasets[1], Compose(prepare, GaussianNoise(0.1)), prepare, f"{counts[0]} rendered lines")


RECIPE = Recipe(
    network=CRNN, load=_task, data="rendered text lines",
    loss=reading_loss, optimizer=adamw(4e-3), schedule=one_cycle(),
    metric="character error", metrics=_metrics, expected=0.05, mode="min",
    epochs=10, quick_epochs=5, batch_size=64, minutes=6, clip_norm=5.0,
)  # fmt: skip
