"""Resize: linear in its input and separable, so it is one small matrix per axis, and the gradient its transpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.products import product as matrix_product
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor
from edgec.errors import UnsupportedError

# Where output pixel `out` lies in the input, given the scale and both lengths.
_COORDINATES: dict[str, Callable[[Array, np.float32, int, int], Array]] = {
    "half_pixel": lambda out, scale, before, after: (out + 0.5) / scale - 0.5,  # noqa: ARG005
    "pytorch_half_pixel": lambda out, scale, before, after: (  # noqa: ARG005
        (out + 0.5) / scale - 0.5 if after > 1 else np.zeros_like(out)
    ),
    "half_pixel_symmetric": lambda out, scale, before, after: (
        before / 2 * (1 - after / (scale * before)) + (out + 0.5) / scale - 0.5
    ),
    "align_corners": lambda out, scale, before, after: (  # noqa: ARG005
        out * (before - 1) / (after - 1) if after > 1 else np.zeros_like(out)
    ),
    "asymmetric": lambda out, scale, before, after: out / scale,  # noqa: ARG005
}
_CROP = "tf_crop_and_resize"
_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


class _HasAttributes(Protocol):
    """A tape node, or the attributes of a call that is not on the tape."""

    def attribute(self, name: str) -> object: ...
    def real(self, name: str) -> float: ...


class _Settings:
    def __init__(self, **attributes: object) -> None:
        self._attributes = attributes

    def attribute(self, name: str) -> object:
        return self._attributes[name]

    def real(self, name: str) -> float:
        return float(self._attributes[name])  # type: ignore[arg-type]


def _places(before: int, after: int, scale: float, transform: str, crop: tuple[float, float]) -> Array:
    """Where each output pixel lies in the input."""
    if transform == _CROP:
        start, end = crop
        if after == 1:
            return np.array([0.5 * (start + end) * (before - 1)])
        return np.asarray(start * (before - 1) + np.arange(after) * ((end - start) * (before - 1) / (after - 1)))
    if transform not in _COORDINATES:
        raise UnsupportedError(
            f"Resize with coordinate_transformation_mode={transform!r}",
            fix=f"use one of {', '.join([*_COORDINATES, _CROP])}",
        )
    # In float32, as other runtimes do it: which pixel is nearest can hang on the last bit.
    places = _COORDINATES[transform](np.arange(after, dtype=np.float32), np.float32(scale), before, after)
    return np.asarray(places, np.float64)


def _axis_matrix(
    before: int, after: int, scale: float, settings: _HasAttributes, crop: tuple[float, float]
) -> tuple[Array, Array]:
    """The weights of every input pixel in every output pixel, and which output pixels lie outside the input.

    Shape: (after, before), float64, and (after).
    """
    mode = str(settings.attribute("mode"))
    transform = str(settings.attribute("coordinate_transformation_mode"))
    places = _places(before, after, scale, transform, crop)
    beyond = ((places < 0) | (places > before - 1)) & (transform == _CROP)
    if mode == "nearest":
        offsets = _ROUNDINGS[str(settings.attribute("nearest_mode"))](places)[:, None]
        weights = np.ones((after, 1))
    else:
        stretch = min(scale, 1.0) if settings.attribute("antialias") else 1.0
        first, count = np.floor(places - (1 if mode == "linear" else 2) / stretch) + 1, 2 if mode == "linear" else 4
        offsets = first[:, None] + np.arange(int(np.ceil(count / stretch)))
        distance = np.abs(offsets - places[:, None]) * stretch
        weights = (
            _cubic(distance, settings.real("cubic_coeff_a")) if mode == "cubic" else (np.maximum(1.0 - distance, 0.0))
        )
    outside = (offsets < 0) | (offsets >= before)
    if settings.attribute("exclude_outside") or (settings.attribute("antialias") and mode != "nearest"):
        weights = np.where(outside, 0.0, weights) if settings.attribute("exclude_outside") else weights
        weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((after, before))
    columns = np.clip(offsets, 0, before - 1).astype(np.intp)
    np.add.at(matrix, (np.arange(after)[:, None], columns), weights)
    return matrix, beyond


def _cubic(distance: Array, a: float) -> Array:
    """Keys' kernel, between 1 and 2 steps away as within one. Source: Keys 1981, eq. 4."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _lengths(
    shape: tuple[int, ...],
    scales: Array | None,
    sizes: Array | None,
    axes: Sequence[int] | None,
    policy: str,
) -> list[tuple[int, float]]:
    """The new length and the scale per axis."""
    result = [(size, 1.0) for size in shape]
    over = list(range(len(shape))) if axes is None else [int(axis) % len(shape) for axis in axes]
    if sizes is not None and sizes.size:
        ratios = [int(size) / shape[axis] for axis, size in zip(over, sizes, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            return [
                (int(np.floor(shape[axis] * ratio + 0.5)), ratio) if axis in over else kept
                for axis, kept in enumerate(result)
            ]
        for axis, size, ratio in zip(over, sizes, ratios, strict=True):
            result[axis] = (int(size), ratio)
    elif scales is not None:
        for axis, scale in zip(over, scales, strict=True):
            result[axis] = (int(np.floor(shape[axis] * float(scale))), float(scale))
    return result


def _crops(rank: int, roi: Array | None, axes: Sequence[int] | None) -> list[tuple[float, float]]:
    """Start and end of the region per axis, as shares of its length."""
    result = [(0.0, 1.0)] * rank
    over = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    if roi is not None and roi.size:
        for index, axis in enumerate(over):
            result[axis] = (float(roi[index]), float(roi[index + len(over)]))
    return result


@primitive("Resize", keeps_inputs=(1, 2, 3))
def resize(
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Array:
    """Nearest, linear or cubic; `roi` is the region that tf_crop_and_resize cuts out."""
    settings = _Settings(
        antialias=antialias,
        coordinate_transformation_mode=coordinate_transformation_mode,
        cubic_coeff_a=cubic_coeff_a,
        exclude_outside=exclude_outside,
        mode=mode,
        nearest_mode=nearest_mode,
    )
    is_crop = coordinate_transformation_mode == _CROP
    crops = _crops(x.ndim, roi, axes)
    lengths = _lengths(x.shape, scales, sizes, axes, keep_aspect_ratio_policy)
    for axis, ((after, scale), crop) in enumerate(zip(lengths, crops, strict=True)):
        if after == x.shape[axis] and scale == 1.0 and not (is_crop and crop != (0.0, 1.0)):
            continue
        matrix, beyond = _axis_matrix(x.shape[axis], after, scale, settings, crop)
        if mode == "nearest":
            x = np.take(x, matrix.argmax(axis=1), axis)
        else:
            x = np.moveaxis(matrix_product(np.moveaxis(x, axis, -1), matrix.T.astype(x.dtype)), -1, axis)
        if beyond.any():
            x = np.where(_along(beyond, axis, x.ndim), x.dtype.type(extrapolation_value), x)
    return np.ascontiguousarray(x)


def _along(values: Array, axis: int, rank: int) -> Array:
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])


@resize.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    shape = call.shape(0)
    roi, scales, sizes = (call.input(index).data if call.has(index) else None for index in (1, 2, 3))
    policy, axes = str(call.attribute("keep_aspect_ratio_policy")), call.integers("axes")
    is_crop = call.attribute("coordinate_transformation_mode") == _CROP
    steps = zip(_lengths(shape, scales, sizes, axes, policy), _crops(len(shape), roi, axes), strict=True)
    # What an axis puts outside overwrites what came before it, so the way back starts with the last axis.
    for axis, ((after, scale), crop) in reversed(list(enumerate(steps))):
        if after == shape[axis] and scale == 1.0 and not (is_crop and crop != (0.0, 1.0)):
            continue
        matrix, beyond = _axis_matrix(shape[axis], after, scale, call, crop)
        matrix = np.where(beyond[:, None], 0.0, matrix).astype(dy.dtype)
        dy = p.swap_axes(p.matmul(p.swap_axes(dy, axis, -1), p.constant(matrix)), axis, -1)
    return (dy,)


def _samples() -> list[Sample]:
    x = normal(1, 2, 4, 5)
    up, down = np.array([1, 1, 2.0, 1.6], np.float32), np.array([1, 1, 0.6, 0.8], np.float32)
    samples = [Sample([x, None, up])]
    samples += [
        Sample([x, None, up], {"coordinate_transformation_mode": "asymmetric", "nearest_mode": rounding}, order=1)
        for rounding in _ROUNDINGS
    ]
    samples += [
        Sample([x, None, scales], {"mode": mode, "coordinate_transformation_mode": transform}, order=1, tolerance=1e-4)
        for mode in ("linear", "cubic")
        for transform in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        for scales in (up, down)
    ]
    samples += [
        Sample([x, None, None, np.array([1, 2, 7, 3])], {"mode": "linear"}),
        Sample([x, None, None, np.array([6, 3])], {"mode": "linear", "axes": [2, 3]}, order=1),
        Sample([x, None, up], {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}, tolerance=1e-4),
        Sample([x, None, down], {"mode": "linear", "antialias": 1}, tolerance=1e-4, order=1),
        Sample([x, None, None, np.array([1, 2, 1, 1])], {"mode": "linear"}, order=1),
        Sample(
            [x, np.array([0, 0, 0.4, -0.2, 1, 1, 1.3, 0.8], np.float32), None, np.array([1, 2, 3, 3])],
            {"mode": "linear", "coordinate_transformation_mode": _CROP, "extrapolation_value": 10.0},
            tolerance=1e-4,
        ),
        Sample([x, None, None, np.array([7, 9])], {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, order=1),
        Sample([x, None, None, np.array([7, 9])], {"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}, order=1),
        Sample([x[:0], None, up], reference=""),
    ]
    for sample in samples:
        sample.varied = [0]
    return samples


resize.samples = _samples
