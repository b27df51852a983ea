"""Datasets: anything with a length and samples by index."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.random import generator
from edgec.engine.tensor import Tensor

__all__ = ["ConcatDataset", "Dataset", "Sample", "Subset", "TensorDataset", "random_split"]

Value: TypeAlias = "Tensor | Array | float"
Sample: TypeAlias = "Value | Sequence[Value] | Mapping[str, Value]"


class Dataset(Protocol):
    """Anything with a length and samples by index.

    A sample is a tuple or a dict of arrays, tensors or numbers, or one of them. A dataset that can read many samples
    at once offers `batch(indices)` besides, which gives them stacked.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


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

    def batch(self, indices: Array) -> tuple[Array, ...]:
        return tuple(array[indices] for array in self.arrays)


class Subset:
    """Some samples of a dataset, in the order of `indices`."""

    def __init__(self, dataset: Dataset, indices: Iterable[int]) -> None:
        self.dataset, self.indices = dataset, np.asarray(list(indices), np.int64)
        if self.indices.size and not (-len(dataset) <= self.indices.min() and self.indices.max() < len(dataset)):
            raise IndexError(f"an index lies outside of the dataset of {len(dataset)} samples")
        read = getattr(dataset, "batch", None)
        if read is not None:
            self.batch: Callable[[Array], object] = lambda indices: read(self.indices[indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]


class ConcatDataset:
    """Datasets one after the other."""

    def __init__(self, datasets: Iterable[Dataset]) -> None:
        self.datasets = list(datasets)
        self.ends = list(itertools.accumulate(map(len, self.datasets)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} samples")
        index %= len(self)
        part = bisect.bisect_right(self.ends, index)
        return self.datasets[part][index - (self.ends[part - 1] if part else 0)]


def random_split(dataset: Dataset, sizes: Sequence[float], seed: int | None = None) -> list[Subset]:
    """The dataset in random parts without overlap.

    Args:
        dataset: What to split.
        sizes: Numbers of samples that add up to all, or shares that add up to 1.
        seed: The same seed gives the same parts; None draws from the engine's generator.
    """
    count = len(dataset)
    if all(isinstance(size, float) for size in sizes):
        if abs(sum(sizes) - 1.0) > 1e-6:
            raise ValueError(f"the shares must add up to 1, they are {list(sizes)}")
        ends = [round(share * count) for share in itertools.accumulate(sizes)]
    else:
        ends = [int(end) for end in itertools.accumulate(sizes)]
        if ends[-1] != count:
            raise ValueError(f"the sizes add up to {ends[-1]}, the dataset has {count} samples")
    order = (generator() if seed is None else np.random.default_rng(seed)).permutation(count)
    return [Subset(dataset, order[start:end].tolist()) for start, end in itertools.pairwise([0, *ends])]
