"""Regions of an image and boxes: RoiAlign, MaxRoiPool, NonMaxSuppression."""

from __future__ import annotations

import math

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Sample, primitive
from edgec.engine.samples import distinct, integers, normal, uniform
from edgec.engine.tensor import Tensor


def _bin_taps(start: float, length: float, bins: int, ratio: int, size: int) -> tuple[Array, Array]:
    """The pixels that a row of bins reads along one axis, and their weights. Shape: (bins, samples, 2)."""
    samples = ratio if ratio > 0 else max(math.ceil(length / bins), 1)
    step = length / bins
    place = start + step * (np.arange(bins)[:, None] + (np.arange(samples) + 0.5) / samples)
    is_near = (place >= -1.0) & (place <= size)
    place = np.clip(place, 0.0, size - 1.0)
    low = np.minimum(np.floor(place), size - 1).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    weight = np.stack([1.0 - (place - low), place - low], -1) * is_near[..., None]
    return np.stack([low, high], -1), weight


def _axis_matrix(pixels: Array, weights: Array, size: int) -> Array:
    """The mean over the samples of each bin as a matrix. Shape: (bins, size)."""
    matrix = np.zeros((pixels.shape[0], size))
    np.add.at(matrix, (np.arange(pixels.shape[0])[:, None, None], pixels), weights / pixels.shape[1])
    return matrix


def _largest_product(image: Tensor, taps: list[tuple[Array, Array]], size: tuple[int, int]) -> Tensor:
    """The largest weighted pixel per bin, corners and samples alike, as the operator's reference has it."""
    (rows, row_weights), (columns, column_weights) = taps
    index = rows.reshape(rows.shape[0], 1, -1, 1) * size[1] + columns.reshape(1, columns.shape[0], 1, -1)
    weight = row_weights.reshape(rows.shape[0], 1, -1, 1) * column_weights.reshape(1, columns.shape[0], 1, -1)
    shape = (*index.shape[:2], -1)
    met = p.gather(p.reshape(image, [image.shape[0], -1]), p.constant(index.reshape(shape)), 1)
    return p.reduce("ReduceMax", met * p.constant(weight.reshape(shape).astype(image.dtype)), [-1])


@defined("RoiAlign")
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """The mean (or maximum) of interpolated pixels in the bins of each region.

    The gradient goes to the image; the regions are taken as given, as in other frameworks.

    Shape: x (n, c, h, w), rois (count, 4) as x1, y1, x2, y2; result (count, c, output_height, output_width).
    Source: ONNX RoiAlign-16; He et al. 2017.
    """
    height, width = x.shape[2:]
    is_half_pixel = coordinate_transformation_mode == "half_pixel"
    shift = 0.5 if is_half_pixel else 0.0
    results = []
    for roi, image in zip(rois.data.astype(np.float64), batch_indices.data, strict=True):
        left, top, right, bottom = roi * spatial_scale - shift
        sizes = [bottom - top, right - left]
        if not is_half_pixel:  # regions of less than a pixel count as one
            sizes = [max(size, 1.0) for size in sizes]
        taps = [
            _bin_taps(top, sizes[0], output_height, sampling_ratio, height),
            _bin_taps(left, sizes[1], output_width, sampling_ratio, width),
        ]
        picture = p.squeeze(p.slice_axes(x, [int(image)], [int(image) + 1], [0], [1]), [0])
        if mode == "max":
            region = _largest_product(picture, taps, (height, width))
        else:
            down, across = (
                p.constant(_axis_matrix(*tap, size).astype(x.dtype))
                for tap, size in zip(taps, (height, width), strict=True)
            )
            region = p.matmul(p.matmul(down, picture), p.transpose(across))
        results.append(p.unsqueeze(region, [0]))
    return p.concat(results, 0) if results else p.zeros([0, x.shape[1], output_height, output_width], x.dtype)


_ROIS = np.array([[0.7, 0.4, 4.1, 3.3], [1.2, 0.3, 5.4, 4.8], [0.0, 0.0, 0.4, 0.6]], np.float32)

roi_align.samples = lambda: [
    Sample([normal(2, 2, 6, 6), _ROIS, np.array([0, 1, 0])],
           {"output_height": 2, "output_width": 3, "sampling_ratio": 2}, varied=[0], tolerance=1e-4),
    Sample([normal(2, 2, 6, 6), _ROIS, np.array([1, 1, 0])], {"output_height": 2, "output_width": 2,
            "coordinate_transformation_mode": "output_half_pixel", "spatial_scale": 0.8}, varied=[0], tolerance=1e-4,
           order=1),
    # ONNX Runtime takes the maximum of the interpolated samples, the operator's reference that of their corners.
    Sample([distinct(1, 2, 6, 6), _ROIS, np.array([0, 0, 0])], {"mode": "max", "sampling_ratio": 2,
            "output_height": 2, "output_width": 2}, reference="onnx", varied=[0], order=1, tolerance=1e-4),
    Sample([normal(1, 1, 4, 4), np.array([[-9.0, -9.0, 99.0, 99.0]], np.float32), np.array([0])],
           {"output_height": 3, "output_width": 3}, varied=(), tolerance=1e-4),
    Sample([normal(1, 1, 4, 4), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)], varied=()),
]  # fmt: skip


