"""Changes in place.

The tensor gets a new array and a new place in the graph; the old array stays as it was, so views of it (a reshaped or
detached tensor) do not change along, and what the tape kept of the old value is only wrong where it kept the tensor
itself. That is what the tensor's version is for: the moment of its last change, on the tape's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import indexing
from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.errors import GradientError
from edgec.engine.modes import state
from edgec.engine.node import clock, note_change

if TYPE_CHECKING:
    from edgec.engine.indexing import Index
    from edgec.engine.tensor import Scalar, Tensor, TensorLike

__all__ = ["InPlace", "become", "become_array"]


class InPlace:
    """The methods of Tensor that change it; those with gradients on are noted like any other call."""

    __slots__ = ()

    def add_(self, other: TensorLike) -> Tensor:
        return _change(self, "add_", lambda old: old + other)

    def sub_(self, other: TensorLike) -> Tensor:
        return _change(self, "sub_", lambda old: old - other)

    def mul_(self, other: TensorLike) -> Tensor:
        return _change(self, "mul_", lambda old: old * other)

    def div_(self, other: TensorLike) -> Tensor:
        return _change(self, "div_", lambda old: old / other)

    def clip_(self, min: float | None = None, max: float | None = None) -> Tensor:
        return _change(self, "clip_", lambda old: old.clip(min, max))

    def relu_(self) -> Tensor:
        return _change(self, "relu_", lambda old: old.relu())

    def copy_(self, other: TensorLike) -> Tensor:
        """Take the values of `other`, broadcast; the gradient then goes to `other`."""
        return _change(self, "copy_", lambda old: p.expand(p.cast(_tensor(other), old.dtype), old.shape).clone())

    def fill_(self, value: Scalar) -> Tensor:
        return _change(self, "fill_", lambda old: p.constant(np.full(old.shape, value, old.dtype)))

    def zero_(self) -> Tensor:
        return _change(self, "zero_", lambda old: p.zeros(old.shape, old.dtype))

    def set_value(self, value: TensorLike) -> None:
        """Paddle's way to give a parameter or buffer new values, whether it requires a gradient or not.

        The tensor keeps its place in the graph. Inside the recomputation of a checkpoint nothing happens: the values
        were set the first time.

        Raises:
            ValueError: The shape differs.
        """
        if state.is_recomputing:
            return
        tensor = cast("Tensor", self)
        given = value if isinstance(value, tensors.Tensor) else tensors.Tensor(np.asarray(value))
        if given.shape != tensor.shape:
            raise ValueError(f"set_value: the tensor has shape {tensor.shape}, the values {given.shape}")
        recording = state.recording
        if recording is not None:
            if given.dtype != tensor.dtype:
                given = p.cast(given, tensor.dtype)
            recording.equate(tensor, given, keeps_place=True)
        become_array(tensor, given.array.astype(tensor.dtype))

    def __setitem__(self, index: Index, value: TensorLike) -> None:
        """With NumPy's meaning, for every index that `Tensor.__getitem__` takes."""
        _change(self, "assignment to an index", lambda old: _with_items(old, index, _tensor(value, old)))

    def mark_changed(self) -> None:
        """Say that the array was written to behind the tensor's back, so that gradients which need it are refused."""
        tensor = cast("Tensor", self)
        tensor.version = note_change(tensor.array)


def become(tensor: Tensor, made: Tensor) -> None:
    """`tensor` takes the array of `made` and, with gradients on, its place in the graph."""
    if state.recording is not None:
        state.recording.equate(tensor, made, keeps_place=not state.grad_enabled)
    if state.grad_enabled:
        tensor.node, tensor.node_output, tensor._requires_grad = made.node, made.node_output, made._requires_grad
    become_array(tensor, made.array)


def become_array(tensor: Tensor, array: Array) -> None:
    tensor.array = array
    tensor.version = next(clock)


def _change(changed: InPlace, name: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
    tensor = cast("Tensor", changed)
    if tensor.node is None and tensor._requires_grad and state.grad_enabled:
        raise GradientError(
            f"{name}: a leaf that requires a gradient cannot be changed in place",
            where=repr(tensor),
            fix="change it inside no_grad(), or with set_value(); or make a new tensor from it",
        )
    old = tensors.wrap(tensor.array, tensor.node, tensor.node_output)
    old.version = tensor.version
    if state.recording is not None:
        state.recording.alias(old, tensor)
    made = compute(old)
    if made.shape != tensor.shape:
        raise ValueError(f"{name} would change the shape from {tensor.shape} to {made.shape}")
    made = p.cast(made, tensor.dtype)
    if made.array is tensor.array:
        made = made.clone()
        made.array = made.array.copy()
    become(tensor, made)
    return tensor


def _tensor(value: TensorLike, like: Tensor | None = None) -> Tensor:
    if isinstance(value, tensors.Tensor):
        return value if like is None else p.cast(value, like.dtype)
    return tensors.Tensor(np.asarray(value, None if like is None else like.dtype))


def _with_items(x: Tensor, index: Index, value: Tensor) -> Tensor:
    if isinstance(index, tensors.Tensor) and index.dtype.kind == "b" and value.size == 1:
        mask = p.reshape(index, [*index.shape, *[1] * (x.ndim - index.ndim)])
        return p.where(mask, p.reshape(value, []), x)
    # Which elements of the flat tensor are meant: the index, applied to their numbers.
    numbers = tensors.Tensor(np.arange(x.size).reshape(x.shape))
    places = p.reshape(indexing.index_tensor(numbers, index), [-1, 1])
    shape = indexing.index_tensor(numbers, index).shape
    if value.ndim > len(shape):  # NumPy drops leading axes of 1
        value = p.reshape(value, value.shape[value.ndim - len(shape) :])
    updates = p.reshape(p.expand(value, shape), [-1])
    return p.reshape(p.call("ScatterND", p.reshape(x, [-1]), places, updates), x.shape)
