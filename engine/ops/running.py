"""Running products along an axis, in primitives."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.tensor import Tensor


def running_products(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """The product of every element with all before it (or after it), in a logarithmic number of steps.

    Nothing is divided, so zeros are no exception, and every part is an operator of opset 22, which has no CumProd.
    Source: Hillis and Steele 1986.
    """
    size = x.shape[axis]
    if exclusive and size:
        x = _shifted(x, axis, 1, reverse)
    shift = 1
    while shift < size:
        x = x * _shifted(x, axis, shift, reverse)
        shift *= 2
    return x


def _shifted(x: Tensor, axis: int, by: int, reverse: bool) -> Tensor:
    """`x` moved to the back (or the front) by some places; ones move in."""
    size = x.shape[axis]
    ones = p.constant(np.ones([by if index == axis else n for index, n in enumerate(x.shape)], x.dtype))
    if reverse:
        return p.concat([p.slice_axes(x, [by], [size], [axis], [1]), ones], axis)
    return p.concat([ones, p.slice_axes(x, [0], [size - by], [axis], [1])], axis)
