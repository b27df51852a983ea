"""Recurrent networks that classify sequences: the last state of an LSTM or a GRU, and a linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgec.engine import Tensor, nn
from edgec.engine.data.transforms import RandomShift
from edgec.models.data.digits import load_digits
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, accuracy, adamw, classify, one_cycle

__all__ = ["GRU_RECIPE", "LSTM_RECIPE", "GRUClassifier", "LSTMClassifier"]


class LSTMClassifier(Network):
    """Reads the rows of a digit from top to bottom with an LSTM of 64; 20,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 8, 8)}

    def __init__(self, features: int = 8, hidden: int = 64, classes: int = 10) -> None:
        self.recurrent = nn.LSTM(features, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of sequences (n, 1, steps, features)."""
        outputs, _ = self.recurrent(x.squeeze(1))
        return self.classifier(outputs[:, -1])


class GRUClassifier(Network):
    """Reads the rows of a digit from top to bottom with a GRU of 64; 15,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 8, 8)}

    def __init__(self, features: int = 8, hidden: int = 64, classes: int = 10) -> None:
        self.recurrent = nn.GRU(features, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of sequences (n, 1, steps, features)."""
        outputs, _ = self.recurrent(x.squeeze(1))
        return self.classifier(outputs[:, -1])


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are always there
    training, test = load_digits()
    return Task(training.dataset(), test.dataset(), RandomShift(1), None, f"{len(training)} digits of 8×8, by rows")


LSTM_RECIPE = Recipe(
    network=LSTMClassifier, load=_task, data="bundled digits, by rows",
    loss=classify(label_smoothing=0.05), optimizer=adamw(1e-2), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.93,
    epochs=60, quick_epochs=12, batch_size=64, minutes=0.2, clip_norm=1.0,
)  # fmt: skip

GRU_RECIPE = Recipe(
    network=GRUClassifier, load=_task, data="bundled digits, by rows",
    loss=classify(label_smoothing=0.05), optimizer=adamw(1e-2), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.93,
    epochs=60, quick_epochs=12, batch_size=64, minutes=0.2, clip_norm=1.0,
)  # fmt: skip
