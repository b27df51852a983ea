"""An autoencoder: digits through a bottleneck of twelve numbers and back."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from edgec.engine import Tensor, nn
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.data import TensorDataset
from edgec.engine.metrics import MeanAbsoluteError
from edgec.models.data.digits import load_digits
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, adamw, one_cycle

__all__ = ["RECIPE", "Autoencoder"]


class Autoencoder(Network):
    """An encoder 64-128-64-12 and a decoder the other way round; 35,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, 8, 8)}

    def __init__(self, bottleneck: int = 12) -> None:
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, bottleneck)
        )
        self.decoder = nn.Sequential(
            nn.Linear(bottleneck, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid(),
            nn.Unflatten(1, (1, 8, 8)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 1, 8, 8) like `x`."""
        return self.decoder(self.encoder(x))


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are always there
    parts = [TensorDataset(part.images, part.images) for part in load_digits()]
    return Task(parts[0], parts[1], _noisy, None, f"{len(parts[0])} digits of 8×8")


def _noisy(batch: tuple[np.ndarray, np.ndarray], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The input gets noise, the target none. Source: Vincent et al. 2008."""
    images, target = batch
    return images + (0.05 * random.standard_normal(images.shape)).astype(images.dtype), target


RECIPE = Recipe(
    network=Autoencoder, load=_task, data="bundled digits",
    loss=F.mse_loss, optimizer=adamw(3e-3), schedule=one_cycle(),
    metric="mean absolute error", metrics=lambda: {"mean absolute error": MeanAbsoluteError()}, expected=0.072,
    mode="min", epochs=100, quick_epochs=15, batch_size=64, minutes=0.1,
)  # fmt: skip
