"""What a training tells while it runs, and a line of text that shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TextIO, TypeAlias

__all__ = ["Progress", "ProgressCallback", "TextProgress"]


@dataclass(frozen=True)
class Progress:
    """A moment of a training.

    Attributes:
        phase: After a batch of training or validation, or at the end of an epoch (its checkpoint is written).
        epoch: From 1.
        epochs: How many there are to be.
        batch: From 1; the number of all at the end of an epoch.
        batches: How many the phase has.
        values: The figures so far, by name.
    """

    phase: Literal["train", "valid", "epoch"]
    epoch: int
    epochs: int
    batch: int
    batches: int
    values: Mapping[str, float] = field(default_factory=dict)


ProgressCallback: TypeAlias = Callable[[Progress], None]


class TextProgress:
    """A bar on a terminal, and the figures of each epoch; nothing where the output is a file or a pipe."""

    def __init__(self, stream: TextIO | None = None, interval_s: float = 0.1, width: int = 24) -> None:
        self.stream, self.interval_s, self.width = stream or sys.stderr, interval_s, width
        self._written_s = self._started_s = time.monotonic()
        self._length = 0

    def __call__(self, progress: Progress) -> None:
        if not self.stream.isatty():
            return
        now = time.monotonic()
        if progress.phase != "epoch" and now - self._written_s < self.interval_s:
            return
        self._written_s = now
        figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.values.items())
        line = f"epoch {progress.epoch}/{progress.epochs}  "
        if progress.phase == "epoch":
            line += f"{figures}  {now - self._started_s:.1f} s"
            self._started_s = now
        else:
            done = self.width * progress.batch // max(progress.batches, 1)
            line += f"{progress.phase} |{'█' * done}{'·' * (self.width - done)}| {figures}"
        # Spaces cover what is left of a longer line before.
        end = "\n" if progress.phase == "epoch" else ""
        self.stream.write("\r" + line.ljust(self._length) + end)
        self.stream.flush()
        self._length = 0 if end else len(line)
