"""Reading an image between its pixels: GridSample, AffineGrid, DeformConv."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Sample
from edgec.engine.samples import normal, uniform
from edgec.engine.tensor import Tensor

_CUBIC_A = -0.75


def _reflect(place: Tensor, low: float, high: float) -> Tensor:
    """Fold the line back and forth between two borders."""
    span = high - low
    if span <= 0:
        return place * 0.0 + low
    distance = abs(place - low)
    rest = distance - p.call("Floor", distance * (0.5 / span)) * (2 * span)
    return low + span - abs(rest - span)


def _inside(place: Tensor, size: int, padding: str, align_corners: bool) -> Tensor:
    """A place, or the number of a pixel as a float, brought into the image; zeros are masked elsewhere."""
    if padding == "border":
        return p.call("Clip", place, p.full_like(place, 0.0), p.full_like(place, size - 1.0))
    if padding == "reflection":
        return _reflect(place, 0.0, size - 1.0) if align_corners else _reflect(place, -0.5, size - 0.5)
    return place


def _taps(fraction: Tensor, mode: str) -> list[tuple[int, Tensor | None]]:
    """Steps to the pixels that take part along one axis, and their weights."""
    if mode == "nearest":
        return [(0, None)]
    if mode == "linear":
        return [(0, 1.0 - fraction), (1, fraction)]
    a = _CUBIC_A
    taps: list[tuple[int, Tensor | None]] = []
    for step in (-1, 0, 1, 2):
        d = fraction + 1.0 if step == -1 else fraction if step == 0 else float(step) - fraction
        near = ((d * (a + 2) - (a + 3)) * d * d) + 1.0
        far = ((d - 5.0) * d + 8.0) * d * a - 4.0 * a
        taps.append((step, near if step in (0, 1) else far))
    return taps


def sample_image(
    x: Tensor, places: Sequence[Tensor], mode: str, padding: str = "zeros", align_corners: bool = False
) -> Tensor:
    """The image at real places. Shape: x (n, c, *sizes), one (n, points) per spatial axis; result (n, c, points)."""
    n, channels, *sizes = x.shape
    axes: list[list[tuple[Tensor, Tensor | None, Tensor]]] = []
    for place, size in zip(places, sizes, strict=True):
        if mode == "nearest":
            place = p.call("Round", place)
        if mode != "cubic":  # there it is the pixels that are brought inside, one by one
            place = _inside(place, size, padding, align_corners)
        base = p.call("Floor", place)
        taps = []
        for step, share in _taps(place - base, mode):
            pixel = base + float(step)
            is_there = (pixel >= 0.0) & (pixel <= size - 1.0)
            within = _inside(_inside(pixel, size, padding, align_corners), size, "border", align_corners)
            taps.append((p.cast(within, np.int64), share, is_there))
        axes.append(taps)
    flat = p.reshape(x, [n, channels, int(np.prod(sizes))])
    total: Tensor | None = None
    for corner in itertools.product(*axes):
        index: Tensor | None = None
        weight: Tensor | None = None
        for (pixel, factor, is_there), size in zip(corner, sizes, strict=True):
            index = pixel if index is None else index * size + pixel
            if padding == "zeros":
                there = p.cast(is_there, x.dtype)
                factor = there if factor is None else factor * there
            if factor is not None:
                weight = factor if weight is None else weight * factor
        assert index is not None
        spread = p.expand(p.unsqueeze(index, [1]), [n, channels, index.shape[1]])
        met = p.call("GatherElements", flat, spread, axis=2)
        met = met if weight is None else met * p.unsqueeze(weight, [1])
        total = met if total is None else total + met
    assert total is not None
    return total


_MODES = {"bilinear": "linear", "bicubic": "cubic"}  # the names until opset 19


@defined("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """The image at the places of the grid, which go from -1 to 1 over it, the last axis of the image first.

    Shape: x (n, c, *sizes), grid (n, *outputs, rank); result (n, c, *outputs).
    """
    n, channels, *sizes = x.shape
    rank, outputs = len(sizes), grid.shape[1:-1]
    points = int(np.prod(outputs))
    places = []
    for axis, size in enumerate(sizes):
        at = p.slice_axes(grid, [rank - 1 - axis], [rank - axis], [grid.ndim - 1], [1])
        at = p.reshape(at, [n, points]) + 1.0
        places.append(at * (0.5 * (size - 1)) if align_corners else (at * float(size) - 1.0) * 0.5)
    y = sample_image(x, places, _MODES.get(mode, mode), padding_mode, bool(align_corners))
    return p.reshape(y, [n, channels, *outputs])


def _grid_samples() -> list[Sample]:
    x, grid = normal(2, 2, 4, 5), uniform(2, 3, 2, 2, low=-0.9, high=0.9)
    wide = uniform(2, 3, 3, 2, low=-1.9, high=1.9)
    return [
        Sample([x, grid]),
        *[Sample([x, wide], {"mode": mode, "padding_mode": padding, "align_corners": align}, order=1, varied=[0],
                 tolerance=1e-4)
          for mode in ("linear", "nearest", "cubic") for padding in ("zeros", "border", "reflection")
          for align in (0, 1)],
        Sample([x, grid], {"mode": "cubic"}, order=1, tolerance=1e-4),
        Sample([normal(1, 1, 3, 4, 2), uniform(1, 2, 2, 2, 3, low=-0.9, high=0.9)], order=1),
        Sample([x[:0], grid[:0]], reference="", varied=()),
        Sample([x, wide * 1e3], {"padding_mode": "border"}, varied=()),
    ]  # fmt: skip


grid_sample.samples = _grid_samples


@defined("AffineGrid")
def affine_grid(theta: Tensor, size: Tensor, *, align_corners: int = 0) -> Tensor:
    """The grid, for GridSample, of an affine map of each image.

    Shape: theta (n, rank, rank + 1), size is (n, c, *outputs); result (n, *outputs, rank).
    """
    outputs = [int(length) for length in size.data[2:]]
    rank = len(outputs)
    axes = []
    for length in outputs:
        step = np.arange(length, dtype=np.float64)
        place = step * (2.0 / max(length - 1, 1)) - 1.0 if align_corners else (2.0 * step + 1.0) / length - 1.0
        axes.append(place)
    mesh = np.meshgrid(*axes, indexing="ij")
    points = np.stack([*reversed(mesh), np.ones_like(mesh[0])], -1).reshape(-1, rank + 1).astype(theta.dtype)
    y = p.matmul(p.constant(points), p.swap_axes(theta, 1, 2))
    return p.reshape(y, [theta.shape[0], *outputs, rank])


affine_grid.samples = lambda: [
    Sample([normal(2, 2, 3), np.array([2, 1, 3, 4])]),
    Sample([normal(1, 3, 4), np.array([1, 1, 2, 3, 2])], {"align_corners": 1}, order=1),
    Sample([normal(2, 2, 3) * 1e6, np.array([2, 1, 2, 2])], varied=()),
    Sample([normal(0, 2, 3), np.array([0, 1, 2, 2])], reference="", varied=()),
]


@defined("DeformConv")
def deform_conv(
    x: Tensor,
    w: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """A convolution whose taps are moved by an offset each, per output pixel, and weighed by a mask.

    Shape: x (n, c, *sizes), w (m, c / group, *kernel), offset (n, offset_group * taps * rank, *outputs),
    mask (n, offset_group * taps, *outputs). Source: Dai et al. 2017, Zhu et al. 2019.
    """
    n, channels, *sizes = x.shape
    rank = len(sizes)
    kernel, outputs = list(kernel_shape or w.shape[2:]), offset.shape[2:]
    taps, points = int(np.prod(kernel)), int(np.prod(outputs))
    steps, spacing, begins = list(strides or [1] * rank), list(dilations or [1] * rank), list(pads or [0] * rank)
    moved = p.reshape(offset, [n * offset_group, taps, rank, points])
    places = []
    for axis in range(rank):
        shape = [-1 if index == axis else 1 for index in range(rank)]
        tap = np.broadcast_to((np.arange(kernel[axis]) * spacing[axis]).reshape(shape), kernel).reshape(taps, 1)
        out = np.broadcast_to((np.arange(outputs[axis]) * steps[axis]).reshape(shape), outputs).reshape(1, points)
        at = p.constant((tap + out - begins[axis]).astype(x.dtype))
        by = p.squeeze(p.slice_axes(moved, [axis], [axis + 1], [2], [1]), [2])
        places.append(p.reshape(by + at, [n * offset_group, taps * points]))
    grouped = p.reshape(x, [n * offset_group, channels // offset_group, *sizes])
    met = p.reshape(sample_image(grouped, places, "linear"), [n, offset_group, channels // offset_group, taps, points])
    if mask is not None:
        met = met * p.reshape(mask, [n, offset_group, 1, taps, points])
    columns = p.reshape(met, [n, group, channels // group * taps, points])
    weights = p.reshape(w, [group, w.shape[0] // group, channels // group * taps])
    y = p.reshape(p.matmul(weights, columns), [n, w.shape[0], *outputs])
    return y if bias is None else y + p.reshape(bias, [-1, *[1] * rank])


deform_conv.samples = lambda: [
    Sample([normal(1, 2, 4, 4), normal(3, 2, 2, 2), uniform(1, 8, 3, 3, low=0.1, high=0.9), normal(3)],
           tolerance=1e-4, order=1),
    Sample([normal(2, 4, 4, 5), normal(4, 2, 2, 2), uniform(2, 16, 2, 2, low=0.1, high=0.4), normal(4),
            uniform(2, 8, 2, 2)],
           {"group": 2, "offset_group": 2, "strides": [2, 2], "dilations": [1, 2]}, tolerance=1e-4, order=1),
    Sample([normal(1, 1, 3, 3), normal(1, 1, 2, 2), uniform(1, 8, 4, 4, low=0.1, high=0.9)], {"pads": [1, 1, 1, 1]},
           tolerance=1e-4, order=2),
    Sample([normal(1, 1, 3, 3), normal(1, 1, 2, 2), normal(1, 8, 2, 2) * 1e3], varied=()),
    Sample([normal(0, 1, 3, 3), normal(1, 1, 2, 2), normal(0, 8, 2, 2)], reference="", varied=()),
]  # fmt: skip
