"""What each channel of a tensor is like over all samples, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChannelMoments"]


@dataclass
class ChannelMoments:
    """Sums, counts and largest absolute values along one axis.

    Attributes:
        axis: The axis of the channels.
        sums: float64 (channels,).
        squares: float64 (channels,), sums of squares.
        largest: float64 (channels,), the largest absolute values.
        count: Elements of each channel.
    """

    axis: int
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    largest: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, array: NDArray[np.generic]) -> None:
        """Count the elements of `array`."""
        axes = tuple(axis for axis in range(array.ndim) if axis != self.axis % array.ndim)
        if not self.count:
            self.sums, self.squares, self.largest = np.zeros((3, array.shape[self.axis]))
        self.sums += array.sum(axis=axes, dtype=np.float64)
        self.squares += np.square(array, dtype=np.float64).sum(axis=axes)
        self.largest = np.maximum(self.largest, np.maximum(array.max(axis=axes), -array.min(axis=axes)))
        self.count += array.size // max(len(self.sums), 1)

    @property
    def means(self) -> NDArray[np.float64]:
        """(channels,)"""
        return self.sums / max(self.count, 1)

    @property
    def mean_squares(self) -> NDArray[np.float64]:
        """(channels,)"""
        return self.squares / max(self.count, 1)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything in it, to be written to a file."""
        table = np.stack([self.sums, self.squares, self.largest])
        return {"table": table, "numbers": np.array([self.axis, self.count])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ChannelMoments:
        """What `to_arrays` gave."""
        axis, count = arrays["numbers"].tolist()
        sums, squares, largest = arrays["table"].astype(np.float64)
        return cls(axis, sums, squares, largest, count)
