"""The training loop: what it learns, when it stops, and that a resumed run is the uninterrupted one, bit for bit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.engine import Parameter, StateDictError, Tensor, amp, nn, optim, seed
from edgec.engine.data import DataLoader, TensorDataset, transforms
from edgec.engine.files import read_safetensors
from edgec.engine.metrics import Accuracy
from edgec.engine.progress import Progress, TextProgress
from edgec.engine.training import Trainer, TrainingError, fit
from edgec.engine.training_state import load_training_state, save_training_state


def data(count: int = 96) -> TensorDataset:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, count)
    images = random.standard_normal((count, 1, 6, 6)).astype(np.float32) * 0.5
    images[np.arange(count), 0, labels * 2] += 1.0
    return TensorDataset(images, labels)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
    )


class Run:
    """Everything random at once: shuffling, augmentation, dropout; momentum, a schedule per step, threads."""

    def __init__(self, loader_seed: int | None, optimizer: Callable[..., optim.Optimizer]) -> None:
        self.model = network()
        self.optimizer = optimizer(self.model.parameters())
        augmentation = transforms.Compose(transforms.RandomShift(1), transforms.GaussianNoise(0.1))
        self.train = DataLoader(data(), 16, shuffle=True, seed=loader_seed, transform=augmentation, workers=2)
        self.valid = DataLoader(data(40), 16)
        schedule = optim.WarmupLR(self.optimizer, 4, after=optim.CosineAnnealingLR(self.optimizer, 26))
        self.trainer = Trainer(
            self.model,
            nn.CrossEntropyLoss(label_smoothing=0.1),
            self.optimizer,
            metrics={"accuracy": Accuracy()},
            schedule=schedule,
            schedule_every="step",
            clip_norm=1.0,
        )

    def fit(self, path: Path, epochs: int = 5, **options: Any) -> list[dict[str, float]]:
        return self.trainer.fit(
            self.train, self.valid, epochs, monitor="valid_accuracy", mode="max", checkpoint=path, **options
        )

    def state(self) -> dict[str, np.ndarray]:
        return {name: tensor.data.copy() for name, tensor in self.model.state_dict().items()}


def make_run(loader_seed: int | None = 5, optimizer: Callable[..., optim.Optimizer] | None = None) -> Run:
    seed(11)
    return Run(loader_seed, optimizer or (lambda parameters: optim.AdamW(parameters, 0.02)))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


# --- exact resume ---

INTERRUPTS: dict[str, Callable[[Progress], bool]] = {
    "in training": lambda progress: (progress.phase, progress.epoch, progress.batch) == ("train", 3, 4),
    "in the first epoch": lambda progress: (progress.phase, progress.epoch, progress.batch) == ("train", 1, 2),
    "in validation": lambda progress: (progress.phase, progress.epoch, progress.batch) == ("valid", 3, 1),
    "after the checkpoint": lambda progress: (progress.phase, progress.epoch) == ("epoch", 3),
}


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("loader_seed", [5, None])
@pytest.mark.parametrize("moment", INTERRUPTS)
def test_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, moment: str, loader_seed: int | None, keep_best: bool
) -> None:
    whole = make_run(loader_seed)
    history = whole.fit(tmp_path / "whole", keep_best=keep_best)

    def interrupt(progress: Progress) -> None:
        if INTERRUPTS[moment](progress):
            raise KeyboardInterrupt

    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        make_run(loader_seed).fit(path, keep_best=keep_best, progress=interrupt)
    assert path.exists() == (moment != "in the first epoch")
    if not path.exists():
        resumed = make_run(loader_seed)
    else:  # other weights, other generator: everything must come from the file
        seed(99)
        resumed = Run(loader_seed, lambda parameters: optim.AdamW(parameters, 0.5))
    assert resumed.fit(path, keep_best=keep_best, resume=True) == history
    same(resumed.state(), whole.state())
    assert len(history) == 5
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["run", "whole"]


@pytest.mark.parametrize("name", ["SGD", "Lamb", "RMSprop"])
def test_resume_within_the_same_objects(tmp_path: Path, name: str) -> None:
    def optimizer(parameters: Any) -> optim.Optimizer:
        options = {"momentum": 0.9} if name == "SGD" else {}
        made: optim.Optimizer = getattr(optim, name)(parameters, 0.01, **options)
        return made

    whole = make_run(optimizer=optimizer)
    history = whole.fit(tmp_path / "whole")

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 3 and progress.phase == "train" and progress.batch == 5:
            raise KeyboardInterrupt

    run = make_run(optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        run.fit(tmp_path / "run", progress=interrupt)
    assert run.fit(tmp_path / "run", resume=True) == history
    same(run.state(), whole.state())


def test_mixed_precision_resumes_exactly(tmp_path: Path) -> None:
    """The scaler's state is in the file; its scale starts so high that the first steps are skipped."""

    def run() -> Run:
        made = make_run()
        made.trainer.autocast = lambda: amp.auto_cast(dtype="float16")
        made.trainer.scaler = amp.GradScaler(init_loss_scaling=2.0**20, incr_every_n_steps=8)
        return made

    def interrupt(progress: Progress) -> None:
        if INTERRUPTS["in training"](progress):
            raise KeyboardInterrupt

    whole = run()
    history = whole.fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run().fit(tmp_path / "run", progress=interrupt)
    resumed = run()
    assert resumed.fit(tmp_path / "run", resume=True) == history
    same(resumed.state(), whole.state())
    assert history[-1]["loss"] < history[0]["loss"]
    assert whole.trainer.scaler is not None
    assert whole.trainer.scaler.state_dict() != amp.GradScaler(init_loss_scaling=2.0**20).state_dict()


