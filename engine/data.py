"""Datasets and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from edgec.engine.arrays import Array
from edgec.engine.random import generator
from edgec.engine.tensor import Tensor

__all__ = ["DataLoader", "Dataset", "TensorDataset"]


class Dataset(Protocol):
    """Anything with a length and samples by index; a sample is a tuple of arrays, tensors or numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sequence[Tensor | Array | float]: ...


class TensorDataset:
    """Arrays of equal length, cut along their first axis."""

    def __init__(self, *arrays: Tensor | Array) -> None:
        self.arrays = tuple(array.data if isinstance(array, Tensor) else np.asarray(array) for array in arrays)
        lengths = {len(array) for array in self.arrays}
        if len(lengths) != 1:
            raise ValueError(f"the arrays must have one length, they have {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> tuple[Array, ...]:
        return tuple(np.asarray(array[index]) for array in self.arrays)


class DataLoader:
    """Batches of a dataset as tuples of tensors, in order or shuffled anew in every pass.

    Args:
        dataset: What to cut.
        batch_size: Samples per batch.
        shuffle: Another order in every pass.
        drop_last: Leave out a last batch that is not full.
        seed: Fixes the sequence of orders; None draws them from the engine's generator (`edgec.engine.seed`).
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size}")
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, batch_size, shuffle, drop_last
        self._random = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        count = len(self.dataset)
        order = np.arange(count)
        if self.shuffle:
            (self._random or generator()).shuffle(order)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self._batch(order[start : start + self.batch_size])

    def _batch(self, indices: Array) -> tuple[Tensor, ...]:
        if isinstance(self.dataset, TensorDataset):
            return tuple(Tensor(array[indices]) for array in self.dataset.arrays)
        samples = [self.dataset[int(index)] for index in indices]
        return tuple(Tensor(_stacked(parts)) for parts in zip(*samples, strict=True))


def _stacked(parts: Sequence[Tensor | Array | float]) -> Array:
    if isinstance(parts[0], int | float):  # Python numbers as everywhere: float32 and int64
        return np.asarray(parts, np.float32 if isinstance(parts[0], float) else np.int64)
    return np.stack([part.data if isinstance(part, Tensor) else np.asarray(part) for part in parts])
