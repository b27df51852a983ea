"""The whole path in one minute: train a network, compile it for three targets, prove that all compute the same.

Run it with ``make demo``, or ``python examples/demo.py`` where edgec is installed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import edgec
from edgec.devices import open_runner
from edgec.engine import no_grad, tensor
from edgec.errors import DeviceError
from edgec.models.digits import DigitsCNN, accuracy, load_digits, train

# A Jetson's bundle has code for its CPU as well: where there is no GPU, that is what is checked.
TARGETS: dict[str, list[str]] = {"native": [], "rk3588": [], "jetson": ["cpu"]}
EPOCHS = 30

console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


@dataclass
class Row:
    """What the demo found out about one artifact."""

    bundle: edgec.Bundle
    report: edgec.ParityReport
    accuracy: float
    same_classes: int
    latency: edgec.BenchReport | None


def main() -> int:
    """Train, compile, check, measure; returns 0 if parity holds everywhere and every class agrees."""
    start = time.perf_counter()
    model = train_with_progress()
    _, test = load_digits()
    engine_accuracy = accuracy(model, test)
    console.print(f"test accuracy of the engine: {engine_accuracy:.2%} on {len(test)} images")
    with no_grad():
        classes = model(tensor(test.images)).numpy().argmax(axis=1)
    rows = []
    for target, also_for in TARGETS.items():
        console.print(f"compile for {target} ...")
        shapes = {"image": (1, 1, 8, 8)}
        bundle = edgec.compile(model, target=target, inputs=shapes, name="digits", also_for=also_for)
        try:
            rows.append(judge(bundle, test.images, test.labels, classes))
        except DeviceError as err:
            console.print(f"[yellow]{target} is compiled, but cannot be run here: {err}[/]")
    print_table(rows, engine_accuracy, len(test))
    console.print(f"{time.perf_counter() - start:.0f} s in all")
    return 0 if all(row.report and row.same_classes == len(test) for row in rows) else 4


def train_with_progress() -> DigitsCNN:
    """Train the network with a bar that shows epochs and loss."""
    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        task = bars.add_task("train", total=EPOCHS, loss="")

        def show(epoch: int, epochs: int, loss: float) -> None:
            bars.update(task, completed=epoch, total=epochs, loss=f"loss {loss:.3f}")

        return train(EPOCHS, progress=show)


def judge(bundle: edgec.Bundle, images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> Row:
    """Check the artifact against the engine, classify the test images with it, time it where it is native."""
    report = edgec.check(bundle, inputs={"image": images})
    with open_runner(bundle) as runner:
        logits = np.concatenate([outputs[0] for outputs in runner.run([[image[None]] for image in images])])
    found = logits.argmax(axis=1)
    latency = edgec.bench(bundle) if bundle.target == "native" else None
    return Row(bundle, report, float((found == labels).mean()), int((found == classes).sum()), latency)


def print_table(rows: list[Row], engine_accuracy: float, images: int) -> None:
    """One line per artifact."""
    table = Table(title="digits: engine and artifacts")
    for column in ("target", "runs on", "precision", "size KiB", "parity", "smallest rtol", "SQNR dB"):
        table.add_column(column, justify="left" if column in ("target", "runs on", "precision") else "right")
    for column in ("accuracy: engine", "artifact", "same class", "median ms", "p99 ms"):
        table.add_column(column, justify="right")
    for row in rows:
        output = row.report.outputs[0]
        times = (f"{row.latency.median_ms:.3f}", f"{row.latency.p99_ms:.3f}") if row.latency else ("–", "–")
        table.add_row(
            row.bundle.target,
            row.report.device,
            row.bundle.precision,
            f"{row.bundle.deployed_bytes / 1024:.0f}",
            "holds" if row.report else "FAILED",
            f"{output.smallest_rtol:.1e}",
            f"{output.sqnr_db:.0f}",
            f"{engine_accuracy:.2%}",
            f"{row.accuracy:.2%}",
            f"{row.same_classes}/{images}",
            *times,
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
