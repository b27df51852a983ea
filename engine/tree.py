"""Nested tuples, lists and dicts of tensors as a flat list and a shape to put it back together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import edgec.engine.tensor as tensors
from edgec.engine.tensor import Tensor

__all__ = ["Tree", "flatten", "rebuild"]


@dataclass(frozen=True)
class _Leaf:
    """The place of a tensor."""


@dataclass(frozen=True)
class _Static:
    """A value that is no tensor, and stays as it is."""

    value: object


@dataclass(frozen=True)
class _Branch:
    kind: type
    keys: tuple[object, ...]
    parts: tuple[Tree, ...]


# Hashable where the values that are no tensors are.
Tree: TypeAlias = "_Leaf | _Static | _Branch"
_LEAF = _Leaf()


def flatten(value: object, static: Callable[[object], object] | None = None) -> tuple[list[Tensor], Tree]:
    """The tensors in `value`, in order, and its shape; `static` maps the values that are no tensors."""
    found: list[Tensor] = []
    return found, _walk(value, found, static)


def rebuild(tree: Tree, leaves: Sequence[Tensor]) -> object:
    """The opposite of `flatten`."""
    return _build(tree, iter(leaves))


# Not functions inside the two above: one that calls itself is a circle, which would hold the tensors for long.


def _walk(part: object, found: list[Tensor], static: Callable[[object], object] | None) -> Tree:
    if isinstance(part, tensors.Tensor):
        found.append(part)
        return _LEAF
    if isinstance(part, tuple | list):
        return _Branch(type(part), (), tuple([_walk(item, found, static) for item in part]))
    if isinstance(part, Mapping):
        return _Branch(type(part), tuple(part), tuple([_walk(item, found, static) for item in part.values()]))
    return _Static(part if static is None else static(part))


def _build(part: Tree, waiting: Iterator[Tensor]) -> object:
    if isinstance(part, _Leaf):
        return next(waiting)
    if isinstance(part, _Static):
        return part.value
    items = [_build(item, waiting) for item in part.parts]
    kind: Callable[..., object] = part.kind
    if issubclass(part.kind, Mapping):
        return kind(zip(part.keys, items, strict=True))
    return kind(*items) if hasattr(kind, "_fields") else kind(items)  # a named tuple takes its fields one by one
