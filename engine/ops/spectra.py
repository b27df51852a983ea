"""Spectra: the discrete Fourier transform, the short-time one, windows and mel weights.

The transform is a product with a matrix of cosines and sines. That is slower than an FFT for long signals, but it is
linear algebra that differentiates and compiles like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, DTypeLike, dtype_from_onnx
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Sample, primitive
from edgec.engine.samples import normal, positive
from edgec.engine.tensor import Tensor


def _waves(rows: int, columns: int, length: int, dtype: DTypeLike) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 2 pi r c / length."""
    # The product is reduced before the division, or large ones would lose their digits.
    angle = np.outer(np.arange(rows), np.arange(columns)) % length * (2 * np.pi / length)
    return p.constant(np.cos(angle).astype(dtype)), p.constant(np.sin(angle).astype(dtype))


def _fitted(x: Tensor, size: int) -> Tensor:
    """The second last axis cut or filled with zeros to `size`."""
    missing = size - x.shape[-2]
    if missing < 0:
        return p.slice_axes(x, [0], [size], [x.ndim - 2], [1])
    pads = [0] * (2 * x.ndim)
    pads[-2] = missing
    return p.pad(x, pads)


def _part(x: Tensor, index: int) -> Tensor:
    return p.slice_axes(x, [index], [index + 1], [x.ndim - 1], [1])


def _transform(x: Tensor, length: int, onesided: bool) -> Tensor:
    """Time to frequency. Shape: (..., time, 1 or 2) to (..., frequencies, 2)."""
    count = length // 2 + 1 if onesided else length
    x = _fitted(x, length)
    cosines, sines = _waves(count, length, length, x.dtype)
    real, imaginary = p.matmul(cosines, _part(x, 0)), -p.matmul(sines, _part(x, 0))
    if x.shape[-1] == 2:
        second = _part(x, 1)
        real, imaginary = real + p.matmul(sines, second), imaginary + p.matmul(cosines, second)
    return p.concat([real, imaginary], -1)


