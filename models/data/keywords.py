"""Spoken words: cepstral features of one-second recordings, in twelve classes.

Half of the 1,000 samples by which MLPerf Tiny judges keyword spotting: 49 frames of 10 coefficients, quantized to
int8. Source: Speech Commands v2 (P. Warden 2018, CC BY 4.0), prepared by MLPerf Tiny (Banbury et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec.engine.data import TensorDataset
from edgec.models.data.location import damaged, data_file, read_npz

__all__ = ["CLASSES", "MEAN", "SILENCE", "STD", "Keywords", "load_keywords"]

CLASSES = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")

SILENCE = CLASSES.index("silence")

# Of each coefficient over the training part, rounded: the first outweighs the others tenfold.
MEAN = np.array([-14.6, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.float32)
STD = np.array([24.0, 3.8, 2.6, 2.0, 1.7, 1.3, 1.2, 1.0, 1.0, 1.0], np.float32)


@dataclass(frozen=True)
class Keywords:
    """Features, float32 (N, 1, 49, 10), each coefficient of about unit deviation, and labels, int64 (N,)."""

    features: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def dataset(self) -> TensorDataset:
        """Batches of features and labels."""
        return TensorDataset(self.features, self.labels)


def load_keywords(folder: Path | None = None, fold: int = 0) -> tuple[Keywords, Keywords]:
    """Four fifths to train on and one fifth to test on; every class has its share in both.

    Args:
        folder: Where ``datasets/kws01_even.npz`` lies; None for the default data folder.
        fold: Which fifth is held out, 0 to 4.

    Raises:
        EdgecError: The file is missing or damaged.
    """
    path = data_file(
        folder,
        "datasets/kws01_even.npz",
        title="keyword spotting",
        source="an .npz of int8 features, labels, scale and zero_point",
    )
    quantized, labels, scale, zero_point = read_npz(path, ["features", "labels", "scale", "zero_point"])
    if quantized.shape[1:] != (49, 10) or labels.shape != quantized.shape[:1] or labels.max() >= len(CLASSES):
        raise damaged(path, f"features {quantized.shape}, labels {labels.shape}")
    features = (quantized.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    features = ((features - MEAN) / STD)[:, None]
    labels = labels.astype(np.int64)
    held_out = _fifth(labels, fold)
    return (
        Keywords(features[~held_out], labels[~held_out]),
        Keywords(features[held_out], labels[held_out]),
    )


def _fifth(labels: np.ndarray, fold: int) -> np.ndarray:
    """A mask of every fifth sample of each class, in an order that is mixed once and for all."""
    held_out = np.zeros(len(labels), bool)
    order = np.random.default_rng(0).permutation(len(labels))
    for label in np.unique(labels):
        held_out[order[labels[order] == label][fold::5]] = True
    return held_out
