"""Resize: which input elements make an output element, and how much each counts, is worked out at compile time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering.attributes import integer, integers, number, text
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_of, lowers, shape_of, static_shape

__all__: list[str] = []


@dataclass(frozen=True)
class Taps:
    """How one axis is resized: output i = sum over t of weights[i, t] * input[places[i, t]].

    Attributes:
        places: Input positions, (output size, taps).
        weights: Their weights, (output size, taps).
    """

    places: np.ndarray
    weights: np.ndarray

    @property
    def is_selection(self) -> bool:
        """Whether each output is one input."""
        return bool(self.places.shape[1] == 1)


def _original(mode: str, size: int, out_size: int, scale: float) -> np.ndarray:
    """Where each output position lies on the input axis. Source: ONNX, Resize-19, coordinate_transformation_mode."""
    i = np.arange(out_size, dtype=np.float64)
    forms: dict[str, Callable[[], np.ndarray]] = {
        "half_pixel": lambda: (i + 0.5) / scale - 0.5,
        "half_pixel_symmetric": lambda: size / 2 * (1 - out_size / (scale * size)) + (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": lambda: (i + 0.5) / scale - 0.5 if out_size > 1 else i * 0,
        "asymmetric": lambda: i / scale,
        "align_corners": lambda: i * (size - 1) / (out_size - 1) if out_size > 1 else i * 0,
    }
    if mode not in forms:
        raise UnsupportedError(f"Resize with coordinate_transformation_mode {mode} is not supported")
    return forms[mode]()


_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _kernel(mode: str, distance: np.ndarray, coefficient: float) -> np.ndarray:
    """The weight of an element at this distance: the triangle, or Keys' cubic."""
    x = np.abs(distance)
    if mode == "linear":
        return np.asarray(np.maximum(1 - x, 0))
    a = coefficient
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.asarray(np.where(x <= 1, near, np.where(x < 2, far, 0)))


def make_taps(node: ir.Node, size: int, out_size: int, scale: float) -> Taps:
    """The taps of one axis, from the node's attributes."""
    mode = text(node, "mode", "nearest")
    original = _original(text(node, "coordinate_transformation_mode", "half_pixel"), size, out_size, scale)
    if mode == "nearest":
        places = _ROUNDINGS[text(node, "nearest_mode", "round_prefer_floor")](original)
        places = np.clip(places, 0, size - 1).astype(np.int64)[:, None]
        return Taps(places, np.ones_like(places, np.float64))
    radius = 1 if mode == "linear" else 2
    stretch = max(1.0, 1 / scale) if integer(node, "antialias", 0) else 1.0  # downsampling widens the kernel
    reach = int(np.ceil(radius * stretch))
    places = np.floor(original).astype(np.int64)[:, None] + np.arange(-reach + 1, reach + 1)
    distance = (places - original[:, None]) / stretch
    weights = _kernel(mode, distance, number(node, "cubic_coeff_a", -0.75))
    if integer(node, "exclude_outside", 0) or stretch != 1.0:
        if integer(node, "exclude_outside", 0):
            weights = np.where((places < 0) | (places >= size), 0, weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
    places = np.clip(places, 0, size - 1)
    used = (weights != 0).any(axis=0)
    return Taps(places[:, used], weights[:, used])


@lowers("Resize")
def resize(emitter: Emitter, node: ir.Node) -> None:
    """Axis by axis, the last first; a blocked tensor stays so where only height and width change."""
    value, out = node.inputs[0], node.outputs[0]
    shape, out_shape = static_shape(value), static_shape(out)
    scales = _scales(emitter, node, shape, out_shape)
    taps = {
        axis: make_taps(node, size, new, scales[axis])
        for axis, (size, new) in enumerate(zip(shape, out_shape, strict=True))
        if size != new or scales[axis] != 1.0
    }
    if not taps:
        emitter.alias(out, value)
        return
    stays_blocked = emitter.is_blocked(value) and len(shape) == 4 and set(taps) <= {2, 3}
    result = emitter.blocked(value).var if stays_blocked else emitter.plain(value)
    if all(tap.is_selection for tap in taps.values()):
        result = _select(emitter, result, taps)
    else:
        for axis in sorted(taps, reverse=True):
            result = _interpolate(emitter, result, axis, taps[axis])
    if stays_blocked:
        emitter.set_blocked(out, result, shape[1])
    else:
        emitter.set_plain(out, result)


def _scales(emitter: Emitter, node: ir.Node, shape: list[int], out_shape: list[int]) -> list[float]:
    """The factor of every axis; from the sizes where no scales are given."""
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedError(f"Resize '{node.name}' keeps the aspect ratio", fix="give it the sizes themselves")
    axes = integers(node, "axes", list(range(len(shape))))
    if len(node.inputs) > 2 and node.inputs[2] is not None and emitter.required_constant(node, 2).size:
        factors = [float(s) for s in emitter.required_constant(node, 2)]
        given = {axis % len(shape): factor for axis, factor in zip(axes, factors, strict=True)}
        return [given.get(axis, 1.0) for axis in range(len(shape))]
    return [new / size for size, new in zip(shape, out_shape, strict=True)]


def _resized(shape: list[int], sizes: dict[int, int]) -> list[int]:
    return [sizes.get(axis, size) for axis, size in enumerate(shape)]


def _select(emitter: Emitter, x: relax.Expr, taps: dict[int, Taps]) -> relax.Expr:
    """Nearest: one kernel for all axes; whole factors need no table."""
    shape = _resized(shape_of(x), {axis: len(tap.places) for axis, tap in taps.items()})
    factors = {}
    for axis, tap in taps.items():
        factor = max(1, shape[axis] // shape_of(x)[axis])
        if (tap.places[:, 0] == np.arange(shape[axis]) // factor).all():
            factors[axis] = factor
    tables = [emitter.const(tap.places[:, 0].astype(np.int32)) for axis, tap in taps.items() if axis not in factors]

    def kernel(data: te.Tensor, *places: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            source, remaining = list(i), iter(places)
            for axis in taps:
                if axis in factors:
                    source[axis] = tirx.floordiv(i[axis], factors[axis])
                else:
                    source[axis] = next(remaining)[i[axis]]
            return data(*source)

        return te.compute(shape, element, name="resize")

    return emitter.te(kernel, x, *tables, name="resize_nearest", fusion=Fusion.INJECTIVE)


def _interpolate(emitter: Emitter, x: relax.Expr, axis: int, taps: Taps) -> relax.Expr:
    """One axis as a weighted sum of its taps."""
    dtype = dtype_of(x)
    if not dtype.startswith("float"):
        raise UnsupportedError(f"Resize interpolates {dtype}; it is supported for floats")
    shape = _resized(shape_of(x), {axis: len(taps.places)})
    places, weights = emitter.const(taps.places.astype(np.int32)), emitter.const(taps.weights.astype(dtype))

    def kernel(data: te.Tensor, place: te.Tensor, weight: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            total = None
            for t in range(taps.places.shape[1]):
                term = data(*i[:axis], place[i[axis], t], *i[axis + 1 :]) * weight[i[axis], t]
                total = term if total is None else total + term
            return total

        return te.compute(shape, element, name="resize")

    return emitter.te(kernel, x, places, weights, name="resize", fusion=Fusion.EPILOGUE)
