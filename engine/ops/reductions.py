"""Reductions over axes. Axes are an input; without them all axes are reduced, or none with noop_with_empty_axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, is_float
from edgec.engine.ops.running import running_products
from edgec.engine.registry import PRIMITIVES, Gradients, Rule, Sample, primitive
from edgec.engine.samples import distinct, normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

_ZEROS = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]], np.float32)

Reduction: TypeAlias = "Callable[[Array, tuple[int, ...], bool], Array]"


def _reduced_axes(ndim: int, axes: Array | None, noop_with_empty_axes: int) -> tuple[int, ...]:
    if axes is None or axes.size == 0:
        return () if noop_with_empty_axes else tuple(range(ndim))
    return tuple(sorted(int(axis) % ndim for axis in axes))


def _axes_of(call: Node) -> tuple[int, ...]:
    axes = call.input(1).data if call.has(1) else None
    return _reduced_axes(len(call.shape(0)), axes, call.integer("noop_with_empty_axes"))


def _stretched(call: Node, reduced: Tensor) -> Tensor:
    """The output, or its gradient, with the reduced axes back as 1."""
    axes = _axes_of(call)
    return p.reshape(reduced, [1 if axis in axes else size for axis, size in enumerate(call.shape(0))])


def _reduction(
    name: str, function: Reduction, rule: Rule, keeps_inputs: tuple[int, ...], keeps_outputs: tuple[int, ...] = ()
) -> None:
    """Declare a reduction; `function` gets the array, the axes and whether they stay as 1."""

    def forward(data: Array, axes: Array | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
        reduced = function(data, _reduced_axes(data.ndim, axes, noop_with_empty_axes), bool(keepdims))
        return np.asarray(reduced, data.dtype)

    made = primitive(name, keeps_inputs=keeps_inputs, keeps_outputs=keeps_outputs)(forward)
    made.gradient(rule)
    x = (
        positive
        if name in ("ReduceProd", "ReduceLogSum")
        else distinct
        if name in ("ReduceMax", "ReduceMin")
        else normal
    )
    PRIMITIVES[name].samples = lambda: [
        Sample([x(2, 3, 4)]),
        Sample([x(2, 3, 4), np.array([1])], {"keepdims": 0}),
        Sample([x(2, 3, 4), np.array([-1, 0])]),
        Sample([x(2, 3), None], {"noop_with_empty_axes": 1, "keepdims": 0}, order=1),
        # One zero and several: smooth for a product, a kink for a norm.
        Sample([_ZEROS, np.array([1])], varied=None if name == "ReduceProd" else ()),
    ]


def _sum_gradient(call: Node, dy: Tensor) -> Gradients:
    return (p.expand(_stretched(call, dy), call.shape(0)),)


def _mean_gradient(call: Node, dy: Tensor) -> Gradients:
    shape = call.shape(0)
    count = int(np.prod([shape[axis] for axis in _axes_of(call)]))
    return (p.expand(_stretched(call, p.scale(dy, 1.0 / max(count, 1))), shape),)


def _extremum_gradient(call: Node, dy: Tensor) -> Gradients:
    # Equal extrema share the gradient evenly.
    x = call.input(0)
    winners = p.cast(p.equal(x, _stretched(call, call.output(0))), dy.dtype)
    count = p.reduce_sum(winners, _axes_of(call), keepdims=True)
    return (winners * (_stretched(call, dy) / count),)


def _product_gradient(call: Node, dy: Tensor) -> Gradients:
    # The product of all others, without a division, which would make nan of a zero.
    x, axes = call.input(0), _axes_of(call)
    if not axes:
        return (dy,)
    order = [*(axis for axis in range(x.ndim) if axis not in axes), *axes]
    kept = x.ndim - len(axes)
    moved = p.transpose(x, order)
    count = int(np.prod(moved.shape[kept:]))
    flat = p.reshape(moved, [*moved.shape[:kept], count])
    others = running_products(flat, kept, True, False) * running_products(flat, kept, True, True)
    back = [int(axis) for axis in np.argsort(order)]
    return (_stretched(call, dy) * p.transpose(p.reshape(others, moved.shape), back),)


def _sum_square_gradient(call: Node, dy: Tensor) -> Gradients:
    return (_stretched(call, dy) * 2.0 * call.input(0),)


def _l1_gradient(call: Node, dy: Tensor) -> Gradients:
    return (_stretched(call, dy) * p.sign(call.input(0)),)


def _l2_gradient(call: Node, dy: Tensor) -> Gradients:
    # The norm has a kink where it is zero; of its slopes there, zero is the shortest.
    norm = call.output(0)
    norm = p.where(p.equal(norm, p.full_like(norm, 0.0)), p.full_like(norm, 1.0), norm)
    return (_stretched(call, dy / norm) * call.input(0),)


def _log_sum_gradient(call: Node, dy: Tensor) -> Gradients:
    return (p.expand(_stretched(call, dy / p.exp(call.output(0))), call.shape(0)),)


def _log_sum_exp_gradient(call: Node, dy: Tensor) -> Gradients:
    return (_stretched(call, dy) * p.exp(call.input(0) - _stretched(call, call.output(0))),)


def _log_sum_exp(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    highest = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    highest = np.where(np.isfinite(highest), highest, np.zeros_like(highest))
    total: Array = np.log(np.sum(np.exp(x - highest), axis=axes, keepdims=True)) + highest
    return total if keepdims else total.squeeze(axes)


def _initial(x: Array, infinity: float) -> dict[str, Any]:
    """What the extremum of nothing is, for NumPy; where there is something it needs none."""
    if x.size:
        return {}
    if x.dtype.kind == "b":
        return {"initial": infinity > 0}
    if is_float(x.dtype):
        return {"initial": infinity}
    info = np.iinfo(x.dtype)
    return {"initial": info.max if infinity > 0 else info.min}


def _mean(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    if x.dtype.kind in "iu":
        count = int(np.prod([x.shape[axis] for axis in axes]))
        return np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype) // count
    return np.asarray(np.mean(x, axis=axes, keepdims=keepdims))


_reduction("ReduceSum", lambda x, axes, keep: np.sum(x, axis=axes, keepdims=keep, dtype=x.dtype), _sum_gradient, (1,))
_reduction("ReduceMean", _mean, _mean_gradient, (1,))
_reduction(
    "ReduceMax",
    lambda x, axes, keep: np.max(x, axis=axes, keepdims=keep, **_initial(x, -np.inf)),
    _extremum_gradient,
    (0, 1),
    (0,),
)
_reduction(
    "ReduceMin",
    lambda x, axes, keep: np.min(x, axis=axes, keepdims=keep, **_initial(x, np.inf)),
    _extremum_gradient,
    (0, 1),
    (0,),
)
_reduction("ReduceProd", lambda x, axes, keep: np.prod(x, axis=axes, keepdims=keep), _product_gradient, (0, 1))
_reduction(
    "ReduceSumSquare", lambda x, axes, keep: np.sum(x * x, axis=axes, keepdims=keep), _sum_square_gradient, (0, 1)
)
_reduction("ReduceL1", lambda x, axes, keep: np.sum(np.abs(x), axis=axes, keepdims=keep), _l1_gradient, (0, 1))
_reduction(
    "ReduceL2",
    lambda x, axes, keep: np.sqrt(np.sum(x * x, axis=axes, keepdims=keep)),
    _l2_gradient,
    (0, 1),
    (0,),
)
_reduction(
    "ReduceLogSum",
    lambda x, axes, keep: np.log(np.sum(x, axis=axes, keepdims=keep)),
    _log_sum_gradient,
    (1,),
    (0,),
)
_reduction("ReduceLogSumExp", _log_sum_exp, _log_sum_exp_gradient, (0, 1), (0,))
