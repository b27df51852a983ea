"""A small U-Net that finds the ink of digits in noisy pictures.

Source: Ronneberger, Fischer and Brox 2015, "U-Net", figure 1, with padding and a sixteenth of the channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from edgec.engine import Tensor, concat, nn
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.data import TensorDataset
from edgec.engine.data.transforms import Compose, Normalize, ToFloat
from edgec.engine.metrics import MeanIoU
from edgec.models.blocks import ConvNormReLU
from edgec.models.data.canvas import draw_canvases
from edgec.models.data.digits import load_digits
from edgec.models.network import Network
from edgec.models.recipe import Recipe, Task, adamw, one_cycle

__all__ = ["RECIPE", "UNet"]


class _Double(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(ConvNormReLU(in_channels, out_channels), ConvNormReLU(out_channels, out_channels))


class UNet(Network):
    """Two halvings and two doublings with connections across; 29,000 parameters with 8 to 32 channels.

    Args:
        channels: Of the input.
        classes: Of each pixel.
        width: Channels at full size; they double at each halving.
    """

    input_shapes: ClassVar = {"image": (1, 1, 48, 48)}

    def __init__(self, channels: int = 1, classes: int = 2, width: int = 8) -> None:
        self.down0, self.down1 = _Double(channels, width), _Double(width, 2 * width)
        self.middle = _Double(2 * width, 4 * width)
        self.widen1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up1 = _Double(4 * width, 2 * width)
        self.widen0 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up0 = _Double(2 * width, width)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes, h, w) of images (n, channels, h, w) whose extents are multiples of 4."""
        full = self.down0(x)
        half = self.down1(F.max_pool2d(full, 2))
        quarter = self.middle(F.max_pool2d(half, 2))
        half = self.up1(concat([self.widen1(quarter), half], 1))
        full = self.up0(concat([self.widen0(half), full], 1))
        return self.classifier(full)


def _task(folder: Path | None, quick: bool) -> Task:  # noqa: ARG001  the data are always there
    counts = (256, 64) if quick else (4000, 500)
    parts = [
        draw_canvases(part, count, seed) for seed, (part, count) in enumerate(zip(load_digits(), counts, strict=True))
    ]
    prepare = Compose(ToFloat(), Normalize(0.25, 0.25))
    datasets = [TensorDataset(part.pixels, part.masks) for part in parts]
    return Task(datasets[0], datasets[1], prepare, prepare, f"{counts[0]} pictures of digits, 48×48")


RECIPE = Recipe(
    network=UNet, load=_task, data="digits on canvases",
    loss=F.cross_entropy, optimizer=adamw(1e-2), schedule=one_cycle(),
    metric="mean IoU", metrics=lambda: {"mean IoU": MeanIoU(2)}, expected=0.85,
    epochs=6, quick_epochs=4, batch_size=32, minutes=1.5,
)  # fmt: skip
