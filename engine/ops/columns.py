"""Dense convolution: windows copied into columns, and matrix products with those.

Neighbouring output rows meet the same input rows, so the columns are shifted copies along the inner axes only, kept
by input row: what one output row meets is then a contiguous piece of them. They are made for a few rows at a time,
which stay in the cache.

The gradient by the input is either a convolution of the output's gradient with the flipped kernel, whose columns
serve the gradient by the weights too, or, where there are strides, the sum of columns put back to where they would
have been taken from.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.ops.memory import BLOCK_BYTES, images, new_images, scratch
from edgec.engine.ops.products import products_into, sum_of_products_of_rows
from edgec.engine.ops.windows import Window

__all__ = ["correlate", "gradients"]

Index: TypeAlias = "tuple[Any, ...]"
# A leading dimension that is a power of two maps all rows of a matrix to the same few sets of the cache.
_SKEW_BYTES = 128
# Outputs in a row from which a product per row is worth its call.
_WIDE_ROW = 192


class Columns:
    """What the windows meet, as matrices of shape (kernel * channels, outputs), a few output rows at a time.

    Args:
        window: Its ``begins`` may be negative (they crop) and its ``ends`` are not looked at.
        channels: Of the input.
        batch: Images side by side in the columns.
        dtype: Of the columns.
        keeps_rows: Whether columns may be shared by output rows; otherwise there is one matrix per block.
    """

    def __init__(
        self, window: Window, channels: int, batch: int, dtype: np.dtype[Any], keeps_rows: bool = True
    ) -> None:
        self.window, self.channels = window, channels
        self.row_shape = (*window.output_shape[1:], batch)
        self.row_size = math.prod(self.row_shape)
        self.shares = keeps_rows and window.kernel[0] > 1 and window.dilations[0] == 1 and self.row_size >= _WIDE_ROW
        taps = math.prod(window.kernel)
        self.height = channels * taps
        outputs, stride, reach = window.output_shape[0], window.strides[0], window.kernel[0]
        skew = _SKEW_BYTES // dtype.itemsize
        if self.shares:
            width = -(-self.row_size // skew) * skew + skew
            row_bytes = channels * taps // reach * width * dtype.itemsize
            rows = max(reach, (4 * BLOCK_BYTES // row_bytes - reach) // stride + 1)
        else:
            rows = max(1, BLOCK_BYTES // max(self.height * self.row_size * dtype.itemsize, 1))
        self.rows = -(-outputs // -(-outputs // rows))
        if self.shares:
            kept = (self.rows - 1) * stride + reach
            shape = (kept * channels * taps // reach, width)
        else:
            width = self.rows * self.row_size
            shape = (self.height, -(-width // skew) * skew + skew)
        self._buffer = scratch("columns", shape, dtype)
        self._inner = _inner(window)
        self._clear_sides()

    def _clear_sides(self) -> None:
        """Zero what meets padding along the inner axes; no block writes there."""
        shaped = self._shared_view() if self.shares else self._shaped(0, self.rows)
        for tap, outputs, _ in self._inner[: math.prod(self.window.kernel[1:])]:
            of_tap: Index = (slice(None), *tap[1:])
            column = shaped[of_tap]
            for axis, place in enumerate(outputs):
                rest = (slice(None),) * (len(outputs) - axis)
                for beside in (slice(None, place.start), slice(place.stop, None)):
                    index: Index = (..., beside, *rest)
                    column[index] = 0

    def of(self, x: Array) -> Iterator[list[tuple[Array, slice]]]:
        """The matrices of each block, with their places in the flat output. Shape: x (channels, *spatial, batch)."""
        for start, stop in self.blocks():
            if self.shares:
                yield self._shared(x, start, stop)
            else:
                self._fill(x, start, stop)
                yield [(self.matrix(start, stop), slice(start * self.row_size, stop * self.row_size))]

    def blocks(self) -> Iterator[tuple[int, int]]:
        outputs = self.window.output_shape[0]
        for start in range(0, outputs, self.rows):
            yield start, min(start + self.rows, outputs)

    def matrix(self, start: int, stop: int) -> Array:
        """The block of these output rows, with what is in it."""
        return self._buffer[:, : (stop - start) * self.row_size]

    def _shared(self, x: Array, start: int, stop: int) -> list[tuple[Array, slice]]:
        stride, reach = self.window.strides[0], self.window.kernel[0]
        first = start * stride - self.window.begins[0]
        end = (stop - 1) * stride - self.window.begins[0] + reach
        low = min(max(first, 0), end)
        high = max(min(end, x.shape[1]), low)
        inner = self.window.kernel[1:]
        height = self.height // reach
        shaped = self._shared_view()
        shaped[: low - first] = 0
        shaped[high - first : end - first] = 0
        by_row = x.swapaxes(0, 1)[low:high]
        for tap, outputs, inputs in self._inner[: math.prod(inner)]:
            shaped[(slice(low - first, high - first), *tap[1:], slice(None), *outputs)] = by_row[:, :, *inputs]
        size, step = self.row_size, stride * height
        return [
            (self._buffer[at : at + self.height, :size], slice(row * size, (row + 1) * size))
            for row, at in zip(range(start, stop), range(0, (stop - start) * step, step), strict=True)
        ]

    def _shared_view(self) -> Array:
        matrix = self._buffer[:, : self.row_size]
        return matrix.reshape(-1, *self.window.kernel[1:], self.channels, *self.row_shape)

    def _fill(self, x: Array, start: int, stop: int) -> None:
        shaped = self._shaped(start, stop)
        for tap, outputs, inputs in self._inner:
            low, high, met = self.window.met(0, tap[0], start, stop)
            column = shaped[tap]
            if low > start:
                column[:, : low - start] = 0
            if high < stop:
                column[:, high - start :] = 0
            if low < high:
                column[:, low - start : high - start, *outputs] = x[:, met, *inputs]

    def add_back(self, x: Array, start: int, stop: int) -> None:
        """Add the block of these output rows to the elements of `x` that its columns are taken from."""
        shaped = self._shaped(start, stop)
        for tap, outputs, inputs in self._inner:
            low, high, met = self.window.met(0, tap[0], start, stop)
            if low < high:
                x[:, met, *inputs] += shaped[tap][:, low - start : high - start, *outputs]

    def _shaped(self, start: int, stop: int) -> Array:
        return self.matrix(start, stop).reshape(*self.window.kernel, self.channels, stop - start, *self.row_shape)


@functools.lru_cache(maxsize=256)
def _inner(window: Window) -> list[tuple[tuple[int, ...], Index, Index]]:
    """For each tap: its position, and the outputs and inputs that meet at it along all axes but the first."""
    inner = []
    for tap in itertools.product(*map(range, window.kernel)):
        met = [window.met(axis, tap[axis], 0, window.output_shape[axis]) for axis in range(1, len(tap))]
        inner.append((tap, tuple(slice(low, high) for low, high, _ in met), tuple(inputs for *_, inputs in met)))
    return inner


def correlate(x: Array, w: Array, window: Window, group: int) -> Array:
    """The sliding product. Shape: x (n, c, *input), w (m, c / group, *kernel); result (n, m, *output)."""
    y, outputs = new_images((len(x), len(w), *window.output_shape), x.dtype)
    for image, output in zip(images(x), outputs, strict=True):
        for piece, kernel, result in zip(_split(image, group), _split(w, group), _split(output, group), strict=True):
            _correlate(piece, _as_matrix(kernel), result, window)
    return y


def _split(array: Array, group: int) -> list[Array]:
    size = len(array) // group
    return [array[start : start + size] for start in range(0, len(array), size)] if group > 1 else [array]


def _as_matrix(w: Array) -> Array:
    """Weights in the order of the columns. Shape: w (m, c, *kernel); result (m, kernel * c)."""
    return np.moveaxis(w, 1, -1).reshape(len(w), -1)


def _correlate(image: Array, weights: Array, output: Array, window: Window) -> None:
    flat = output.reshape(len(output), -1)
    if window.is_pointwise:
        products_into(weights, [(image.reshape(len(image), -1), flat)])
        return
    for block in Columns(window, len(image), image.shape[-1], image.dtype).of(image):
        products_into(weights, [(matrix, flat[:, place]) for matrix, place in block])


def gradients(
    x: Array | None, w: Array | None, dy: Array, window: Window, group: int
) -> tuple[Array | None, Array | None]:
    """The gradients of `correlate` by x (if `w` is given) and by w (if `x` is given)."""
    n, m = dy.shape[:2]
    channels = w.shape[1] * group if w is not None else x.shape[1] if x is not None else 0
    flips = w is not None and _flipping_pays(window, channels, m)
    dx = dw = None
    d_images: list[Array] = []
    if w is not None:
        dx, d_images = new_images((n, channels, *window.input_shape), dy.dtype, is_zero=not flips)
    if x is not None:
        dw = np.zeros((m, channels // group, *window.kernel), dy.dtype)
    inputs = images(x) if x is not None else []
    for index, d_output in enumerate(images(dy)):
        image = _split(inputs[index], group) if x is not None else [None] * group
        d_image = _split(d_images[index], group) if w is not None else [None] * group
        kernel = _split(w, group) if w is not None else [None] * group
        d_kernel = _split(dw, group) if dw is not None else [None] * group
        for parts in zip(image, kernel, _split(d_output, group), d_image, d_kernel, strict=True):
            (_by_flipping if flips else _by_columns)(*parts, window)
    return dx, dw


def _flipping_pays(window: Window, channels: int, outputs: int) -> bool:
    """Whether columns of the output's gradient are cheaper than those of the input, made and put back."""
    if any(stride > 1 for stride in window.strides) or window.is_pointwise:
        return False
    return outputs * math.prod(window.input_shape) <= 3 * channels * math.prod(window.output_shape)


