"""A single-shot detector without anchors: each cell of a coarse grid says whether a digit's centre lies in it, which
digit it is, and where its box ends.

Source: Redmon et al. 2016, "You Only Look Once", section 2; Tian et al. 2019, "FCOS", for doing without anchors.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from edgec.engine import Tensor, nn, tensor
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.data import TensorDataset
from edgec.engine.data.transforms import Compose, Normalize, ToFloat
from edgec.engine.metrics import MeanAveragePrecision, Metric, Values, box_iou
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.canvas import CELL, CLASSES, SIZE, draw_canvases
from edgec.models.data.digits import load_digits
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, adamw, one_cycle

__all__ = ["RECIPE", "Detector", "decode"]

_CELLS = SIZE // CELL
# Centre of each cell, (1, 2, 6, 6) with x before y.
_CENTRES = np.stack(np.meshgrid(*[np.arange(_CELLS) * CELL + CELL / 2] * 2))[None].astype(np.float32)
_TYPICAL_EXTENT = 16.0


class Detector(Network):
    """A backbone of stride 8 and a head of one box per cell; 75,000 parameters."""

    input_shapes: ClassVar = {"image": (1, 1, SIZE, SIZE)}

    def __init__(self, classes: int = CLASSES) -> None:
        self.backbone = nn.Sequential(
            ConvNormReLU(1, 16), nn.MaxPool2d(2),
            ConvNormReLU(16, 32), ConvNormReLU(32, 32), nn.MaxPool2d(2),
            ConvNormReLU(32, 64), nn.MaxPool2d(2),
            ConvNormReLU(64, 64),
        )  # fmt: skip
        self.head = nn.Sequential(ConvNormReLU(64, 64, 1), nn.Conv2d(64, 5 + classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """For images (n, 1, 48, 48) a grid (n, 5 + classes, 6, 6).

        Its channels: the logit that a digit is there, the centre's offset from that of the cell in cells (x, y), the
        logarithm of width and height over 16 pixels, and the logits of the classes.
        """
        return self.head(self.backbone(x))


def detection_loss(grid: Tensor, objects: Tensor) -> Tensor:
    """Focal loss of presence, Huber loss of boxes and cross entropy of classes, the last two where a digit is."""
    present = objects[:, 0]
    count = float(max(present.numpy().sum(), 1.0))
    presence = F.sigmoid_focal_loss(grid[:, 0], present, alpha=0.5, reduction="sum")
    offsets = (objects[:, 1:3] - tensor(_CENTRES)) / CELL
    extents = tensor(np.log(np.maximum(objects.numpy()[:, 3:5], 1.0) / _TYPICAL_EXTENT))
    boxes = [
        (F.smooth_l1_loss(found, wanted, reduction="none", beta=0.2) * present.unsqueeze(1)).sum()
        for found, wanted in ((grid[:, 1:3], offsets), (grid[:, 3:5], extents))
    ]
    classes = F.cross_entropy(grid[:, 5:], objects[:, 5].astype(np.int64), reduction="none")
    return (4.0 * presence + boxes[0] + boxes[1] + (classes * present).sum()) / count


def decode(
    grid: np.ndarray, least_score: float = 0.05, most_overlap: float = 0.5
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes (left, top, right, bottom), scores and classes of each image, the best first.

    Args:
        grid: What the network gave, (n, 5 + classes, 6, 6).
        least_score: Detections below are left out.
        most_overlap: Of two boxes with more intersection over union only the better one stays.
    """
    centres = _CENTRES + CELL * grid[:, 1:3]
    extents = _TYPICAL_EXTENT * np.exp(np.clip(grid[:, 3:5], -4, 4))
    corners = np.concatenate([centres - extents / 2, centres + extents / 2], 1)
    scores = 1 / (1 + np.exp(-grid[:, 0]))
    found = []
    for image in range(len(grid)):
        boxes = corners[image].reshape(4, -1).T
        score, label = scores[image].ravel(), grid[image, 5:].argmax(0).ravel()
        kept: list[int] = []
        overlaps = box_iou(boxes, boxes)
        for candidate in np.argsort(-score):
            is_new = not kept or overlaps[candidate, kept].max() <= most_overlap
            if score[candidate] >= least_score and is_new:
                kept.append(int(candidate))
        found.append((boxes[kept], score[kept], label[kept]))
    return found


class GridPrecision(MeanAveragePrecision):
    """Mean average precision at an overlap of one half, from grids."""

    def update(self, outputs: Values, targets: Values) -> None:
        """Grids of the network and of the data."""
        for found, objects in zip(decode(np.asarray(outputs)), np.asarray(targets), strict=True):
            there = objects[:, objects[0] > 0].T
            centres, extents = there[:, 1:3], there[:, 3:5]
            true_boxes = np.concatenate([centres - extents / 2, centres + extents / 2], 1)
            self.add(*found, true_boxes, there[:, 5].astype(np.int64))


def _metrics() -> dict[str, Metric]:
    return {"mAP": GridPrecision()}


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are always there
    counts = (512, 64) if quick else (6000, 500)
    parts = [
        draw_canvases(part, count, seed) for seed, (part, count) in enumerate(zip(load_digits(), counts, strict=True))
    ]
    prepare = Compose(ToFloat(), Normalize(0.25, 0.25))
    datasets = [TensorDataset(part.pixels, part.objects) for part in parts]
    return Task(datasets[0], datasets[1], prepare, prepare, f"{counts[0]} pictures of digits, 48×48")


RECIPE = Recipe(
    network=Detector, load=_task, data="digits on canvases",
    loss=detection_loss, optimizer=adamw(5e-3), schedule=one_cycle(),
    metric="mAP", metrics=_metrics, expected=0.80,
    epochs=12, quick_epochs=10, batch_size=32, minutes=4, clip_norm=10.0,
)  # fmt: skip
