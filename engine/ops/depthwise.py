"""Depthwise convolution: one shifted product per kernel tap, added up for a few channels at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.ops.memory import BLOCK_BYTES, images, new_images, scratch
from edgec.engine.ops.windows import Window

__all__ = ["correlate", "gradients"]


def correlate(x: Array, w: Array, window: Window) -> Array:
    """The sliding product of each channel. Shape: x (n, c, *input), w (c, 1, *kernel); result (n, c, *output)."""
    y, outputs = new_images((*x.shape[:2], *window.output_shape), x.dtype, is_zero=True)
    taps = list(window.meetings())
    for image, output in zip(images(x), outputs, strict=True):
        for block in _blocks(output):
            for tap, places, met in taps:
                result = output[block, *places]
                result += _product(image[block, *met], _of_tap(w[block], tap))
    return y


def gradients(x: Array | None, w: Array | None, dy: Array, window: Window) -> tuple[Array | None, Array | None]:
    """The gradients of `correlate` by x (if `w` is given) and by w (if `x` is given)."""
    n, c = dy.shape[:2]
    dx = dw = None
    d_inputs: list[Array] = []
    if w is not None:
        dx, d_inputs = new_images((n, c, *window.input_shape), dy.dtype, is_zero=True)
    if x is not None:
        dw = np.zeros((c, 1, *window.kernel), dy.dtype)
    inputs = images(x) if x is not None else []
    taps = list(window.meetings())
    for index, d_output in enumerate(images(dy)):
        for block in _blocks(d_output):
            for tap, places, met in taps:
                given = d_output[block, *places]
                if w is not None:
                    d_input = d_inputs[index][block, *met]
                    d_input += _product(given, _of_tap(w[block], tap))
                if dw is not None:
                    product = _product(inputs[index][block, *met], given)
                    of_tap: tuple[Any, ...] = (block, 0, *tap)
                    dw[of_tap] += product.reshape(len(product), -1).sum(axis=1)
    return dx, dw


def _blocks(output: Array) -> Iterator[slice]:
    """Channels that fit into the cache together with their input and product."""
    size = max(1, BLOCK_BYTES // 2 // max(output.nbytes // max(len(output), 1), 1))
    for start in range(0, len(output), size):
        yield slice(start, start + size)


def _of_tap(w: Array, tap: tuple[int, ...]) -> Array:
    """One tap of a kernel, shaped to multiply (c, *spatial, n)."""
    index: tuple[Any, ...] = (slice(None), 0, *tap)
    return np.asarray(w[index]).reshape(-1, *(1,) * (len(tap) + 1))


def _product(a: Array, b: Array) -> Array:
    shape = a.shape
    area = scratch("product", (1, math.prod(shape)), a.dtype)
    return np.multiply(a, b, out=area.reshape(shape))
