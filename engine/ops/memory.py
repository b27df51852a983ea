"""Where the values of images lie in memory.

The engine's arrays have the batch first, but nothing obliges its elements to lie in that order. With the batch
innermost, what a window meets at one of its taps is one long run of memory per row instead of many short ones, and the
whole batch is one matrix product. So convolution puts the batch innermost where it is large enough; everything behind
it (NumPy's elementwise functions keep the order of their inputs) goes on in that order without knowing of it.
"""

from __future__ import annotations

import functools
import threading

import numpy as np

from edgec.engine.arrays import Array, DTypeLike

__all__ = [
    "BLOCK_BYTES", "SMALLEST_BATCH", "batch_last", "images", "new_images", "ordered_like", "scratch",
    "sum_per_channel", "sum_rows",
]  # fmt: skip

# Below this many images the runs would be too short for NumPy's inner loops.
SMALLEST_BATCH = 8
# The working set of a blocked loop: half of the level 2 cache of common cores, which are from 0.5 to 2 MiB.
BLOCK_BYTES = 1 << 19
# More is not kept between calls.
_LARGEST_SCRATCH_BYTES = 1 << 23
_HUGE_PAGE_BYTES = 1 << 21


def _keep_freed_memory() -> None:
    """Have the C library keep what a training step frees for the next one, and the system back it by huge pages.

    glibc returns freed memory to the system beyond a threshold that follows the largest block freed so far (up to
    32 MiB; from the top of the heap twice that); getting it back costs a page fault for every 4 KiB, a tenth of the
    time of a step. Once the first array has raised the threshold, the others come from the heap, where NumPy asks for
    huge pages (as for any array of 4 MiB), and what is allocated there later has them: a step meets more pages of
    4 KiB than the processor keeps the addresses of. (Nothing is touched here, so no memory is used; other C libraries
    do not care.)
    """
    np.empty(30 << 20, np.uint8)
    _ = np.empty(30 << 20, np.uint8), np.empty(27 << 20, np.uint8)


_keep_freed_memory()


def batch_last(x: Array) -> Array:
    """A view of `x` with its first axis last."""
    return x.transpose(*range(1, x.ndim), 0)


def images(x: Array) -> list[Array]:
    """The batch as contiguous arrays (c, *spatial, n): a single one, or one per image where there are few.

    It is a copy if `x` lies in memory in another order.
    """
    if len(x) >= SMALLEST_BATCH:
        return [np.ascontiguousarray(batch_last(x))]
    return [image[..., None] for image in np.ascontiguousarray(x)]


def new_images(shape: tuple[int, ...], dtype: DTypeLike, is_zero: bool = False) -> tuple[Array, list[Array]]:
    """An array of this shape, (n, c, *spatial), and the parts that `images` would give of it."""
    make = np.zeros if is_zero else np.empty
    if shape[0] >= SMALLEST_BATCH:
        made = make((*shape[1:], shape[0]), dtype)
        return made.transpose(-1, *range(made.ndim - 1)), [made]
    made = make(shape, dtype)
    return made, [image[..., None] for image in made]


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.areas: dict[str, Array] = {}


_scratch = _Scratch()


def scratch(name: str, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> Array:
    """Memory of this thread to work in, with what was left in it; valid until the same name is asked for again.

    Fresh memory costs a page fault for every 4 KiB, which is more than filling it.
    """
    size_bytes = shape[0] * shape[1] * dtype.itemsize
    area = _scratch.areas.get(name)
    if area is None or area.nbytes < size_bytes:
        area = _on_huge_pages(size_bytes) if size_bytes >= _HUGE_PAGE_BYTES // 2 else np.empty(size_bytes, np.uint8)
        if size_bytes <= _LARGEST_SCRATCH_BYTES:
            _scratch.areas[name] = area
    return area[:size_bytes].view(dtype).reshape(shape)


def _on_huge_pages(size_bytes: int) -> Array:
    """Memory that begins at a huge page. NumPy asks for them in arrays of 4 MiB; what is not met takes no memory."""
    space = np.empty(size_bytes + 2 * _HUGE_PAGE_BYTES, np.uint8)
    start = -space.ctypes.data % _HUGE_PAGE_BYTES
    return space[start : start + size_bytes]


def sum_rows(rows: Array) -> Array:
    """The sum of each row, by BLAS, whose loop is some times wider than that of NumPy's sum."""
    return np.asarray(np.matmul(rows, _ones(rows.shape[1], rows.dtype)))


@functools.lru_cache(maxsize=16)
def _ones(length: int, dtype: np.dtype[np.generic]) -> Array:
    return np.ones(length, dtype)


def sum_per_channel(x: Array) -> Array:
    """The sums over everything but axis 1, where possible along memory."""
    if x.dtype.itemsize < 4:  # half precision is summed in float32 and rounded once
        return sum_per_channel(x.astype(np.float32)).astype(x.dtype)
    last = batch_last(x)
    if last.flags.c_contiguous:
        return sum_rows(last.reshape(len(last), -1))
    return np.asarray(x.sum(axis=(0, *range(2, x.ndim))))


def ordered_like(x: Array, like: Array) -> Array:
    """`x`, copied if its elements lie in another order than those of `like`, which has the same shape."""
    if x.strides == like.strides and x.dtype == like.dtype:
        return x
    made = np.empty_like(like, x.dtype)
    made[...] = x
    return made
