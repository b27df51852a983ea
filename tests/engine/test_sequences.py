"""A recurrent network, CTC, decoding, character errors, the training loop and a trace of the result, together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.engine import Tensor, Trainer, metrics, nn, no_grad, optim, seed
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.ctc import ctc_beam_decode, ctc_greedy_decode
from edgec.engine.data import DataLoader
from edgec.frontend import trace

STEPS, CLASSES = 18, 5


class Lines:
    """Texts of classes 1 to 4, each drawn over one to three noisy steps with gaps between; classes may repeat."""

    def __init__(self, count: int, start: int) -> None:
        self.count, self.start = count, start

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = np.random.default_rng([self.start, index])
        length = int(random.integers(0, 5))
        text = random.integers(1, CLASSES, length)
        x, place = random.standard_normal((STEPS, 6)) * 0.3, 0
        for label in text:
            place += 1
            width = int(random.integers(1, 4))
            x[place : place + width, label] += 2.0
            place += width
        padded = np.zeros(4, np.int64)
        padded[:length] = text
        return {"x": x.astype(np.float32), "text": padded, "length": length, "steps": max(place + 1, 4)}


class Reader(nn.Module):
    def __init__(self) -> None:
        self.rnn = nn.GRU(6, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (steps, n, classes)."""
        return F.log_softmax(self.head(self.rnn(x)[0])).transpose(1, 0, 2)


class ReaderTrainer(Trainer):
    def compute(self, batch: Any) -> tuple[Tensor, Tensor, Any]:
        logs = self.model(batch["x"])
        return self.loss(logs, batch["text"], batch["steps"], batch["length"]), logs, batch


def texts_of(batch: Any) -> list[list[int]]:
    return [text[:length].tolist() for text, length in zip(batch["text"].data, batch["length"].data, strict=True)]


class ErrorRate(metrics.CharacterErrorRate):
    def update(self, outputs: Any, targets: Any) -> None:
        self.add(ctc_greedy_decode(outputs, targets["steps"]), texts_of(targets))


def test_a_reader_learns_lines(run_onnxruntime: Callable[..., dict[str, np.ndarray]]) -> None:
    seed(0)
    model = Reader()
    trainer = ReaderTrainer(
        model, nn.CTCLoss(), optim.Adam(model.parameters(), 0.02), metrics={"cer": ErrorRate()}, clip_norm=5.0
    )
    train = DataLoader(Lines(256, 0), 32, shuffle=True, seed=0)
    held_out = DataLoader(Lines(64, 1), 64)
    history = trainer.fit(train, held_out, epochs=8, monitor="valid_cer")
    best = min(row["valid_cer"] for row in history)
    assert best < 0.05
    assert history[0]["valid_cer"] > 0.5
    batch = next(iter(held_out))
    with no_grad():
        logs = model(batch["x"])
    rate = metrics.CharacterErrorRate()
    rate.add(ctc_beam_decode(logs, batch["steps"], width=5), texts_of(batch))
    assert rate.compute() <= best + 0.02
    x = batch["x"].data[:2]
    traced = trace(model, x)
    assert [node.op_type for node in traced.graph].count("GRU") == 1
    (result,) = run_onnxruntime(traced, {"x": x}).values()
    np.testing.assert_allclose(result, logs.data[:, :2], rtol=1e-3, atol=1e-4)
