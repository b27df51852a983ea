"""Datasets, batches, and the augmentation of batches (`transforms`)."""

from __future__ import annotations

from edgec.engine.data import transforms
from edgec.engine.data.datasets import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from edgec.engine.data.loader import Batch, DataLoader, DatasetError, collate

__all__ = [
    "Batch", "ConcatDataset", "DataLoader", "Dataset", "DatasetError", "Subset", "TensorDataset", "collate",
    "random_split", "transforms",
]  # fmt: skip
