"""Derivatives of functions: Jacobian, Hessian, and their products with vectors.

The first argument is a function of tensors, as in PyTorch's ``torch.autograd.functional``; `jacobian` and `hessian`
also take outputs that are already computed, as Paddle's do. One input gives a tensor, several a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.functions import stack
from edgec.engine.modes import enable_grad, is_grad_enabled, state
from edgec.engine.tape import grad
from edgec.engine.tensor import Tensor

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors: TypeAlias = "Tensor | Sequence[Tensor]"
Function: TypeAlias = "Callable[..., Tensors]"


def jacobian(
    func: Function | Tensors, inputs: Tensors, create_graph: bool = False, batch_axis: int | None = None
) -> object:
    """The derivative of every output element by every input element.

    Args:
        func: A function of the inputs, or outputs computed from them.
        inputs: One tensor or several.
        create_graph: Make the result differentiable itself.
        batch_axis: 0 if the first axes of outputs and inputs are independent samples: the result then has it once.

    Shape: output shape + input shape; with `batch_axis` batch + rest of the output + rest of the input. For several
    inputs a tuple, for several outputs a tuple of those.
    """
    outputs, points, is_single = _evaluated(func, inputs, create_graph)
    rows = [_rows(output, points, create_graph, batch_axis) for output in _several(outputs)]
    shaped = [row[0] if is_single else tuple(row) for row in rows]
    return shaped[0] if isinstance(outputs, Tensor) else tuple(shaped)


def hessian(func: Function | Tensor, inputs: Tensors, create_graph: bool = False) -> object:
    """The second derivatives of one scalar; ``hessian[i][j]`` by input i and j if there are several inputs.

    Raises:
        ValueError: The function gives more than one element.
    """
    outputs, points, is_single = _evaluated(func, inputs, True)
    if not isinstance(outputs, Tensor) or outputs.size != 1:
        raise ValueError("hessian: the function must give one tensor of one element")
    slopes = _gradients([outputs], points, None, True)
    rows = [_rows(slope, points, create_graph, None) for slope in slopes]
    return rows[0][0] if is_single else tuple(tuple(row) for row in rows)


def vjp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False
) -> tuple[Tensors, Tensors]:
    """The outputs, and `v` times the Jacobian; `v` None is ones."""
    outputs, points, is_single = _evaluated(func, inputs, create_graph)
    slopes = _gradients(_several(outputs), points, None if v is None else _several(v), create_graph)
    return _plain(outputs, create_graph), slopes[0] if is_single else tuple(slopes)


def jvp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False
) -> tuple[Tensors, Tensors]:
    """The outputs, and the Jacobian times `v`: how the outputs move when the inputs move along `v`.

    The product u J is linear in u, and its derivative by u along v is J v: two reverse passes, no rules of its own.
    """
    outputs, points, _ = _evaluated(func, inputs, True)
    several = _several(outputs)
    weights = [Tensor(np.zeros(output.shape, output.dtype), True) for output in several]
    if state.recording is not None:
        weights = [p.scale(output, 0.0).detach().requires_grad_() for output in several]
    products = _gradients(several, points, weights, True)
    directions = [Tensor(np.ones(x.shape, x.dtype)) for x in points] if v is None else _several(v)
    pairs = [(product, along) for product, along in zip(products, directions, strict=True) if product.requires_grad]
    moved = _gradients([product for product, _ in pairs], weights, [along for _, along in pairs], create_graph)
    return _plain(outputs, create_graph), moved[0] if isinstance(outputs, Tensor) else tuple(moved)


def hvp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False
) -> tuple[Tensor, Tensors]:
    """The output, and the Hessian of a scalar function times `v`, without the Hessian itself.

    Raises:
        ValueError: The function gives more than one element.
    """
    outputs, points, is_single = _evaluated(func, inputs, True)
    if not isinstance(outputs, Tensor) or outputs.size != 1:
        raise ValueError("hvp: the function must give one tensor of one element")
    slopes = _gradients([outputs], points, None, True)
    directions = [Tensor(np.ones(x.shape, x.dtype)) for x in points] if v is None else _several(v)
    products = _gradients(slopes, points, directions, create_graph)
    return cast(Tensor, _plain(outputs, create_graph)), products[0] if is_single else tuple(products)


def vhp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False
) -> tuple[Tensor, Tensors]:
    """`hvp` under its other name: a Hessian is symmetric."""
    return hvp(func, inputs, v, create_graph)


def _several(value: Tensors) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _evaluated(func: Function | Tensors, inputs: Tensors, create_graph: bool) -> tuple[Tensors, list[Tensor], bool]:
    """The outputs, and the points they depend on: the inputs themselves where their own graph must go on."""
    given, is_single = _several(inputs), isinstance(inputs, Tensor)
    if not callable(func):
        return func, given, is_single
    is_connected = create_graph and is_grad_enabled()
    points = [x.clone() if is_connected and x.requires_grad else x.detach().requires_grad_() for x in given]
    with enable_grad():
        outputs = func(*points)
    return outputs if isinstance(outputs, Tensor) else tuple(outputs), points, is_single


def _gradients(
    outputs: Sequence[Tensor], points: Sequence[Tensor], weights: Sequence[Tensor] | None, create_graph: bool
) -> list[Tensor]:
    """Like `grad`, keeping the graph, with zeros for what nothing depends on."""
    kept = [(output, None if weights is None else weights[index]) for index, output in enumerate(outputs)]
    kept = [(output, weight) for output, weight in kept if output.requires_grad]
    if not kept:
        return [p.zeros(x.shape, x.dtype) for x in points]
    found = grad(
        [output for output, _ in kept],
        list(points),
        [weight for _, weight in kept],
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
    )
    return [p.zeros(x.shape, x.dtype) if slope is None else slope for x, slope in zip(points, found, strict=True)]


def _rows(output: Tensor, points: Sequence[Tensor], create_graph: bool, batch_axis: int | None) -> list[Tensor]:
    """The gradients of the elements of `output`, one by one, stacked."""
    if batch_axis not in (None, 0):
        raise ValueError("jacobian: batch_axis must be None or 0")
    lead = output.shape[:1] if batch_axis == 0 else ()
    rest = output.shape[len(lead) :]
    count = int(np.prod(rest))
    slopes: list[list[Tensor]] = []
    for index in range(count):
        weight = np.zeros((*lead, count), output.dtype)
        weight[..., index] = 1
        weights = [p.constant(weight.reshape(output.shape))]
        slopes.append(_gradients([output], points, weights, create_graph))
    results = []
    for place, point in enumerate(points):
        if not count:
            results.append(p.zeros((*output.shape, *point.shape[len(lead) :]), point.dtype))
            continue
        stacked = stack([slope[place] for slope in slopes], len(lead))
        results.append(p.reshape(stacked, [*lead, *rest, *point.shape[len(lead) :]]))
    return results


def _plain(outputs: Tensors, create_graph: bool) -> Tensors:
    if create_graph:
        return outputs
    return outputs.detach() if isinstance(outputs, Tensor) else tuple(output.detach() for output in outputs)
