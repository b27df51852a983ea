"""Transformer encoders that classify sequences.

Source: Vaswani et al. 2017, "Attention Is All You Need", with the norms first (Xiong et al. 2020).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgec.engine import Tensor, nn
from edgec.engine.data.transforms import RandomShift
from edgec.models.data.digits import load_digits
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, accuracy, adamw, classify, one_cycle

__all__ = ["RECIPE", "DigitsTransformer", "TransformerClassifier"]


class TransformerClassifier(Network):
    """Steps are embedded, encoded and averaged; 3.2 million parameters as it is by default.

    Args:
        features: Numbers of a step.
        width: Features inside.
        heads: Heads of attention.
        layers: Encoder layers.
        length: The longest sequence.
        classes: Number of classes.
        dropout: In the encoder.
    """

    input_shapes: ClassVar = {"sequence": (1, 128, 64)}

    def __init__(
        self,
        features: int = 64,
        width: int = 256,
        heads: int = 4,
        layers: int = 4,
        length: int = 128,
        classes: int = 10,
        dropout: float = 0.1,
    ) -> None:
        self.embedding = nn.Linear(features, width)
        self.positions = nn.PositionalEncoding(width, length)
        self.encoder = nn.TransformerEncoder(
            width, heads, layers, dim_feedforward=4 * width, dropout=dropout, activation="gelu", norm_first=True
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of sequences (n, length, features)."""
        encoded = self.encoder(self.positions(self.embedding(x)))
        return self.classifier(encoded.mean(1))


class DigitsTransformer(TransformerClassifier):
    """Two layers of width 48 over the eight rows of a digit; 57,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 8, 8)}

    def __init__(self) -> None:
        super().__init__(features=8, width=48, heads=4, layers=2, length=8, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 1, 8, 8)."""
        return super().forward(x.squeeze(1))


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are always there
    training, test = load_digits()
    return Task(training.dataset(), test.dataset(), RandomShift(1), None, f"{len(training)} digits of 8×8, by rows")


RECIPE = Recipe(
    network=DigitsTransformer, load=_task, data="bundled digits, by rows",
    loss=classify(label_smoothing=0.05), optimizer=adamw(3e-3), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy, expected=0.93,
    epochs=60, quick_epochs=8, batch_size=64, minutes=0.6, clip_norm=1.0,
)  # fmt: skip