def _by_flipping(
    image: Array | None, w: Array | None, d_output: Array, d_image: Array | None, d_kernel: Array | None, window: Window
) -> None:
    """Write the gradient by the image, and add to that by the weights."""
    assert w is not None and d_image is not None
    reach = [(size - 1) * step for size, step in zip(window.kernel, window.dilations, strict=True)]
    begins = tuple(most - begin for most, begin in zip(reach, window.begins, strict=True))
    back = Window(
        window.output_shape, window.input_shape, window.kernel, window.strides, window.dilations, begins, begins
    )
    spatial = tuple(range(2, w.ndim))
    flipped = np.flip(w, spatial).swapaxes(0, 1)
    weights = _as_matrix(flipped)
    flat = d_image.reshape(len(d_image), -1)
    met = image.reshape(flat.shape) if image is not None else None
    total: Array | None = None
    for block in Columns(back, len(d_output), d_output.shape[-1], d_output.dtype).of(d_output):
        products_into(weights, [(matrix, flat[:, place]) for matrix, place in block])
        if met is not None:
            total = _add_products(total, [(matrix, met[:, place]) for matrix, place in block])
    if d_kernel is not None and total is not None:  # (flipped kernel * m, c)
        shaped = total.reshape(*window.kernel, len(d_output), -1)
        d_kernel += np.moveaxis(np.flip(shaped, tuple(range(len(spatial)))), (-2, -1), (0, 1))


