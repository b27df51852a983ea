"""One typed function per primitive that the engine itself calls: gradient rules, Tensor methods, functional.

They take tensors and plain Python values, and make the constant inputs (axes, shapes, pads) that ONNX wants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import recording, registry
from edgec.engine.arrays import Array, DTypeLike, onnx_from_dtype

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor


def call(op_type: str, *inputs: Tensor | None, **attributes: object) -> Tensor:
    """Apply a primitive with one output."""
    return registry.apply(op_type, inputs, attributes)[0]


def constant(value: Array | float | Sequence[float] | Sequence[int], dtype: DTypeLike | None = None) -> Tensor:
    """A tensor without gradient; ints become int64."""
    return tensors.wrap(np.asarray(value, dtype), None, 0)


def int64(values: Sequence[int] | int) -> Tensor:
    return tensors.wrap(np.asarray(values, np.int64), None, 0)


def full_like(x: Tensor, value: float) -> Tensor:
    """A scalar constant of the same dtype, to be broadcast."""
    return constant(np.asarray(value, x.dtype))


# --- arithmetic ---


def add(a: Tensor, b: Tensor) -> Tensor:
    return call("Add", a, b)


def sub(a: Tensor, b: Tensor) -> Tensor:
    return call("Sub", a, b)


def mul(a: Tensor, b: Tensor) -> Tensor:
    return call("Mul", a, b)


def div(a: Tensor, b: Tensor) -> Tensor:
    return call("Div", a, b)


def power(a: Tensor, b: Tensor) -> Tensor:
    return call("Pow", a, b)


def exp(x: Tensor) -> Tensor:
    return call("Exp", x)


def log(x: Tensor) -> Tensor:
    return call("Log", x)


def sqrt(x: Tensor) -> Tensor:
    return call("Sqrt", x)


def sigmoid(x: Tensor) -> Tensor:
    return call("Sigmoid", x)


def tanh(x: Tensor) -> Tensor:
    return call("Tanh", x)


def sign(x: Tensor) -> Tensor:
    return call("Sign", x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return call("Softmax", x, axis=axis)


def scale(x: Tensor, factor: float) -> Tensor:
    """`x` times a Python number, in the dtype of `x`."""
    return call("Mul", x, full_like(x, factor))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return call("MatMul", a, b)


# --- comparison ---


def equal(a: Tensor, b: Tensor) -> Tensor:
    return call("Equal", a, b)


def greater(a: Tensor, b: Tensor | float) -> Tensor:
    return call("Greater", a, b if isinstance(b, tensors.Tensor) else full_like(a, b))


def less(a: Tensor, b: Tensor | float) -> Tensor:
    return call("Less", a, b if isinstance(b, tensors.Tensor) else full_like(a, b))


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return call("Where", condition, a, b)


def cast(x: Tensor, dtype: DTypeLike) -> Tensor:
    return x if x.dtype == np.dtype(dtype) else call("Cast", x, to=onnx_from_dtype(dtype))


def mask(condition: Tensor, x: Tensor) -> Tensor:
    """`x` where the condition holds, zero elsewhere."""
    return call("Mul", x, cast(condition, x.dtype))


# --- shape ---


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(shape) == x.shape:
        return x
    # allowzero: here a zero is an empty axis, never "copy from the input".
    allowzero: Mapping[str, object] = {"allowzero": 1} if 0 in shape else {}
    return registry.apply("Reshape", (x, int64(list(shape))), allowzero)[0]


def transpose(x: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    order = list(reversed(range(x.ndim))) if perm is None else [axis % x.ndim for axis in perm]
    return x if order == list(range(x.ndim)) else call("Transpose", x, perm=order)


def swap_axes(x: Tensor, first: int, second: int) -> Tensor:
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return transpose(x, order)


def concat(parts: Sequence[Tensor], axis: int) -> Tensor:
    return call("Concat", *parts, axis=axis)


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if tuple(shape) == x.shape else call("Expand", x, int64(list(shape)))


def squeeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    return call("Squeeze", x, int64(list(axes))) if axes else x


def unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    return call("Unsqueeze", x, int64(list(axes))) if axes else x


def slice_axes(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Tensor:
    return call("Slice", x, int64(list(starts)), int64(list(ends)), int64(list(axes)), int64(list(steps)))


def pad(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Zeros around `x`, or less of it where a pad is negative; begins first, then ends."""
    return x if not any(pads) else call("Pad", x, int64(list(pads)))


def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return call("Gather", x, indices, axis=axis)


def zeros(shape: Sequence[int], dtype: DTypeLike) -> Tensor:
    return constant(np.zeros(tuple(shape), dtype))


# --- reductions ---


def reduce(op_type: str, x: Tensor, axes: Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    if axes is not None and not axes:
        return x
    return call(op_type, x, None if axes is None else int64(list(axes)), keepdims=int(keepdims))


def reduce_sum(x: Tensor, axes: Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    return reduce("ReduceSum", x, axes, keepdims)


def reduce_mean(x: Tensor, axes: Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    return reduce("ReduceMean", x, axes, keepdims)


def sum_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo broadcasting: sum `x` over the axes that were stretched from `shape`."""
    if x.shape == shape:
        return x
    extra = x.ndim - len(shape)
    stretched = [axis + extra for axis, size in enumerate(shape) if size == 1 and x.shape[axis + extra] != 1]
    if not stretched:
        return reduce_sum(x, range(extra))
    return reshape(reduce_sum(x, [*range(extra), *stretched], keepdims=True), shape)


def detach(x: Tensor) -> Tensor:
    """The same values outside the graph; a recording sees an Identity, so that the value stays traced."""
    alias = tensors.wrap(x.array, None, 0)
    active = recording.active()
    if active is not None:
        active.append("Identity", (x,), {}, (alias,), is_noted=False)
    return alias
