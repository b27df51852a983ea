"""The training loop: epochs, validation, early stopping, the best model, checkpoints and exact resume."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from edgec.engine.arrays import Array
from edgec.engine.data.loader import Batch
from edgec.engine.errors import StateDictError
from edgec.engine.metrics import Metric, RunningMean
from edgec.engine.modes import no_grad
from edgec.engine.nn.module import Module
from edgec.engine.optim import LRScheduler, Optimizer, ReduceLROnPlateau, clip_grad_norm_
from edgec.engine.progress import Progress, ProgressCallback, TextProgress
from edgec.engine.tensor import Tensor
from edgec.engine.training_state import Stateful, load_training_state, save_training_state
from edgec.errors import EdgecError

__all__ = ["History", "Trainer", "TrainingError", "fit"]

History: TypeAlias = list[dict[str, float]]


class TrainingError(EdgecError):
    """The training cannot go on: the loss is no number, or there is nothing to train on."""


class Loader(Sized, Protocol):
    """Batches again in every pass; one with `state_dict` is saved and restored with the training."""

    def __iter__(self) -> Iterator[Batch]: ...


class Scaler(Stateful, Protocol):
    """A loss scaler for float16, as `edgec.engine.amp` has it."""

    def scale(self, loss: Tensor) -> Tensor: ...
    def unscale_(self, optimizer: Optimizer) -> None: ...
    def step(self, optimizer: Optimizer) -> object: ...
    def update(self) -> object: ...


class Trainer:
    """Trains a model; for another step than `loss(model(x), target)`, override `compute`.

    Args:
        model: What to train.
        loss: From the model's output and the batch's targets to a loss.
        optimizer: Over the model's parameters.
        metrics: Figures of training and validation, by name.
        schedule: Of the learning rate; a `ReduceLROnPlateau` is given the monitored figure.
        schedule_every: Whether the schedule counts epochs or optimizer steps.
        clip_norm: The most that the norm of all gradients together may be.
        accumulate: Batches per optimizer step; their gradients are averaged.
        autocast: Makes the context in which model and loss run, for mixed precision.
        scaler: Scales the loss, for float16.
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[..., Tensor],
        optimizer: Optimizer,
        *,
        metrics: Mapping[str, Metric] | None = None,
        schedule: LRScheduler | ReduceLROnPlateau | None = None,
        schedule_every: Literal["epoch", "step"] = "epoch",
        clip_norm: float | None = None,
        accumulate: int = 1,
        autocast: Callable[[], AbstractContextManager[object]] | None = None,
        scaler: Scaler | None = None,
    ) -> None:
        if schedule_every == "step" and isinstance(schedule, ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau counts epochs")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.metrics = dict(metrics or {})
        self.schedule, self.schedule_every = schedule, schedule_every
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.autocast, self.scaler = autocast or nullcontext, scaler

    def compute(self, batch: Batch) -> tuple[Tensor, Tensor, Any]:
        """The loss of a batch, the outputs, and the targets that the metrics compare them with."""
        x, *targets = batch
        outputs = self.model(x)
        return self.loss(outputs, *targets), outputs, targets[0] if targets else x

    # --- one epoch ---

    def train_epoch(self, loader: Loader, tell: Callable[[int, dict[str, float]], None]) -> dict[str, float]:
        """One pass over the loader in training mode; gives the figures."""
        self.model.train()
        mean = self._start()
        self.optimizer.zero_grad()
        batches = len(loader)
        for number, batch in enumerate(loader, 1):
            with self.autocast():
                loss, outputs, targets = self.compute(batch)
            value = loss.item()
            if not math.isfinite(value) and self.scaler is None:
                raise TrainingError(
                    f"the loss became {value} in batch {number} of {batches}",
                    fix="lower the learning rate, clip gradients (clip_norm=1.0), or look for NaN in the data",
                )
            if self.accumulate > 1:
                loss = loss * (1.0 / self.accumulate)
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            if number % self.accumulate == 0 or number == batches:
                self._step()
            self._count(mean, value, batch, outputs, targets)
            tell(number, {"loss": mean.compute()})
        if mean.weight == 0:
            raise TrainingError("the loader gave no batch", fix="pass data, and a batch size that it can fill")
        return self._figures(mean)

    def evaluate(self, loader: Loader, tell: Callable[[int, dict[str, float]], None] | None = None) -> dict[str, float]:
        """The loss and the metrics over a loader, in inference mode; the model is left in that mode."""
        self.model.eval()
        mean = self._start()
        with no_grad():
            for number, batch in enumerate(loader, 1):
                with self.autocast():
                    loss, outputs, targets = self.compute(batch)
                self._count(mean, loss.item(), batch, outputs, targets)
                if tell is not None:
                    tell(number, {"loss": mean.compute()})
        return self._figures(mean)

    def _step(self) -> None:
        if self.clip_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self._trained(), self.clip_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        if self.schedule is not None and self.schedule_every == "step":
            assert isinstance(self.schedule, LRScheduler)
            self.schedule.step()

    def _trained(self) -> list[Tensor]:
        return [tensor for group in self.optimizer.groups for tensor in group.parameters]

    def _start(self) -> RunningMean:
        for metric in self.metrics.values():
            metric.reset()
        return RunningMean()

    def _count(self, mean: RunningMean, value: float, batch: Batch, outputs: Tensor, targets: Any) -> None:
        mean.add(value, _samples(batch))
        for metric in self.metrics.values():
            metric.update(outputs, targets)

    def _figures(self, mean: RunningMean) -> dict[str, float]:
        return {"loss": mean.compute(), **{name: metric.compute() for name, metric in self.metrics.items()}}

    # --- all epochs ---

    def fit(
        self,
        train_loader: Loader,
        valid_loader: Loader | None = None,
        epochs: int = 1,
        *,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        patience: int | None = None,
        min_delta: float = 0.0,
        keep_best: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: ProgressCallback | None = None,
    ) -> History:
        """Train, and give the figures of every epoch.

        With a `checkpoint`, everything is written after every epoch, and after an interrupt the same call with
        `resume` ends with the very parameters and history of a training that was never interrupted.

        Args:
            train_loader: Batches to train on.
            valid_loader: Batches to measure on after every epoch; their figures are called "valid_...".
            epochs: Passes over the training data, those before a resume included.
            monitor: The figure that decides which model is the best; "valid_loss", or "loss" without validation.
            mode: Whether that figure should fall or rise.
            patience: Stop after this many epochs without a better figure.
            min_delta: How much better counts as better.
            keep_best: Leave the model as it was after its best epoch, not after the last. (It is in inference mode.)
            checkpoint: The file to keep.
            resume: Go on from the checkpoint if there is one.
            progress: Called after every batch and epoch; by default a line on a terminal.

        Raises:
            TrainingError: The loss became NaN or infinite, or a loader is empty.
            StateDictError: The checkpoint is of another model or other settings.
        """
        run = _Run(self, train_loader, valid_loader, monitor, mode, min_delta, keep_best)
        if resume and checkpoint is not None and Path(checkpoint).exists():
            run.load(checkpoint)
        tell = progress or TextProgress()
        while run.epoch < epochs and not (patience is not None and run.bad_epochs >= patience):
            run.one_epoch(epochs, tell)
            if checkpoint is not None:
                run.save(checkpoint)
            tell(Progress("epoch", run.epoch, epochs, len(train_loader), len(train_loader), run.history[-1]))
        if keep_best and run.best is not None:
            self.model.load_state_dict(run.best)
        self.model.eval()
        return run.history


def _samples(batch: Batch) -> int:
    """How many samples a batch has: the length of its first part."""
    if isinstance(batch, Mapping):
        return _samples(next(iter(batch.values())))
    return _samples(batch[0]) if isinstance(batch, tuple | list) else len(batch)


class _Run:
    """What a call of `fit` knows: where it stands, and what has to be saved to stand there again."""

    def __init__(
        self,
        trainer: Trainer,
        train_loader: Loader,
        valid_loader: Loader | None,
        monitor: str | None,
        mode: Literal["min", "max"],
        min_delta: float,
        keep_best: bool,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f'mode must be "min" or "max", not {mode!r}')
        self.trainer, self.train_loader, self.valid_loader = trainer, train_loader, valid_loader
        self.monitor = monitor or ("loss" if valid_loader is None else "valid_loss")
        self.mode, self.min_delta, self.keep_best = mode, min_delta, keep_best
        self.epoch = self.bad_epochs = 0
        self.history: History = []
        self.best_figure: float | None = None
        self.best: dict[str, Array] | None = None
        self.parts: dict[str, Stateful] = {}
        for name, part in (("schedule", trainer.schedule), ("scaler", trainer.scaler)):
            if part is not None:
                self.parts[name] = part
        for name, loader in (("train", train_loader), ("valid", valid_loader)):
            if isinstance(loader, Stateful):
                self.parts[name] = loader

    def one_epoch(self, epochs: int, tell: ProgressCallback) -> None:
        trainer, epoch = self.trainer, self.epoch + 1
        row = {"epoch": float(epoch), "lr": trainer.optimizer.lr}
        row |= trainer.train_epoch(
            self.train_loader,
            lambda batch, values: tell(Progress("train", epoch, epochs, batch, len(self.train_loader), values)),
        )
        if self.valid_loader is not None:
            loader = self.valid_loader
            figures = trainer.evaluate(
                loader, lambda batch, values: tell(Progress("valid", epoch, epochs, batch, len(loader), values))
            )
            row |= {f"valid_{name}": value for name, value in figures.items()}
        if self.monitor not in row:
            raise ValueError(f"there is no figure {self.monitor!r} to monitor; there are {', '.join(row)}")
        figure = row[self.monitor]
        if isinstance(trainer.schedule, ReduceLROnPlateau):
            trainer.schedule.step(figure)
        elif trainer.schedule is not None and trainer.schedule_every == "epoch":
            trainer.schedule.step()
        self._compare(figure)
        self.history.append(row)
        self.epoch = epoch

    def _compare(self, figure: float) -> None:
        sign = 1.0 if self.mode == "max" else -1.0
        is_better = not math.isnan(figure) and (
            self.best_figure is None or sign * figure > sign * self.best_figure + self.min_delta
        )
        self.bad_epochs = 0 if is_better else self.bad_epochs + 1
        if is_better:
            self.best_figure = figure
            if self.keep_best:
                self.best = {name: tensor.data.copy() for name, tensor in self.trainer.model.state_dict().items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        values = {
            "epoch": self.epoch, "bad_epochs": self.bad_epochs, "best_figure": self.best_figure,
            "history": self.history, "monitor": self.monitor,
        }  # fmt: skip
        save_training_state(path, self.trainer.model, self.trainer.optimizer, self.parts, values, self.best)

    def load(self, path: str | os.PathLike[str]) -> None:
        values, best = load_training_state(path, self.trainer.model, self.trainer.optimizer, self.parts)
        if values["monitor"] != self.monitor:
            raise StateDictError(
                f"the training that was saved monitored {values['monitor']!r}, this one {self.monitor!r}",
                where=str(path),
                fix=f"pass monitor={values['monitor']!r}",
            )
        self.epoch, self.bad_epochs = values["epoch"], values["bad_epochs"]
        self.best_figure, self.history = values["best_figure"], values["history"]
        self.best = best or None


def fit(
    model: Module,
    loss: Callable[..., Tensor],
    optimizer: Optimizer,
    train_loader: Loader,
    valid_loader: Loader | None = None,
    epochs: int = 1,
    *,
    metrics: Mapping[str, Metric] | None = None,
    schedule: LRScheduler | ReduceLROnPlateau | None = None,
    schedule_every: Literal["epoch", "step"] = "epoch",
    clip_norm: float | None = None,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: ProgressCallback | None = None,
) -> History:
    """Train `model` and give the figures of every epoch: a `Trainer` and its `fit` in one call.

    Example::

        history = fit(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters()), train, valid, epochs=10,
                      metrics={"accuracy": Accuracy()}, monitor="valid_accuracy", mode="max",
                      checkpoint="run.safetensors", resume=True)
    """
    trainer = Trainer(
        model, loss, optimizer, metrics=metrics, schedule=schedule, schedule_every=schedule_every, clip_norm=clip_norm
    )
    return trainer.fit(
        train_loader, valid_loader, epochs, monitor=monitor, mode=mode, patience=patience, checkpoint=checkpoint,
        resume=resume, progress=progress,
    )  # fmt: skip
