"""Sizes and padding as PyTorch's users write them: one number for all axes, or one per axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Size", "pads_of", "sizes_of"]

Size: TypeAlias = "int | Sequence[int]"


def sizes_of(value: Size, rank: int) -> list[int]:
    """One number per axis."""
    sizes = [value] * rank if isinstance(value, int) else list(value)
    if len(sizes) != rank:
        raise ValueError(f"expected one number or {rank}, got {sizes}")
    return sizes


def pads_of(padding: Size, rank: int) -> list[int]:
    """Symmetric padding of one number per axis, or the begins and ends of all axes as ONNX has them."""
    if not isinstance(padding, int) and len(padding) == 2 * rank:
        return list(padding)
    return sizes_of(padding, rank) * 2