@defined("MaxRoiPool")
def max_roi_pool(x: Tensor, rois: Tensor, *, pooled_shape: tuple[int, int], spatial_scale: float = 1.0) -> Tensor:
    """The largest pixel in the bins of each region; bins are whole pixels and may overlap.

    Shape: x (n, c, h, w), rois (count, 5) as image, x1, y1, x2, y2; result (count, c, *pooled_shape).
    Source: ONNX MaxRoiPool-1; Girshick 2015.
    """
    height, width = x.shape[2:]
    rows, columns = pooled_shape
    results = []
    for roi in rois.data.astype(np.float64):
        image = int(roi[0])
        left, top, right, bottom = (math.floor(value * spatial_scale + 0.5) for value in roi[1:])
        steps = max(bottom - top + 1, 1) / rows, max(right - left + 1, 1) / columns
        cells = []
        for row in range(rows):
            first, last = (
                min(max(edge + top, 0), height)
                for edge in (math.floor(row * steps[0]), math.ceil((row + 1) * steps[0]))
            )
            for column in range(columns):
                start, end = (
                    min(max(edge + left, 0), width)
                    for edge in (math.floor(column * steps[1]), math.ceil((column + 1) * steps[1]))
                )
                if first >= last or start >= end:
                    cells.append(p.zeros([1, x.shape[1]], x.dtype))
                    continue
                window = p.slice_axes(x, [image, first, start], [image + 1, last, end], [0, 2, 3], [1, 1, 1])
                cells.append(p.reduce("ReduceMax", window, [2, 3]))
        pooled = p.concat([p.unsqueeze(cell, [2]) for cell in cells], 2)
        results.append(p.reshape(pooled, [1, x.shape[1], rows, columns]))
    return p.concat(results, 0) if results else p.zeros([0, x.shape[1], rows, columns], x.dtype)


max_roi_pool.samples = lambda: [
    Sample([distinct(2, 2, 6, 6), np.array([[0, 1, 0, 4, 3], [1, 2, 2, 5, 5]], np.float32)],
           {"pooled_shape": [2, 2]}, varied=[0]),
    Sample([distinct(1, 2, 6, 6), np.array([[0, 1, 0, 9, 9]], np.float32)],
           {"pooled_shape": [3, 2], "spatial_scale": 0.5}, varied=[0], order=1),
    Sample([distinct(1, 1, 4, 4), np.array([[0, -9, -9, 99, 99], [0, 9, 9, 9, 9]], np.float32)],
           {"pooled_shape": [2, 2]}, varied=()),
    Sample([distinct(1, 1, 4, 4), np.zeros((0, 5), np.float32)], {"pooled_shape": [2, 2]}, varied=()),
]  # fmt: skip


def _corners(boxes: Array, center_point_box: int) -> Array:
    """Boxes as low and high corner. Shape: (count, 4), the two lows first."""
    if center_point_box:
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([center - half, center + half], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _overlaps(box: Array, others: Array) -> Array:
    """Intersection over union of one box with others; without area there is no overlap."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0)


@primitive("NonMaxSuppression", differentiable=False)
def non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output: Array | None = None,
    iou_threshold: Array | None = None,
    score_threshold: Array | None = None,
    *,
    center_point_box: int = 0,
) -> Array:
    """Per image and class the best boxes that do not overlap a better one. Shape: (count, 3): image, class, box."""
    limit = 0 if max_output is None else int(max_output.reshape(()))
    overlap = 0.0 if iou_threshold is None else float(iou_threshold.reshape(()))
    picked: list[tuple[int, int, int]] = []
    for image, image_scores in enumerate(scores):
        corners = _corners(boxes[image], center_point_box)
        for number, class_scores in enumerate(image_scores):
            order = np.argsort(-class_scores, kind="stable")
            if score_threshold is not None:
                order = order[class_scores[order] > score_threshold.reshape(())]
            count = 0
            while len(order) and count < limit:
                best, order = order[0], order[1:]
                picked.append((image, number, int(best)))
                count += 1
                order = order[_overlaps(corners[best], corners[order]) <= overlap]
    return np.array(picked, np.int64).reshape(-1, 3)


def _nms_samples() -> list[Sample]:
    corner = uniform(2, 8, 2, high=3.0)
    boxes = np.concatenate([corner, corner + uniform(2, 8, 2, low=0.5, high=2.0)], 2)
    scores = uniform(2, 3, 8)
    limits = [np.array([3]), np.array([0.3], np.float32)]
    return [
        Sample([boxes, scores, *limits, np.array([0.2], np.float32)]),
        Sample([np.abs(boxes), scores, *limits], {"center_point_box": 1}),
        Sample([boxes[:, :, [2, 3, 0, 1]], scores, *limits]),
        Sample([boxes, scores]),
        Sample([np.zeros_like(boxes), scores, *limits]),
        Sample([boxes[:, :0], scores[:, :, :0], *limits], reference=""),
        Sample([integers(1, 4, 4).astype(np.float32), uniform(1, 1, 4), np.array([9]), np.array([0.9], np.float32)]),
    ]


non_max_suppression.samples = _nms_samples
