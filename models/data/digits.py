"""Handwritten digits, bundled with edgec.

The 1,797 images (8×8, grey levels 0 to 16) of the test part of "Optical Recognition of Handwritten Digits", E. Alpaydin
and C. Kaynak, UCI Machine Learning Repository, 1998, CC BY 4.0 (doi 10.24432/C50P49).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np

from edgec.engine.data import TensorDataset
from edgec.models.data.images import Images

__all__ = ["Digits", "enlarged_digits", "load_digits"]


@dataclass(frozen=True)
class Digits:
    """Images, float32 (N, 1, 8, 8) in [0, 1], and labels, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def dataset(self) -> TensorDataset:
        """Batches of images and labels."""
        return TensorDataset(self.images, self.labels)


def load_digits() -> tuple[Digits, Digits]:
    """The first two thirds of the data to train on, and the last third, other writers mostly, to test on."""
    with (resources.files("edgec.models.data") / "digits.npz").open("rb") as stream, np.load(stream) as file:
        images = (file["images"].astype(np.float32) / 16)[:, None]
        labels = file["labels"].astype(np.int64)
    split = len(labels) * 2 // 3
    return Digits(images[:split], labels[:split]), Digits(images[split:], labels[split:])


def enlarged_digits(channels: int = 1, size: int = 28) -> tuple[Images, Images]:
    """The digits in the shape of larger images: each pixel a square of them, with an empty border."""
    parts = []
    for part in load_digits():
        large = part.images.repeat(size // 8, 2).repeat(size // 8, 3)
        border = size - large.shape[-1]
        widths = (border // 2, border - border // 2)
        padded = np.pad(large, ((0, 0), (0, 0), widths, widths))
        parts.append(Images((padded * 255).astype(np.uint8).repeat(channels, 1), part.labels))
    return parts[0], parts[1]
