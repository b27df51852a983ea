"""Operands of different dtypes: what Python's operators make of them, since ONNX wants one dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import primitives as p
from edgec.engine.arrays import is_float

if TYPE_CHECKING:
    from edgec.engine.operators import Operators
    from edgec.engine.tensor import Tensor, TensorLike

__all__ = ["floating", "floor_divide", "modulo", "same_dtype"]

_FLOAT = np.dtype(np.float32)


def same_dtype(one: Operators, other: TensorLike) -> tuple[Tensor, Tensor]:
    """Both operands in one dtype; a Python number takes the tensor's, unless it is a float beside integers."""
    self = cast("Tensor", one)
    if not isinstance(other, tensors.Tensor):
        if isinstance(other, np.ndarray):
            other = tensors.Tensor(other)
        elif isinstance(other, bool | int | np.integer | np.bool_) and self.dtype.kind != "b":
            return self, tensors.Tensor(np.asarray(other, self.dtype))
        elif isinstance(other, float | np.floating):
            kept = self.dtype if is_float(self.dtype) else _FLOAT
            return p.cast(self, kept), tensors.Tensor(np.asarray(other, kept))
        elif isinstance(other, bool | int | np.integer | np.bool_):
            other = tensors.Tensor(np.asarray(other))
        else:
            raise TypeError(f"cannot combine a tensor with {type(other).__name__}")
    if self.dtype == other.dtype:
        return self, other
    common = _common_dtype(self.dtype, other.dtype)
    return p.cast(self, common), p.cast(other, common)


def _common_dtype(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """A floating dtype wins over an integer one, whatever their sizes; else NumPy's rule."""
    if is_float(a) != is_float(b):
        return a if is_float(a) else b
    return np.promote_types(a, b)


def floating(x: Tensor) -> Tensor:
    return x if is_float(x.dtype) else p.cast(x, _FLOAT)


def floor_divide(a: Tensor, b: Tensor) -> Tensor:
    if is_float(a.dtype):
        return p.call("Floor", p.div(a, b))
    return p.div(p.sub(a, p.call("Mod", a, b)), b)


def modulo(a: Tensor, b: Tensor) -> Tensor:
    # ONNX Mod without fmod is for integers only, and fmod takes the sign of the dividend, unlike Python.
    return a - p.mul(p.call("Floor", p.div(a, b)), b) if is_float(a.dtype) else p.call("Mod", a, b)
