"""How often the values of a tensor fall where: kept in constant memory, however many there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram"]

MOST_BINS = 4096
_FIRST_BINS = MOST_BINS // 2
_LEAST_WIDTH = 1e-30


@dataclass
class Histogram:
    """Counts of values in bins of one width, one of which begins at 0.

    When a value lies further out than the bins can reach, neighbours are merged two by two, so that every count stays
    exact and zero a border between bins. There are at least 2048 bins between the least and the largest value, once
    these differ.

    Attributes:
        counts: int64 (bins,).
        first: Index of the first bin; bin i holds the values from i · width up to (i + 1) · width.
        width: Of a bin; 0 as long as all values are 0.
        zeros: Values seen while the width was 0.
        low: The least value.
        high: The largest value.
        samples: How many arrays were added.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first: int = 0
    width: float = 0.0
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf
    samples: int = 0

    def add(self, array: NDArray[np.generic]) -> None:
        """Count the elements of `array`, which must be finite."""
        values = array.reshape(-1)
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.samples += 1
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self.width:
            span = max(high, 0.0) - min(low, 0.0)
            if span < _LEAST_WIDTH * _FIRST_BINS:
                self.zeros += values.size
                return
            self.width = span / _FIRST_BINS
            self.first, self.counts = 0, np.array([self.zeros], np.int64)
        self._reach(low, high)
        # In double precision: the same value must fall into the same bin before and after bins are merged.
        bins = np.floor(values.astype(np.float64) / self.width).astype(np.int64) - self.first
        self.counts += np.bincount(bins, minlength=len(self.counts))

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum()) + (0 if self.width else self.zeros)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Borders of the bins, (bins + 1,)."""
        return np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64) * self.width

    @property
    def centers(self) -> NDArray[np.float64]:
        """(bins,)"""
        return self.edges[:-1] + self.width / 2

    def _reach(self, low: float, high: float) -> None:
        """Have bins for the values from `low` to `high`."""
        while True:
            begin = min(self.first, int(np.floor(low / self.width)))
            end = max(self.first + len(self.counts), int(np.floor(high / self.width)) + 1)
            if end - begin <= MOST_BINS:
                break
            self._merge()
        before, after = self.first - begin, end - self.first - len(self.counts)
        if before or after:
            self.counts = np.pad(self.counts, (before, after))
            self.first = begin

    def _merge(self) -> None:
        """Make one bin of two: 2i and 2i + 1 become i."""
        before = self.first % 2
        after = (before + len(self.counts)) % 2
        self.counts = np.pad(self.counts, (before, after)).reshape(-1, 2).sum(axis=1)
        self.first = (self.first - before) // 2
        self.width *= 2

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything in it, to be written to a file."""
        numbers = np.array([self.first, self.width, self.zeros, self.low, self.high, self.samples], np.float64)
        return {"counts": self.counts, "numbers": numbers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Histogram:
        """What `to_arrays` gave."""
        first, width, zeros, low, high, samples = arrays["numbers"].astype(np.float64).tolist()
        counts = arrays["counts"].astype(np.int64)
        return cls(counts, int(first), width, int(zeros), low, high, int(samples))
