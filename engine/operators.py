"""Python's operators with two operands: both are brought to one dtype first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.engine import primitives as p
from edgec.engine import promotion

if TYPE_CHECKING:
    from edgec.engine.arrays import Array
    from edgec.engine.tensor import Tensor, TensorLike

__all__ = ["Operators"]


class Operators:
    """The methods of Tensor behind ``+``, ``@``, ``<`` and the like."""

    __slots__ = ()

    def __add__(self, other: TensorLike) -> Tensor:
        return p.add(*promotion.same_dtype(self, other))

    def __radd__(self, other: TensorLike) -> Tensor:
        return p.add(*reversed(promotion.same_dtype(self, other)))

    def __sub__(self, other: TensorLike) -> Tensor:
        return p.sub(*promotion.same_dtype(self, other))

    def __rsub__(self, other: TensorLike) -> Tensor:
        return p.sub(*reversed(promotion.same_dtype(self, other)))

    def __mul__(self, other: TensorLike) -> Tensor:
        return p.mul(*promotion.same_dtype(self, other))

    def __rmul__(self, other: TensorLike) -> Tensor:
        return p.mul(*reversed(promotion.same_dtype(self, other)))

    def __truediv__(self, other: TensorLike) -> Tensor:
        return p.div(*map(promotion.floating, promotion.same_dtype(self, other)))

    def __rtruediv__(self, other: TensorLike) -> Tensor:
        return p.div(*map(promotion.floating, reversed(promotion.same_dtype(self, other))))

    def __floordiv__(self, other: TensorLike) -> Tensor:
        return promotion.floor_divide(*promotion.same_dtype(self, other))

    def __rfloordiv__(self, other: TensorLike) -> Tensor:
        return promotion.floor_divide(*reversed(promotion.same_dtype(self, other)))

    def __mod__(self, other: TensorLike) -> Tensor:
        return promotion.modulo(*promotion.same_dtype(self, other))

    def __pow__(self, other: TensorLike) -> Tensor:
        return p.power(*promotion.same_dtype(self, other))

    def __rpow__(self, other: TensorLike) -> Tensor:
        return p.power(*reversed(promotion.same_dtype(self, other)))

    def __matmul__(self, other: Tensor | Array) -> Tensor:
        return p.matmul(*promotion.same_dtype(self, other))

    def __rmatmul__(self, other: Array) -> Tensor:
        return p.matmul(*reversed(promotion.same_dtype(self, other)))

    def __and__(self, other: TensorLike) -> Tensor:
        return p.call("And", *promotion.same_dtype(self, other))

    def __or__(self, other: TensorLike) -> Tensor:
        return p.call("Or", *promotion.same_dtype(self, other))

    def __xor__(self, other: TensorLike) -> Tensor:
        return p.call("Xor", *promotion.same_dtype(self, other))

    def __eq__(self, other: TensorLike) -> Tensor:  # type: ignore[override]
        return p.equal(*promotion.same_dtype(self, other))

    def __ne__(self, other: TensorLike) -> Tensor:  # type: ignore[override]
        return p.call("Not", p.equal(*promotion.same_dtype(self, other)))

    def __lt__(self, other: TensorLike) -> Tensor:
        return p.call("Less", *promotion.same_dtype(self, other))

    def __le__(self, other: TensorLike) -> Tensor:
        return p.call("LessOrEqual", *promotion.same_dtype(self, other))

    def __gt__(self, other: TensorLike) -> Tensor:
        return p.call("Greater", *promotion.same_dtype(self, other))

    def __ge__(self, other: TensorLike) -> Tensor:
        return p.call("GreaterOrEqual", *promotion.same_dtype(self, other))

    __hash__ = object.__hash__
