"""Placing elements, and what they do to those that are there: ScatterElements and ScatterND."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.running import running_products
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import distinct, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

__all__ = ["element_index", "nd_index"]

_REDUCTIONS: dict[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def element_index(shape: tuple[int, ...], indices: Array, axis: int) -> tuple[Any, ...]:
    """An index that reaches element (i, indices[i, j]) for every (i, j); other axes may be shorter in `indices`."""
    if len(shape) == 1:
        return (indices,)
    grid: list[Any] = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    grid[axis] = indices
    return tuple(grid)


def nd_index(indices: Array, batch_dims: int = 0) -> tuple[Any, ...]:
    parts: list[Any] = [indices[..., column] for column in range(indices.shape[-1])]
    if batch_dims:
        grid = np.ogrid[tuple(slice(size) for size in indices.shape[:-1])][:batch_dims]
        parts = [*grid, *parts]
    return tuple(parts)


def _placed(x: Array, where: tuple[Any, ...], updates: Array, reduction: str) -> Array:
    y = x.copy()
    if reduction == "none":
        y[where] = updates
    else:
        _REDUCTIONS[reduction].at(y, where, updates)
    return y


def _reduced_gradient(call: Node, dy: Tensor, places: Array, reduction: str) -> Gradients:
    """The gradient of a product or an extremum, worked out on flat arrays. Shape: places as the updates.

    Equal extrema share the gradient evenly; the product is not divided, so zeros are no exception.
    """
    x, updates = call.input(0), call.input(2)
    cells = p.constant(places.reshape(-1))
    slope, old, new = (p.reshape(tensor, [-1]) for tensor in (dy, x, updates))
    zeros = p.zeros(old.shape, dy.dtype)
    if reduction == "mul":
        factors = p.call("ScatterElements", zeros + 1.0, cells, new, reduction="mul")
        dx = slope * factors
        du = p.gather(slope * old, cells) * _other_factors(new, places.reshape(-1))
    else:
        y = p.call("ScatterElements", old, cells, new, reduction=reduction)
        kept = p.cast(p.equal(old, y), dy.dtype)
        won = p.cast(p.equal(new, p.gather(y, cells)), dy.dtype)
        share = slope / p.call("ScatterElements", kept, cells, won, reduction="add")
        dx, du = share * kept, p.gather(share, cells) * won
    return p.reshape(dx, x.shape), None, p.reshape(du, updates.shape)


def _other_factors(factors: Tensor, cells: Array) -> Tensor:
    """For each factor the product of all others that go to the same cell."""
    order = np.argsort(cells, kind="stable")
    rank, taken = np.empty_like(cells), cells[order]
    first = np.searchsorted(taken, taken)
    rank[order] = np.arange(len(cells)) - first
    deepest = int(rank.max(initial=0)) + 1
    if deepest == 1:
        return p.constant(np.ones(factors.shape, factors.dtype))
    rows = np.unique(cells, return_inverse=True)[1].reshape(-1)
    place = p.constant(rows * deepest + rank)
    table = p.constant(np.ones((int(rows.max()) + 1) * deepest, factors.dtype))
    table = p.reshape(p.call("ScatterElements", table, place, factors), [-1, deepest])
    others = running_products(table, 1, True, False) * running_products(table, 1, True, True)
    return p.gather(p.reshape(others, [-1]), place)


def _flat_places(shape: tuple[int, ...], where: tuple[Any, ...]) -> Array:
    """The number of the element that each update goes to."""
    return np.asarray(np.arange(math.prod(shape)).reshape(shape)[where])


@primitive("ScatterElements", keeps_inputs=(0, 1, 2))
def scatter_elements(x: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none") -> Array:
    return _placed(x, element_index(x.shape, indices, axis), updates, reduction)


@scatter_elements.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    indices, axis, reduction = call.input(1), call.integer("axis"), str(call.attribute("reduction"))
    if reduction not in ("none", "add"):
        places = _flat_places(call.shape(0), element_index(call.shape(0), indices.data, axis))
        return _reduced_gradient(call, dy, places, reduction)
    dx = dy
    if reduction == "none" and call.wants(0):
        zeros = p.zeros(indices.shape, dy.dtype)
        dx = p.call("ScatterElements", dy, indices, zeros, axis=axis)
    return dx, None, p.call("GatherElements", dy, indices, axis=axis) if call.wants(2) else None


def _extreme_samples(**attributes: object) -> list[Sample]:
    """Every reduction with repeated places, a zero factor, and nothing at all."""
    x, updates = distinct(5), distinct(4, seed=1) + np.float32(0.02)
    indices = np.array([1, 1, 3, 1])
    zero = np.array([0.0, 2.0, 3.0, 0.5], np.float32)
    made = [Sample([x, indices, updates], {"reduction": name}) for name in ("add", "mul", "max", "min")]
    made += [
        Sample([x, indices, zero], {"reduction": "mul"}),
        Sample([np.array([np.nan, np.inf, 0.0], np.float32), indices[:2], zero[:2]], {"reduction": "add"}, varied=()),
        Sample([x, indices[:0], updates[:0]]),
    ]
    for sample in made:
        sample.attributes = {**sample.attributes, **attributes}
    return made


scatter_elements.samples = lambda: [
    Sample([normal(3, 4), np.array([[1, 0, 2, 1]]), normal(1, 4, seed=1)]),
    Sample([normal(3, 4), np.array([[1, 1], [0, 3], [-1, 2]]), normal(3, 2)], {"axis": 1, "reduction": "add"}),
    Sample([normal(3, 4), np.array([[1, 1], [0, 3], [-1, 2]]), normal(3, 2)], {"axis": 1, "reduction": "mul"}),
    *_extreme_samples(),
]


@primitive("ScatterND", keeps_inputs=(0, 1, 2))
def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    return _placed(x, nd_index(indices), updates, reduction)


@scatter_nd.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    indices, reduction = call.input(1), str(call.attribute("reduction"))
    if reduction not in ("none", "add"):
        return _reduced_gradient(call, dy, _flat_places(call.shape(0), nd_index(indices.data)), reduction)
    dx = dy
    if reduction == "none" and call.wants(0):
        dx = p.call("ScatterND", dy, indices, p.zeros(call.shape(2), dy.dtype))
    return dx, None, p.call("GatherND", dy, indices) if call.wants(2) else None


scatter_nd.samples = lambda: [
    Sample([normal(3, 4), np.array([[0, 1], [2, 3]]), normal(2)]),
    Sample([normal(3, 4), np.array([[1], [1]]), normal(2, 4)], {"reduction": "add"}),
    *[Sample([distinct(3, 4), np.array([[1], [1]]), distinct(2, 4, seed=2) + np.float32(0.02)], {"reduction": name})
      for name in ("mul", "max", "min")],
    Sample([np.array([np.nan, np.inf, 0.0], np.float32), np.array([[0], [2]]), np.ones(2, np.float32)],
           {"reduction": "add"}, varied=()),
    Sample([normal(3, 4), np.zeros((0, 1), np.int64), normal(0, 4)]),
]  # fmt: skip
