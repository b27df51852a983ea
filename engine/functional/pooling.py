"""Pools over windows of one, two or three spatial axes, and adaptive pools to a fixed output size."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.functional.sizes import Size, pads_of, sizes_of
from edgec.engine.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
]  # fmt: skip


def _max_pool(
    rank: int, x: Tensor, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool
) -> Tensor:
    return p.call(
        "MaxPool",
        x,
        kernel_shape=sizes_of(kernel_size, rank),
        strides=sizes_of(kernel_size if stride is None else stride, rank),
        pads=pads_of(padding, rank),
        dilations=sizes_of(dilation, rank),
        ceil_mode=int(ceil_mode),
    )


def max_pool1d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`stride` None means the kernel's size. Shape: x (n, c, l)."""
    return _max_pool(1, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`stride` None means the kernel's size. Shape: x (n, c, h, w)."""
    return _max_pool(2, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`stride` None means the kernel's size. Shape: x (n, c, d, h, w)."""
    return _max_pool(3, x, kernel_size, stride, padding, dilation, ceil_mode)


def _avg_pool(
    rank: int,
    x: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    return p.call(
        "AveragePool",
        x,
        kernel_shape=sizes_of(kernel_size, rank),
        strides=sizes_of(kernel_size if stride is None else stride, rank),
        pads=pads_of(padding, rank),
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def avg_pool1d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`stride` None means the kernel's size. Shape: x (n, c, l)."""
    return _avg_pool(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`stride` None means the kernel's size. Shape: x (n, c, h, w)."""
    return _avg_pool(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool3d(
    x: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """`stride` None means the kernel's size. Shape: x (n, c, d, h, w)."""
    return _avg_pool(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


# --- adaptive: output i covers the inputs from floor(i n / size) to ceil((i + 1) n / size) ---


def _windows(length: int, size: int) -> list[tuple[int, int]]:
    return [(index * length // size, -(-(index + 1) * length // size)) for index in range(size)]


def adaptive_avg_pool1d(x: Tensor, output_size: Size) -> Tensor:
    """Average to a fixed output size. Shape: x (n, c, l)."""
    return _adaptive_avg_pool(1, x, output_size)


def adaptive_avg_pool2d(x: Tensor, output_size: Size) -> Tensor:
    """Average to a fixed output size. Shape: x (n, c, h, w).

    A size that divides the input's is an AveragePool. Otherwise the windows differ and overlap, but stay a product of
    intervals, so the average is one matrix product per axis.
    """
    return _adaptive_avg_pool(2, x, output_size)


def _adaptive_avg_pool(rank: int, x: Tensor, output_size: Size) -> Tensor:
    sizes, lengths = sizes_of(output_size, rank), x.shape[2:]
    if all(size == 1 for size in sizes):
        return p.call("GlobalAveragePool", x)
    if all(length % size == 0 for length, size in zip(lengths, sizes, strict=True)):
        return _avg_pool(rank, x, [n // size for n, size in zip(lengths, sizes, strict=True)], None, 0, False, True)
    y = p.matmul(x, p.transpose(_averaging(lengths[-1], sizes[-1], x)))
    return y if rank == 1 else p.matmul(_averaging(lengths[0], sizes[0], x), y)


def _averaging(length: int, size: int, like: Tensor) -> Tensor:
    """The matrix (size, length) that averages each window."""
    matrix = np.zeros((size, length), like.dtype)
    for row, (start, stop) in zip(matrix, _windows(length, size), strict=True):
        row[start:stop] = 1.0 / (stop - start)
    return p.constant(matrix)


def adaptive_max_pool1d(x: Tensor, output_size: Size) -> Tensor:
    """The maximum to a fixed output size. Shape: x (n, c, l)."""
    return _adaptive_max_pool(1, x, output_size)


def adaptive_max_pool2d(x: Tensor, output_size: Size) -> Tensor:
    """The maximum to a fixed output size. Shape: x (n, c, h, w)."""
    return _adaptive_max_pool(2, x, output_size)


def _adaptive_max_pool(rank: int, x: Tensor, output_size: Size) -> Tensor:
    sizes, lengths = sizes_of(output_size, rank), x.shape[2:]
    if all(size == 1 for size in sizes):
        return p.call("GlobalMaxPool", x)
    if all(length % size == 0 for length, size in zip(lengths, sizes, strict=True)):
        return _max_pool(rank, x, [n // size for n, size in zip(lengths, sizes, strict=True)], None, 0, 1, False)
    for axis, length, size in zip(range(2, 2 + rank), lengths, sizes, strict=True):
        windows = _windows(length, size)
        widest = max(stop - start for start, stop in windows)
        # Shorter windows repeat their last element, which does not change the maximum.
        indices = [[min(start + offset, stop - 1) for offset in range(widest)] for start, stop in windows]
        gathered = p.reshape(
            p.gather(x, p.int64([index for window in indices for index in window]), axis),
            [*x.shape[:axis], size, widest, *x.shape[axis + 1 :]],
        )
        x = p.reduce("ReduceMax", gathered, [axis + 1])
    return x
