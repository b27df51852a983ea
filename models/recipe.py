"""How a network is trained: the data, the loss, the optimizer, the schedule, and what should come out.

A recipe only states these; `edgec.training` (the verb ``edgec train``) runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from edgec.engine import Parameter, Tensor
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.data import DataLoader, Dataset
from edgec.engine.data.loader import Transform
from edgec.engine.metrics import Accuracy, Metric
from edgec.engine.optim import SGD, AdamW, LRScheduler, OneCycleLR, Optimizer
from edgec.engine.training import Trainer
from edgec.models.network import Network

__all__ = ["Recipe", "Task", "accuracy", "adamw", "classify", "one_cycle", "sgd"]


@dataclass(frozen=True)
class Task:
    """Data to train and to test on.

    Attributes:
        train: Batches of it are (inputs, targets ...).
        test: The same of samples that training never sees.
        augment: Applied to batches of `train`; makes the network's inputs.
        prepare: The same for `test`, without chance.
        source: What the data are, in a few words.
    """

    train: Dataset
    test: Dataset
    augment: Transform | None
    prepare: Transform | None
    source: str

    def loaders(self, batch_size: int, seed: int) -> tuple[DataLoader, DataLoader]:
        """Shuffled batches for training, and batches in order for testing."""
        return (
            DataLoader(self.train, batch_size, shuffle=True, drop_last=True, seed=seed, transform=self.augment),
            DataLoader(self.test, 4 * batch_size, seed=seed, transform=self.prepare),
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that a training follows from, beside the seed.

    Attributes:
        network: What is trained.
        load: Reads the data; the arguments are the data folder (None: the default) and whether the run is a quick
            one, for which a part of the data, or data that are always there, are enough.
        data: The data's name, for the table of recipes.
        loss: From outputs and targets to a loss.
        optimizer: Over parameters.
        schedule: Of the learning rate, over the given number of steps.
        metric: The name of the figure that counts.
        metrics: Makes the figures.
        expected: What the metric reaches at least (or at most, if `mode` is "min") with the recipe's own epochs.
        mode: Whether the metric should rise or fall.
        epochs: Passes over the data.
        quick_epochs: The same for a quick run.
        batch_size: Samples per step.
        minutes: Time on two cores, measured.
        clip_norm: The most that the norm of all gradients together may be.
    """

    network: type[Network]
    load: Callable[[Path | None, bool], Task]
    data: str
    loss: Callable[..., Tensor]
    optimizer: Callable[[list[Parameter]], Optimizer]
    schedule: Callable[[Optimizer, int], LRScheduler]
    metric: str
    metrics: Callable[[], Mapping[str, Metric]]
    expected: float
    epochs: int
    quick_epochs: int
    batch_size: int
    minutes: float
    mode: Literal["min", "max"] = "max"
    clip_norm: float | None = None

    def trainer(self, network: Network, steps: int) -> Trainer:
        """What trains `network` in so many steps."""
        optimizer = self.optimizer(list(network.parameters()))
        return Trainer(
            network,
            self.loss,
            optimizer,
            metrics=self.metrics(),
            schedule=self.schedule(optimizer, steps),
            schedule_every="step",
            clip_norm=self.clip_norm,
        )

    def is_reached(self, figure: float) -> bool:
        """Whether a figure is as good as expected."""
        return figure >= self.expected if self.mode == "max" else figure <= self.expected


def sgd(lr: float, weight_decay: float = 5e-4) -> Callable[[list[Parameter]], Optimizer]:
    """Nesterov's momentum of 0.9."""
    return lambda parameters: SGD(parameters, lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True)


def adamw(lr: float, weight_decay: float = 0.01) -> Callable[[list[Parameter]], Optimizer]:
    return lambda parameters: AdamW(parameters, lr=lr, weight_decay=weight_decay)


def one_cycle(warm_up: float = 0.25) -> Callable[[Optimizer, int], LRScheduler]:
    """Up to the optimizer's own rate for a share of all steps, then down to nothing."""
    return lambda optimizer, steps: OneCycleLR(optimizer, optimizer.lr, steps, warm_up)


def classify(label_smoothing: float = 0.0) -> Callable[..., Tensor]:
    """The cross entropy of logits and class numbers."""
    return partial(F.cross_entropy, label_smoothing=label_smoothing)


def accuracy() -> dict[str, Metric]:
    """The share of samples whose class is found."""
    return {"accuracy": Accuracy()}
