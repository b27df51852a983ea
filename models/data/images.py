"""Labelled images, the pixels as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.engine.data import TensorDataset

__all__ = ["Images"]


@dataclass(frozen=True)
class Images:
    """Pixels, uint8 (N, C, H, W), and labels, int64 (N,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def dataset(self) -> TensorDataset:
        """Batches of pixels and labels."""
        return TensorDataset(self.pixels, self.labels)
