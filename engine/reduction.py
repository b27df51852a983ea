"""How a loss goes from one value per sample to one number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

__all__ = ["Reduction", "reduced"]

Reduction: TypeAlias = Literal["mean", "sum", "none"]


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    return losses.mean() if reduction == "mean" else losses.sum()