def test_interrupt_while_the_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the epoch before stays, whole, and nothing is left beside it."""
    history = make_run().fit(tmp_path / "whole")
    path, replace = tmp_path / "run", Path.replace

    def broken(self: Path, target: Path) -> Path:
        values = json.loads(read_safetensors(self)[1]["edgec.training"])["values"]
        if values["epoch"] == 3:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        make_run().fit(path)
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "whole"]
    resumed = make_run()
    assert resumed.fit(path, resume=True) == history


def test_killed_process_resumes_exactly(tmp_path: Path) -> None:
    """SIGKILL in the middle of epoch 3, in a process of its own; two further processes finish and compare."""
    script = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("fit_run", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def tell(progress):
    if sys.argv[3] == "kill" and (progress.phase, progress.epoch, progress.batch) == ("train", 3, 3):
        os.kill(os.getpid(), signal.SIGKILL)
run = module.make_run()
history = run.fit(module.Path(sys.argv[2]), resume=sys.argv[3] == "resume", progress=tell)
print(module.json.dumps([history, {name: array.tobytes().hex() for name, array in run.state().items()}]))
"""

    def process(path: Path, mode: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", script, __file__, str(path), mode]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        return subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, check=False)

    killed = process(tmp_path / "run", "kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed, whole = process(tmp_path / "run", "resume"), process(tmp_path / "whole", "whole")
    assert whole.returncode == 0, whole.stderr
    assert len(json.loads(whole.stdout)[0]) == 5
    assert resumed.stdout == whole.stdout


# --- what fit does ---


def test_it_learns_and_keeps_the_best() -> None:
    seed(0)
    model = network()
    valid = DataLoader(data(60), 20)
    train, optimizer = DataLoader(data(), 16, shuffle=True, seed=0), optim.Adam(model.parameters(), 0.02)
    rows = fit(
        model, nn.CrossEntropyLoss(), optimizer, train, valid, epochs=8, metrics={"accuracy": Accuracy()},
        monitor="valid_accuracy", mode="max",
    )  # fmt: skip
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[0].keys() == {"epoch", "lr", "loss", "accuracy", "valid_loss", "valid_accuracy"}
    best = max(row["valid_accuracy"] for row in rows)
    assert best > 0.9
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters()), metrics={"accuracy": Accuracy()})
    assert trainer.evaluate(valid)["accuracy"] == best
    assert not model.training


class Scripted(Trainer):
    """A weight that grows by one per epoch, and validation losses as they are written here."""

    def __init__(self, losses: list[float], **options: Any) -> None:
        self.weight = Parameter(np.zeros(1, np.float32))
        model = nn.Module()
        model.weight = self.weight
        super().__init__(model, lambda *_: Tensor(np.zeros(())), optim.SGD([self.weight], lr=1.0), **options)
        self.losses = losses

    def compute(self, batch: Any) -> tuple[Tensor, Tensor, Any]:
        if self.model.training:
            return -self.weight.sum(), self.weight, batch
        return Tensor(np.array(self.losses[int(self.weight.data[0]) - 1])), self.weight, batch


def one_batch() -> DataLoader:
    return DataLoader(TensorDataset(np.zeros(1)), 1)


def test_early_stopping_waits_for_patience_and_takes_the_best() -> None:
    trainer = Scripted([5.0, 3.0, 3.5, 2.95, 4.0, 4.0, 4.0, 1.0])
    rows = trainer.fit(one_batch(), one_batch(), epochs=8, patience=3, min_delta=0.1)
    # 2.95 is no better than 3.0 by 0.1, so three epochs in a row are no better after the second.
    assert [row["valid_loss"] for row in rows] == [5.0, 3.0, 3.5, 2.95, 4.0]
    assert trainer.weight.data.tolist() == [2.0]
    trainer = Scripted([5.0, 3.0, float("nan"), 4.0])
    assert len(trainer.fit(one_batch(), one_batch(), epochs=4, keep_best=False)) == 4
    assert trainer.weight.data.tolist() == [4.0]


