"""Networks for handwritten digits of 8×8 pixels, whose data are bundled with edgec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgec.engine import Tensor, nn, no_grad, seed, tensor
from edgec.engine.data.transforms import RandomShift
from edgec.engine.progress import Progress
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.digits import Digits, load_digits
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, classify, one_cycle, sgd
from edgec.models.recipe import accuracy as accuracy_metric

__all__ = ["CNN_RECIPE", "MLP_RECIPE", "Digits", "DigitsCNN", "DigitsMLP", "accuracy", "load_digits", "train"]


class DigitsCNN(Network):
    """Three convolutions with batch normalization, one pool and a linear layer; about 26,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 8, 8)}

    def __init__(self) -> None:
        self.features = nn.Sequential(
            ConvNormReLU(1, 16),
            ConvNormReLU(16, 32),
            nn.MaxPool2d(2),
            ConvNormReLU(32, 64),
            nn.AdaptiveAvgPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 4, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 8, 8)."""
        return self.classifier(self.features(x))


class DigitsMLP(Network):
    """Two hidden layers of 64; 9,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 8, 8)}

    def __init__(self) -> None:
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 8, 8)."""
        return self.layers(x)


def _task(folder: Path | None = None, quick: bool = False) -> Task:  # noqa: ARG001  the data are always there
    training, test = load_digits()
    # Writers do not centre.
    return Task(training.dataset(), test.dataset(), RandomShift(1), None, f"{len(training)} digits of 8×8")


CNN_RECIPE = Recipe(
    network=DigitsCNN, load=_task, data="bundled digits",
    loss=classify(label_smoothing=0.05), optimizer=sgd(0.1), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy_metric, expected=0.97,
    epochs=30, quick_epochs=3, batch_size=64, minutes=0.2,
)  # fmt: skip

MLP_RECIPE = Recipe(
    network=DigitsMLP, load=_task, data="bundled digits",
    loss=classify(label_smoothing=0.05), optimizer=sgd(0.1), schedule=one_cycle(),
    metric="accuracy", metrics=accuracy_metric, expected=0.93,
    epochs=60, quick_epochs=10, batch_size=32, minutes=0.1,
)  # fmt: skip


def train(
    epochs: int = 30, *, random_seed: int = 0, progress: Callable[[int, int, float], None] | None = None
) -> DigitsCNN:
    """Train the convolutional network by its recipe; about 15 seconds on one core.

    Args:
        epochs: Passes over the data.
        random_seed: The same seed gives the same network.
        progress: Called after every epoch with its number, the number of all and the mean loss.
    """

    def tell(at: Progress) -> None:
        if at.phase == "epoch" and progress is not None:
            progress(at.epoch, at.epochs, at.values["loss"])

    seed(random_seed)
    model = DigitsCNN()
    loader, _ = _task().loaders(CNN_RECIPE.batch_size, random_seed)
    CNN_RECIPE.trainer(model, epochs * len(loader)).fit(loader, epochs=epochs, keep_best=False, progress=tell)
    return model


def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of the images whose class the model finds, in [0, 1]."""
    with no_grad():
        logits = model(tensor(data.images)).numpy()
    return float((np.argmax(logits, axis=1) == data.labels).mean())
