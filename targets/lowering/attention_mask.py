"""What exporters do to the scores of attention between the scale and the softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir
from tvm import tirx

from edgec.targets.lowering.array_views import MOVEMENTS, ArrayView, view_of
from edgec.targets.lowering.elementwise import combine
from edgec.targets.lowering.emitter import Emitter, dtype_name, shape_of, static_shape

__all__ = ["Mask", "MaskKind", "join_masks", "masked_scores", "unrounded"]

_HIDDEN = -1e4
"""Scores with so much less than others have no weight; they are at most some hundreds apart."""

_ABSORBING = -1e30
"""Scores vanish in a sum with such numbers."""

_MOST_MASKS = 3


class MaskKind(StrEnum):
    CAUSAL = "causal"
    """Query i sees the keys up to i + ``offset``."""
    ADDED = "added"
    """Numbers are added."""
    SHOWN = "shown"
    """Scores where a tensor is true, elsewhere ``fill``."""
    HIDDEN = "hidden"
    """Scores where a tensor is false, elsewhere ``fill``."""


@dataclass(frozen=True)
class Mask:
    """A mask of scores of shape (images, heads, queries, keys).

    Attributes:
        kind: What it does.
        view: The tensor, of the scores' shape or 1 along some axes; a causal mask has none.
        fill: What scores become where they are not shown.
        offset: Of a causal mask, not negative: every query sees a key.
    """

    kind: MaskKind
    view: ArrayView | None = None
    fill: float = -math.inf
    offset: int = 0


def unrounded(value: ir.Value | None) -> ir.Value:
    """What a float is before it was cast to other floats."""
    assert value is not None
    node = value.producer()
    return unrounded(node.inputs[0]) if node is not None and node.op_type == "Cast" else value


def masked_scores(
    emitter: Emitter, value: ir.Value, later: tuple[Mask, ...] = ()
) -> Iterator[tuple[ir.Value, tuple[Mask, ...]]]:
    """The ways to read a value as masked scores: the scores, and the masks in the order in which they are applied."""
    value = unrounded(value)
    node = value.producer()
    if node is None or node.op_type not in ("Add", "Where"):
        yield value, later
    elif len(later) < _MOST_MASKS:
        for scores, mask in _readings(emitter, node, _padded(static_shape(value))):
            yield from masked_scores(emitter, scores, (mask, *later))


def _readings(emitter: Emitter, node: ir.Node, shape: list[int]) -> Iterator[tuple[ir.Value, Mask]]:
    """The ways to read a node as scores and a mask."""
    condition, *choices = node.inputs if node.op_type == "Where" else (None, *node.inputs)
    for (scores, other), kind in zip((choices, choices[::-1]), (MaskKind.SHOWN, MaskKind.HIDDEN), strict=True):
        if scores is None or other is None or _padded(static_shape(scores)) != shape:
            continue
        if condition is None:
            mask = _added(other)
        else:
            mask = _chosen(condition, _number(emitter, other), kind)
        if mask is not None and mask.view is not None and _fits(mask.view, shape):
            yield scores, mask


def _padded(shape: list[int]) -> list[int]:
    return [1] * (4 - len(shape)) + shape


def _fits(view: ArrayView, shape: list[int]) -> bool:
    return all(size in (1, extent) for size, extent in zip(view.shape, shape, strict=True))


def _added(value: ir.Value) -> Mask | None:
    """The mask before it was rounded: the lowest float32 would be minus infinity in float16."""
    view = view_of(value, MOVEMENTS | {"Cast", "Expand"})
    if view is not None and dtype_name(view.tensor) not in ("float16", "float32"):
        view = view_of(value, MOVEMENTS | {"Expand"})
    return None if view is None else Mask(MaskKind.ADDED, view)


def _chosen(condition: ir.Value, fill: float | None, kind: MaskKind) -> Mask | None:
    view = view_of(condition, MOVEMENTS | {"Expand"})
    return None if view is None or fill is None else Mask(kind, view, fill)


def _number(emitter: Emitter, value: ir.Value) -> float | None:
    """The number that all of a constant is."""
    array = emitter.constant(value)
    if array is None or not array.size or not (array == array.reshape(-1)[0]).all():
        return None
    return float(array.reshape(-1)[0])


def join_masks(emitter: Emitter, masks: tuple[Mask, ...], shape: tuple[int, ...], name: str) -> Mask | None:
    """One mask for several, which is emitted; one that reads nothing where a single one is constant and causal.

    Booleans with one fill are joined by And, others are numbers to add, if those absorb the scores that they replace.
    None where they do not.
    """
    if len(masks) == 1:
        return _causal(emitter, masks[0], shape) or masks[0]
    views = [mask.view for mask in masks if mask.view is not None]
    operands = [view.emit_in_order(emitter) for view in views]
    fills = {mask.fill for mask in masks if mask.kind != MaskKind.ADDED}

    def shown(mask: Mask, flag: tirx.Expr) -> tirx.Expr:
        return flag if mask.kind == MaskKind.SHOWN else tirx.Not(flag)

    def all_shown(*flags: tirx.Expr) -> tirx.Expr:
        return tirx.all(*(shown(mask, flag) for mask, flag in zip(masks, flags, strict=True)))

    def total(*found: tirx.Expr) -> tirx.Expr:
        result: tirx.Expr = tirx.const(0, "float32")
        for mask, x in zip(masks, found, strict=True):
            if mask.kind == MaskKind.ADDED:
                result = result + x.astype("float32")
            else:
                result = tirx.Select(shown(mask, x), result, tirx.const(mask.fill, "float32"))
        return result

    joined = ir.Value(name=f"{name}/mask")
    kind = MaskKind.ADDED
    if len(fills) == 1 and all(mask.kind != MaskKind.ADDED for mask in masks):
        kind, joined.dtype = MaskKind.SHOWN, ir.DataType.BOOL
        result = combine(emitter, all_shown, operands, "mask")
    elif all(fill <= _ABSORBING for fill in fills):
        joined.dtype = ir.DataType.FLOAT
        result = combine(emitter, total, operands, "mask")
    else:
        return None
    joined.shape = ir.Shape(shape_of(result))
    emitter.set_plain(joined, result)
    return Mask(kind, view_of(joined), min(fills, default=-math.inf))


def _causal(emitter: Emitter, mask: Mask, shape: tuple[int, ...]) -> Mask | None:
    """The causal mask that a constant one is, the same for all images and heads, and with nothing for hidden scores."""
    assert mask.view is not None
    array = emitter.constant(mask.view.tensor)
    if array is None or (mask.kind != MaskKind.ADDED and mask.fill > _HIDDEN):
        return None
    _, _, queries, keys = shape
    heads = np.broadcast_to(mask.view.of_constant(array), (*mask.view.shape[:2], queries, keys))
    matrix = heads[0, 0]
    shown = matrix == (mask.kind == MaskKind.SHOWN)
    is_hidden = shown | (matrix <= _HIDDEN) if mask.kind == MaskKind.ADDED else True
    offset = int(shown[0].sum()) - 1
    is_triangle = offset >= 0 and np.array_equal(shown, np.tri(queries, keys, offset, dtype=bool))
    if not is_triangle or not np.all(is_hidden) or (heads != matrix).any():
        return None
    return Mask(MaskKind.CAUSAL, offset=offset)
