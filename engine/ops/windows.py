"""Geometry of sliding windows: what convolution and pooling have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.engine.arrays import Array


@dataclass(frozen=True)
class Window:
    """A window over the spatial axes, everything spelled out.

    Attributes:
        input_shape, output_shape, kernel, strides, dilations: One number per spatial axis.
        begins, ends: Padding; the last windows of ceil mode are covered by larger ends.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """The spatial shape with its padding; a negative end is an unreached tail and stays."""
        return tuple(n + b + max(e, 0) for n, b, e in zip(self.input_shape, self.begins, self.ends, strict=True))

    @property
    def inner(self) -> tuple[Any, ...]:
        """Index of the input within the padded array."""
        return (..., *(slice(b, b + n) for n, b in zip(self.input_shape, self.begins, strict=True)))

    def pad(self, x: Array, value: float = 0.0) -> Array:
        """`x` with its spatial axes padded."""
        if self.padded_shape == self.input_shape:
            return x
        padded = np.full_like(x, value, shape=(*x.shape[:2], *self.padded_shape))
        padded[self.inner] = x
        return padded

    def along(self, axis: int) -> list[slice]:
        """For each kernel element along one axis: what it meets in the padded array."""
        outputs, stride, dilation = self.output_shape[axis], self.strides[axis], self.dilations[axis]
        return [
            slice(k * dilation, k * dilation + (outputs - 1) * stride + 1, stride) for k in range(self.kernel[axis])
        ]

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
        """For each kernel element: its position, and the index of what it meets in the padded array."""
        met = itertools.product(*(self.along(axis) for axis in range(len(self.kernel))))
        for tap, places in zip(itertools.product(*map(range, self.kernel)), met, strict=True):
            yield tap, (..., *places)

    def met(self, axis: int, tap: int, start: int, stop: int) -> tuple[int, int, slice]:
        """Which outputs from start to stop meet the input at this tap (the others meet padding), and what they meet."""
        stride = self.strides[axis]
        offset = tap * self.dilations[axis] - self.begins[axis]
        low = min(max(start, -(offset // stride)), stop)
        high = max(low, min(stop, (self.input_shape[axis] - 1 - offset) // stride + 1))
        first = low * stride + offset
        return low, high, slice(first, first + (high - low - 1) * stride + 1, stride) if high > low else slice(0, 0)

    def meetings(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """For each kernel element that meets the input: its position, the outputs, and what they meet, unpadded."""
        for tap in itertools.product(*map(range, self.kernel)):
            ranges = [self.met(axis, step, 0, self.output_shape[axis]) for axis, step in enumerate(tap)]
            if all(low < high for low, high, _ in ranges):
                yield tap, tuple(slice(low, high) for low, high, _ in ranges), tuple(met for *_, met in ranges)

    @property
    def is_disjoint(self) -> bool:
        """No input is met by two windows."""
        return all(
            (kernel - 1) * dilation < stride
            for kernel, dilation, stride in zip(self.kernel, self.dilations, self.strides, strict=True)
        )

    @property
    def is_partition(self) -> bool:
        """Every input is met by exactly one window."""
        exact = (o * s == n for o, s, n in zip(self.output_shape, self.strides, self.input_shape, strict=True))
        return self.kernel == self.strides and all(exact) and not any(self.begins) and set(self.dilations) == {1}

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 kernel with stride 1 and no padding: each output is one input pixel."""
        return self.output_shape == self.input_shape and all(k == 1 for k in self.kernel) and not any(self.begins)


def resolve_window(
    input_shape: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: bool = False,
) -> Window:
    """Apply the ONNX defaults, auto_pad and ceil_mode."""
    rank = len(input_shape)
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    begins, ends = [0] * rank, [0] * rank
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output = [-(-n // s) for n, s in zip(input_shape, strides, strict=True)]
        for axis in range(rank):
            total = max((output[axis] - 1) * strides[axis] + extents[axis] - input_shape[axis], 0)
            begins[axis] = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            ends[axis] = total - begins[axis]
    else:
        if auto_pad == "NOTSET" and pads:
            begins, ends = list(pads[:rank]), list(pads[rank:])
        output = []
        for axis in range(rank):
            room = input_shape[axis] + begins[axis] + ends[axis] - extents[axis]
            count = (-(-room // strides[axis]) if ceil_mode else room // strides[axis]) + 1
            # A window must start inside the input or its left padding, not in the right padding.
            if ceil_mode and (count - 1) * strides[axis] >= input_shape[axis] + begins[axis]:
                count -= 1
            output.append(count)
    if any(size < 1 for size in output):
        raise ValueError(f"a window of {tuple(kernel)} does not fit into an input of {tuple(input_shape)}")
    reach = [
        (output[axis] - 1) * strides[axis] + extents[axis] - input_shape[axis] - begins[axis] for axis in range(rank)
    ]
    return Window(tuple(input_shape), tuple(output), tuple(kernel), strides, dilations, tuple(begins), tuple(reach))
