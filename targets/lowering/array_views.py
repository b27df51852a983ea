"""Values whose elements another tensor has, in another order of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax

from edgec.targets.lowering.attributes import integers
from edgec.targets.lowering.emitter import Emitter, dtype_name, static_shape

__all__ = ["MOVEMENTS", "ArrayView", "view_of"]

MOVEMENTS = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that copy nothing if what reads their result reads it as it lies."""

_RANK = 4


@dataclass(frozen=True)
class ArrayView:
    """The elements of a tensor as an array of four axes.

    Attributes:
        tensor: What lies in memory.
        shape: Of the view; 1 where all along an axis are the same.
        order: The axes of the view in the order in which they lie in memory.
    """

    tensor: ir.Value
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def memory_shape(self) -> list[int]:
        return [self.shape[axis] for axis in self.order]

    def swapped(self) -> ArrayView:
        """The view with its last two axes exchanged."""
        places = (0, 1, 3, 2)
        return ArrayView(self.tensor, tuple(self.shape[a] for a in places), tuple(places[a] for a in self.order))

    def emit(self, emitter: Emitter, dtype: str) -> relax.Expr:
        """The tensor in a type, with one axis in memory for each of the view."""
        return emitter.reshape(emitter.narrowed(emitter.plain(self.tensor), dtype), self.memory_shape)

    def emit_in_order(self, emitter: Emitter) -> relax.Expr:
        """The view itself as a tensor."""
        moved = [axis for axis in self.order if self.shape[axis] > 1]
        if moved == sorted(moved):
            return emitter.reshape(emitter.plain(self.tensor), self.shape)
        laid = emitter.reshape(emitter.plain(self.tensor), self.memory_shape)
        return emitter.emit(relax.op.permute_dims(laid, [self.order.index(axis) for axis in range(_RANK)]))

    def of_constant(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """What the view shows of the tensor's numbers."""
        return array.reshape(self.memory_shape).transpose(np.argsort(self.order))


def view_of(value: ir.Value, through: frozenset[str] = MOVEMENTS, dtype: str | None = None) -> ArrayView | None:
    """The view of the tensor farthest back that shows a value of up to four axes, with axes of 1 before its own.

    ``through`` may have Expand and Cast besides: the elements are those before it. Where it is a Cast to ``dtype`` that
    comes first, they are those after it.
    """
    chain: list[ir.Node] = []
    found = _show(value, chain)
    node = value.producer()
    while found is not None and node is not None and node.op_type in through and node.inputs[0] is not None:
        farther = _show(node.inputs[0], [node, *chain])
        if farther is None:
            break
        chain.insert(0, node)
        found, node = farther, node.inputs[0].producer()
    first = chain[0] if chain else None
    if found is not None and first is not None and first.op_type == "Cast" and dtype_name(first.outputs[0]) == dtype:
        found = replace(found, tensor=first.outputs[0])
    return found


def _show(tensor: ir.Value, chain: Sequence[ir.Node]) -> ArrayView | None:
    """What a tensor is after the nodes of a chain, if each axis then goes through it in equal steps."""
    extents = static_shape(tensor)
    axes: list[_Axis] | None = [[(size, math.prod(extents[axis + 1 :]))] for axis, size in enumerate(extents)]
    for node in chain:
        shape = static_shape(node.outputs[0])
        if axes is not None and node.op_type == "Transpose":
            axes = [axes[axis] for axis in integers(node, "perm", list(range(len(axes)))[::-1])]
        elif axes is not None and node.op_type == "Expand":
            axes = [*_ones(len(shape) - len(axes)), *axes]
            sizes = [math.prod(size for size, _ in axis) for axis in axes]
            axes = [a if old == new else [(new, 0)] for a, old, new in zip(axes, sizes, shape, strict=True)]
        elif axes is not None:
            axes = _regrouped(axes, shape)
    if axes is None or len(axes) > _RANK or 0 in extents:
        return None
    merged = [_merged(axis) for axis in [*_ones(_RANK - len(axes)), *axes]]
    if any(len(axis) > 1 for axis in merged):
        return None
    size_and_step = [axis[0] if axis and axis[0][1] else (1, 0) for axis in merged]
    shape = [size for size, _ in size_and_step]
    order = sorted(range(_RANK), key=lambda place: (shape[place] > 1, -size_and_step[place][1]))
    dense = [math.prod(shape[inner] for inner in order[place + 1 :]) for place in range(_RANK)]
    is_dense = all(size_and_step[axis][1] in (0, step) for axis, step in zip(order, dense, strict=True))
    is_whole = math.prod(shape) == math.prod(extents)
    return ArrayView(tensor, tuple(shape), tuple(order)) if is_whole and is_dense else None


_Axis = list[tuple[int, int]]
"""An axis as loops, one in another: their extents, and their steps through memory."""


def _ones(count: int) -> list[_Axis]:
    return [[] for _ in range(count)]


def _regrouped(axes: list[_Axis], shape: list[int]) -> list[_Axis] | None:
    """The axes of a reshape, where it splits no loop unevenly."""
    loops = [loop for axis in axes for loop in axis if loop[0] > 1]
    result = []
    for extent in shape:
        axis: _Axis = []
        while extent > 1:
            size, step = loops.pop(0)
            if size % extent and extent % size:
                return None
            if size > extent:
                loops.insert(0, (size // extent, step))
                size, step = extent, step * (size // extent)
            axis.append((size, step))
            extent //= size
        result.append(axis)
    return result


def _merged(axis: _Axis) -> _Axis:
    """The axis with as few loops as possible."""
    result: _Axis = []
    for size, step in axis:
        if size == 1:
            continue
        if result and result[-1][1] == size * step:
            result[-1] = (result[-1][0] * size, step)
        else:
            result.append((size, step))
    return result