def test_plateau_is_told_the_monitored_figure() -> None:
    trainer = Scripted([3.0, 3.0, 3.0, 3.0])
    trainer.schedule = optim.ReduceLROnPlateau(trainer.optimizer, factor=0.5, patience=0)
    trainer.losses = [3.0] * 10
    rows = trainer.fit(one_batch(), one_batch(), epochs=4)
    assert [row["lr"] for row in rows] == [1.0, 1.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="counts epochs"):
        Scripted([], schedule=trainer.schedule, schedule_every="step")


def test_accumulated_batches_are_one_large_batch() -> None:
    def weights(size: int, accumulate: int) -> np.ndarray:
        seed(0)
        model = nn.Linear(3, 2)
        x = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
        trainer = Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), accumulate=accumulate, clip_norm=0.5)
        trainer.fit(DataLoader(TensorDataset(x, x[:, :2] * 2), size), epochs=2, keep_best=False)
        return model.weight.data

    np.testing.assert_allclose(weights(12, 1), weights(4, 3), rtol=1e-5)


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    seed(0)
    model = nn.Linear(1, 1)
    trainer = Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 1.0))
    bad = DataLoader(TensorDataset(np.full((4, 1), np.nan, np.float32), np.zeros((4, 1), np.float32)), 2)
    with pytest.raises(TrainingError, match="loss became nan in batch 1 of 2"):
        trainer.fit(bad)
    with pytest.raises(TrainingError, match="no batch"):
        trainer.fit(DataLoader(TensorDataset(np.zeros((1, 1)), np.zeros((1, 1))), 2, drop_last=True))
    good = DataLoader(TensorDataset(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32)), 2)
    with pytest.raises(ValueError, match="no figure 'valid_loss' to monitor; there are epoch, lr, loss"):
        trainer.fit(good, monitor="valid_loss")
    trainer.fit(good, checkpoint=tmp_path / "run")
    with pytest.raises(StateDictError, match="monitored 'loss', this one 'lr'"):
        trainer.fit(good, epochs=2, checkpoint=tmp_path / "run", resume=True, monitor="lr")


def test_training_state_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path, model = tmp_path / "state", nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), momentum=0.9)
    schedule = optim.StepLR(optimizer, 1)
    save_training_state(
        path, model, optimizer, {"schedule": schedule}, {"epoch": 3, "loss": 0.1}, {"extra": np.ones(())}
    )
    values, arrays = load_training_state(path, model, optimizer, {"schedule": schedule})
    assert values == {"epoch": 3, "loss": 0.1}
    assert arrays["extra"].shape == ()
    with pytest.raises(StateDictError, match="saved with optimizer, schedule, not optimizer"):
        load_training_state(path, model, optimizer)
    with pytest.raises(StateDictError, match="shape"):
        load_training_state(path, nn.Linear(3, 2), optimizer, {"schedule": schedule})
    model.save(path)
    with pytest.raises(StateDictError, match="holds no training state"):
        load_training_state(path, model)


def test_module_with_a_scalar_goes_through_a_file(tmp_path: Path) -> None:
    model = nn.Module()
    model.scale = Parameter(np.array(2.5, np.float32))
    model.save(tmp_path / "scalar")
    model.scale.data = np.zeros((), np.float32)
    model.load(tmp_path / "scalar")
    assert model.scale.shape == ()
    assert model.scale.item() == 2.5


# --- progress ---


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_text_progress_draws_on_terminals_only() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        show = TextProgress(stream, interval_s=0.0, width=4)
        show(Progress("train", 1, 2, 1, 2, {"loss": 0.123456}))
        show(Progress("train", 1, 2, 2, 2, {"loss": 0.1}))
        show(Progress("epoch", 1, 2, 2, 2, {"loss": 0.1}))
    assert file.getvalue() == ""
    lines = terminal.getvalue().split("\r")
    assert lines[1] == "epoch 1/2  train |██··| loss 0.1235"
    assert lines[2].startswith("epoch 1/2  train |████| loss 0.1 ")
    assert len(lines[2]) == len(lines[1])
    assert lines[3].startswith("epoch 1/2  loss 0.1  ")
    assert lines[3].rstrip().endswith(" s")
    assert lines[3].endswith("\n")
    assert len(lines[3]) > len(lines[2].rstrip())


def test_progress_is_told_every_batch() -> None:
    seen: list[tuple[str, int, int]] = []
    make = make_run()
    make.trainer.fit(
        make.train,
        make.valid,
        2,
        progress=lambda progress: seen.append((progress.phase, progress.epoch, progress.batch)),
    )
    assert seen[:6] == [("train", 1, number) for number in range(1, 7)]
    assert seen[6:10] == [("valid", 1, 1), ("valid", 1, 2), ("valid", 1, 3), ("epoch", 1, 6)]
    assert len(seen) == 20