def _by_columns(
    image: Array | None, w: Array | None, d_output: Array, d_image: Array | None, d_kernel: Array | None, window: Window
) -> None:
    """Add to the gradients by the image and by the weights."""
    flat = d_output.reshape(len(d_output), -1)
    if image is not None and d_kernel is not None:
        total: Array | None = None
        if window.is_pointwise:
            total = sum_of_products_of_rows([(image.reshape(len(image), -1), flat)])
        else:
            for block in Columns(window, len(image), image.shape[-1], image.dtype).of(image):
                total = _add_products(total, [(matrix, flat[:, place]) for matrix, place in block])
        if total is not None:  # (kernel * c, m)
            d_kernel += np.moveaxis(total.reshape(*window.kernel, -1, len(d_output)), (-1, -2), (0, 1))
    if w is None or d_image is None:
        return
    weights = _as_matrix(w).T
    if window.is_pointwise:
        products_into(weights, [(flat, d_image.reshape(len(d_image), -1))])
        return
    columns = Columns(window, len(d_image), d_output.shape[-1], d_output.dtype, keeps_rows=False)
    for start, stop in columns.blocks():
        place = slice(start * columns.row_size, stop * columns.row_size)
        products_into(weights, [(flat[:, place], columns.matrix(start, stop))])
        columns.add_back(d_image, start, stop)


def _add_products(total: Array | None, pairs: list[tuple[Array, Array]]) -> Array:
    product = sum_of_products_of_rows(pairs)
    return product if total is None else np.add(total, product, out=total)
