"""Batches: shuffled, stacked, augmented, and read ahead in threads, all under one seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.data.datasets import Dataset, Sample, Value
from edgec.engine.random import generator
from edgec.engine.tensor import Tensor
from edgec.errors import EdgecError

if TYPE_CHECKING:
    import threading

__all__ = ["Batch", "Collate", "DataLoader", "DatasetError", "Transform", "collate"]

# A tuple or a dict of tensors, or one tensor: whatever the samples are.
Batch: TypeAlias = Any
# The same of arrays, before they become tensors.
Arrays: TypeAlias = Any
Collate: TypeAlias = Callable[[list[Sample]], Arrays]
# As text: numpy.random is loaded when it is needed.
Transform: TypeAlias = "Callable[[Arrays, np.random.Generator], Arrays]"


class DatasetError(EdgecError):
    """A sample could not be read, or the samples of a batch do not fit together."""


class _StoppedError(Exception):
    """The loader was left while a thread was still reading."""


class DataLoader:
    """Batches of a dataset, in order or shuffled anew in every pass.

    With a seed, order and augmentation are a function of the seed and the number of the pass, whatever the number of
    threads; `state_dict` holds where that stands.

    Args:
        dataset: What to cut.
        batch_size: Samples per batch.
        shuffle: Another order in every pass.
        drop_last: Leave out a last batch that is not full.
        seed: Fixes orders and augmentation; None draws a new one per pass from the engine's generator.
        transform: Changes each batch of arrays with a generator of its own; see `edgec.engine.data.transforms`.
        collate: Makes a batch of arrays from a list of samples.
        workers: Threads that read ahead; 0 reads when the batch is asked for. NumPy, file access and decoders let
            other threads run, pure Python does not.
        prefetch: Batches to be ready or under way for each worker.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        *,
        transform: Transform | None = None,
        collate: Collate | None = None,
        workers: int = 0,
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size}")
        if workers < 0 or prefetch < 1:
            raise ValueError(f"workers must not be negative and prefetch positive, not {workers} and {prefetch}")
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, batch_size, shuffle, drop_last
        self.seed, self.transform, self.collate = seed, transform, collate
        self.workers, self.prefetch = workers, prefetch
        self.passes = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Batch]:
        entropy = self._entropy()
        count = len(self.dataset)
        order = np.random.default_rng([*entropy, 0]).permutation(count) if self.shuffle else np.arange(count)
        parts = [order[start : start + self.batch_size] for start in range(0, count, self.batch_size)][: len(self)]
        tasks = [(part, [*entropy, 1 + number]) for number, part in enumerate(parts)]
        read_all = self._read_here if self.workers == 0 else self._read_ahead
        return map(_to_tensors, read_all(tasks))

    def state_dict(self) -> dict[str, int]:
        """Which pass comes next; plain values that JSON can hold."""
        return {"passes": self.passes}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.passes = state["passes"]

    def _entropy(self) -> list[int]:
        """What the random numbers of this pass follow from."""
        number, self.passes = self.passes, self.passes + 1
        if self.seed is not None:
            return [self.seed, number]
        is_random = self.shuffle or self.transform is not None
        return [int(generator().integers(2**62)), number] if is_random else [0, number]

    def _read(self, indices: Array, entropy: Sequence[int], stopped: threading.Event | None = None) -> Arrays:
        at_once = getattr(self.dataset, "batch", None) if self.collate is None else None
        if at_once is not None:
            arrays = at_once(indices)
        else:
            samples = []
            for index in indices.tolist():
                if stopped is not None and stopped.is_set():
                    raise _StoppedError
                samples.append(self._sample(index))
            arrays = (self.collate or collate)(samples)
        return arrays if self.transform is None else self.transform(arrays, np.random.default_rng(entropy))

    def _sample(self, index: int) -> Sample:
        try:
            return self.dataset[index]
        except Exception as err:
            raise DatasetError(
                f"sample {index} could not be read: {type(err).__name__}: {err}",
                where=f"{type(self.dataset).__name__} of {len(self.dataset)} samples",
                fix=f"see what dataset[{index}] does",
            ) from err

    def _read_here(self, tasks: list[tuple[Array, list[int]]]) -> Iterator[Arrays]:
        return (self._read(indices, entropy) for indices, entropy in tasks)

    def _read_ahead(self, tasks: list[tuple[Array, list[int]]]) -> Iterator[Arrays]:
        """Batches in order, from threads that are gone when this generator ends, for whatever reason."""
        import threading
        from concurrent.futures import Future, ThreadPoolExecutor

        stopped = threading.Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="edgec-loader")
        waiting: deque[Future[Arrays]] = deque()
        try:
            for indices, entropy in tasks:
                waiting.append(pool.submit(self._read, indices, entropy, stopped))
                if len(waiting) >= self.workers * self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def collate(samples: list[Sample]) -> Arrays:
    """Stack samples: tuples to a tuple of arrays, dicts to a dict of arrays, anything else to one array.

    Raises:
        DatasetError: The samples differ in their keys, lengths or shapes.
    """
    first = samples[0]
    try:
        if isinstance(first, Mapping):
            if any(not isinstance(sample, Mapping) or sample.keys() != first.keys() for sample in samples):
                raise ValueError("the dicts have different keys")
            return {key: _stacked([sample[key] for sample in samples]) for key in first}  # type: ignore[index,call-overload]
        if isinstance(first, tuple | list):
            return tuple(_stacked(parts) for parts in zip(*samples, strict=True))
        return _stacked(samples)  # type: ignore[arg-type]
    except ValueError as err:
        raise DatasetError(
            f"the samples of a batch do not fit together: {err}",
            fix="give every sample the same shapes, or pad them in a collate function of your own",
        ) from err


def _stacked(parts: Sequence[Value]) -> Array:
    if isinstance(parts[0], int | float):  # Python numbers as everywhere: float32 and int64
        return np.asarray(parts, np.float32 if isinstance(parts[0], float) else np.int64)
    return np.stack([part.data if isinstance(part, Tensor) else np.asarray(part) for part in parts])


def _to_tensors(arrays: Arrays) -> Batch:
    if isinstance(arrays, Mapping):
        return {key: _to_tensors(value) for key, value in arrays.items()}
    if isinstance(arrays, tuple | list):
        return tuple(_to_tensors(value) for value in arrays)
    return arrays if isinstance(arrays, Tensor) else Tensor(np.asarray(arrays))