def _inverse(x: Tensor, length: int, onesided: bool) -> Tensor:
    """Frequency to time; one-sided spectra are those of real signals, and so is the result."""
    count = length // 2 + 1 if onesided else length
    x = _fitted(x, count)
    weights = np.ones((count, 1))
    if onesided:  # each frequency stands for its conjugate too, but for the first and, of an even length, the last
        weights[1 : (length + 1) // 2] = 2
    x = x * p.constant((weights / length).astype(x.dtype))
    cosines, sines = _waves(length, count, length, x.dtype)
    first, second = _part(x, 0), _part(x, 1) if x.shape[-1] == 2 else None
    real = p.matmul(cosines, first)
    real = real if second is None else real - p.matmul(sines, second)
    if onesided:
        return real
    imaginary = p.matmul(sines, first)
    return p.concat([real, imaginary if second is None else imaginary + p.matmul(cosines, second)], -1)


@defined("DFT")
def dft(
    x: Tensor,
    length: Tensor | None = None,
    over: Tensor | None = None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """The discrete Fourier transform along an axis. Real and imaginary part stand in the last axis.

    The axis is an input since opset 20 (the last but one if omitted) and was an attribute before (1 if omitted).
    """
    if over is not None:
        axis = int(over.data.reshape(()))
    axis %= x.ndim
    moved = p.swap_axes(x, axis, x.ndim - 2)
    size = moved.shape[-2]
    if length is not None:
        size = int(length.data.reshape(()))
    elif inverse and onesided:
        size = 2 * (size - 1)
    y = _inverse(moved, size, bool(onesided)) if inverse else _transform(moved, size, bool(onesided))
    return p.swap_axes(y, axis, x.ndim - 2)


dft.samples = lambda: [
    Sample([normal(2, 5, 1), None, np.array(1)], tolerance=1e-4),
    Sample([normal(2, 6, 2), None, np.array(-2)], {"inverse": 1}, tolerance=1e-4, order=1),
    Sample([normal(2, 6, 1), np.array(4), np.array(1)], {"onesided": 1}, tolerance=1e-4, order=1),
    Sample([normal(2, 3, 4, 2), np.array(5), np.array(1)], tolerance=1e-4, order=1),
    Sample([np.array([[[1e30], [np.inf], [0.0]]], np.float32), None, np.array(1)], reference="", varied=()),
    Sample([normal(0, 4, 1), None, np.array(1)], reference="", varied=()),
]


@defined("STFT")
def stft(
    signal: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None, *, onesided: int = 1
) -> Tensor:
    """Fourier transforms of overlapping frames.

    Shape: signal (n, time, 1 or 2) or (n, time); result (n, frames, frequencies, 2).
    """
    if signal.ndim == 2:
        signal = p.unsqueeze(signal, [2])
    size = int(length.data.reshape(())) if length is not None else window.shape[0] if window is not None else 0
    hop = int(step.data.reshape(()))
    if size < 1 or hop < 1:
        raise ValueError(f"STFT needs a frame length and a step of at least 1, not {size} and {hop}")
    count = max((signal.shape[1] - size) // hop + 1, 0)
    places = np.arange(count)[:, None] * hop + np.arange(size)
    frames = p.gather(signal, p.constant(places), 1)
    if window is not None:
        frames = frames * p.unsqueeze(window, [1])
    return _transform(frames, size, bool(onesided))


stft.samples = lambda: [
    Sample([normal(1, 12, 1), np.array(3), positive(5)], tolerance=1e-4),
    Sample([normal(2, 10, 1), np.array(2), None, np.array(4)], {"onesided": 0}, tolerance=1e-4, order=1),
    Sample([normal(0, 10, 1), np.array(2), None, np.array(4)], reference="", varied=()),
]


def _cosine_window(name: str, weights: Sequence[float]) -> None:
    """Declare a window that is a sum of cosines with these weights."""

    @primitive(name, differentiable=False)
    def window(size: Array, *, output_datatype: int = 1, periodic: int = 1) -> Array:
        count = int(size.reshape(()))
        angle = np.arange(count) * (2 * np.pi / max(count if periodic else count - 1, 1))
        values = sum(weight * np.cos(order * angle) for order, weight in enumerate(weights))
        return np.asarray(values).astype(dtype_from_onnx(output_datatype))

    window.samples = lambda: [
        Sample([np.array(8)]),
        Sample([np.array(7)], {"periodic": 0, "output_datatype": 11}),
        Sample([np.array(0)], reference=""),
    ]


_cosine_window("HannWindow", [0.5, -0.5])
_cosine_window("HammingWindow", [25 / 46, -21 / 46])
_cosine_window("BlackmanWindow", [0.42, -0.5, 0.08])


@primitive("MelWeightMatrix", differentiable=False)
def mel_weight_matrix(
    bins: Array, length: Array, rate: Array, low: Array, high: Array, *, output_datatype: int = 1
) -> Array:
    """Triangles that sum up frequencies into mel bins. Shape: (length / 2 + 1, bins)."""
    count, size = int(bins.reshape(())), int(length.reshape(()))
    edges = 2595 * np.log10(1 + np.array([float(low.reshape(())), float(high.reshape(()))]) / 700)
    step = (edges[1] - edges[0]) / (count + 2)
    hertz = 700 * (10 ** ((edges[0] + np.arange(count + 2) * step) / 2595) - 1)
    places = np.floor((size + 1) * hertz / float(rate.reshape(()))).astype(np.int64)
    matrix = np.zeros((size // 2 + 1, count))
    for index in range(count):
        left, center, right = places[index : index + 3]
        if center == left:
            matrix[center, index] = 1
        else:
            matrix[left : center + 1, index] = (np.arange(left, center + 1) - left) / (center - left)
        if right > center:
            matrix[center:right, index] = (right - np.arange(center, right)) / (right - center)
    return matrix.astype(dtype_from_onnx(output_datatype))


mel_weight_matrix.samples = lambda: [
    Sample([np.array(8), np.array(16), np.array(8192), np.float32(0), np.float32(4096)], reference="onnx"),
    Sample([np.array(4), np.array(64), np.array(16000), np.float32(20), np.float32(7600)], {"output_datatype": 11},
           reference="onnx"),
    Sample([np.array(0), np.array(16), np.array(8192), np.float32(0), np.float32(4096)], reference=""),
]  # fmt: skip
