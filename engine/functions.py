"""Functions on tensors beside the methods: several inputs, or the style of ``exp(x)``."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.engine import primitives as p
from edgec.engine.promotion import same_dtype
from edgec.engine.registry import apply
from edgec.engine.tensor import Axes, Tensor, TensorLike

__all__ = [
    "abs", "cat", "clip", "concat", "cos", "exp", "gather", "log", "logsumexp", "matmul", "max", "maximum", "mean",
    "min", "minimum", "pow", "reshape", "sigmoid", "sign", "sin", "split", "sqrt", "stack", "sum", "tanh", "topk",
    "transpose", "where",
]  # fmt: skip


def abs(x: Tensor) -> Tensor:
    return x.abs()


def exp(x: Tensor) -> Tensor:
    return p.exp(x)


def log(x: Tensor) -> Tensor:
    return p.log(x)


def sqrt(x: Tensor) -> Tensor:
    return p.sqrt(x)


def sin(x: Tensor) -> Tensor:
    return x.sin()


def cos(x: Tensor) -> Tensor:
    return x.cos()


def tanh(x: Tensor) -> Tensor:
    return p.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    return p.sigmoid(x)


def sign(x: Tensor) -> Tensor:
    return p.sign(x)


def pow(x: Tensor, exponent: TensorLike) -> Tensor:
    return x**exponent


def clip(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    return x.clip(min, max)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def maximum(a: Tensor, b: TensorLike) -> Tensor:
    return p.call("Max", *same_dtype(a, b))


def minimum(a: Tensor, b: TensorLike) -> Tensor:
    return p.call("Min", *same_dtype(a, b))


def where(condition: Tensor, a: Tensor, b: TensorLike) -> Tensor:
    """`a` where the condition holds, else `b`."""
    return p.where(condition, *same_dtype(a, b))


def sum(x: Tensor, axis: Axes = None, keepdim: bool = False) -> Tensor:
    return x.sum(axis, keepdim)


def mean(x: Tensor, axis: Axes = None, keepdim: bool = False) -> Tensor:
    return x.mean(axis, keepdim)


def max(x: Tensor, axis: Axes = None, keepdim: bool = False) -> Tensor:
    return x.max(axis, keepdim)


def min(x: Tensor, axis: Axes = None, keepdim: bool = False) -> Tensor:
    return x.min(axis, keepdim)


def logsumexp(x: Tensor, axis: Axes = None, keepdim: bool = False) -> Tensor:
    axes = [axis] if isinstance(axis, int) else axis
    return p.reduce("ReduceLogSumExp", x, axes, keepdim)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    return p.reshape(x, shape)


def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    return p.transpose(x, perm)


def concat(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    return p.concat(parts, axis)


cat = concat


def stack(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join along a new axis."""
    return p.concat([p.unsqueeze(part, [axis]) for part in parts], axis)


def split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Parts of the given sizes; one int is the size of every part, the last may be smaller."""
    total = x.shape[axis]
    if isinstance(sizes, int):
        sizes = [sizes] * (total // sizes) + ([total % sizes] if total % sizes else [])
    return apply("Split", (x, p.int64(list(sizes))), {"axis": axis}, outputs=len(sizes))


def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Slices of `x` at the indices, along one axis."""
    return p.gather(x, indices, axis)


def topk(x: Tensor, k: int, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) values, sorted, and their indices."""
    values, indices = apply("TopK", (x, p.int64([k])), {"axis": axis, "largest": int(largest)}, outputs=2)
    return values, indices
