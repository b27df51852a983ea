"""Short runs of the recipes, on data that are always there: the loss falls, and the figure is far from chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.models import RECIPES
from edgec.training import train

# What a quick run reaches at least (or at most), and the epochs of those whose own quick runs are too long here.
QUICK = {
    "digits-mlp": (0.80, None),
    "digits-cnn": (0.80, None),
    "lenet": (0.80, None),
    "fashion-cnn": (0.80, None),
    "autoencoder": (0.16, None),
    "transformer": (0.70, None),
    "lstm": (0.75, None),
    "gru": (0.75, None),
    "unet": (0.60, None),
    "detector": (0.12, None),
    "ds-cnn": (0.25, None),
    "resnet8": (0.20, 2),
}
NEEDS_DATA = {"ds-cnn", "resnet8"}


@pytest.mark.parametrize("name", QUICK)
def test_learns(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue("data_dir") if name in NEEDS_DATA else None
    bound, epochs = QUICK[name]
    report = train(name, quick=True, epochs=epochs, data=data, output=tmp_path / "net.safetensors")
    losses = [row["loss"] for row in report.history]
    assert losses[-1] < 0.9 * losses[0]
    assert report.figure <= bound if RECIPES[name].mode == "min" else report.figure >= bound
    assert report.is_reached is None
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_reader_begins_to_learn(tmp_path: Path) -> None:
    """CTC needs more than seconds to leave the blank; its loss falls at once."""
    pytest.importorskip("PIL", reason="lines of text are rendered with pillow")
    report = train("crnn", quick=True, output=tmp_path / "net.safetensors")
    losses = [row["valid_loss"] for row in report.history]
    assert losses[-1] < 0.7 * losses[0]


def test_reading_is_measured_by_what_is_read() -> None:
    from edgec.models.crnn import ReadingError, read

    logits = np.full((1, 6, 37), -5.0, np.float32)
    for column, place in enumerate((3, 3, 0, 1, 20, 0)):  # c c - a t -
        logits[0, column, place] = 5.0
    assert read(logits) == ["cat"]
    metric = ReadingError()
    metric.update(logits, np.array([[3, 1, 21, -1]]))  # meant was "cau"
    assert metric.compute() == pytest.approx(1 / 3)


def test_detections_of_the_truth_are_perfect() -> None:
    """What the network should give, decoded, is what is there; a shifted box is not."""
    from edgec.models.data.canvas import draw_canvases
    from edgec.models.data.digits import load_digits
    from edgec.models.detector import GridPrecision

    objects = draw_canvases(load_digits()[1], 20, 0).objects
    grid = np.full((20, 15, 6, 6), -9.0, np.float32)
    centres = np.arange(6) * 8 + 4
    there = objects[:, 0] > 0
    grid[:, 0][there] = 9.0
    grid[:, 1] = (objects[:, 1] - centres[None, None]) / 8
    grid[:, 2] = (objects[:, 2] - centres[None, :, None]) / 8
    grid[:, 3:5] = np.log(np.maximum(objects[:, 3:5], 1) / 16)
    np.put_along_axis(grid[:, 5:], objects[:, 5:6].astype(np.int64), 9.0, 1)
    right = GridPrecision()
    right.update(grid, objects)
    assert right.compute() == pytest.approx(1.0)
    grid[:, 1] += 2
    wrong = GridPrecision()
    wrong.update(grid, objects)
    assert wrong.compute() < 0.2
