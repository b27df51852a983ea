"""Functions of the user's that see, and may replace, the gradient of a tensor during the reverse pass."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

import edgec.engine.tensor as tensors

if TYPE_CHECKING:
    from edgec.engine.arrays import Array
    from edgec.engine.tensor import Tensor

__all__ = ["GradientHook", "Hooks", "RemovableHandle"]

GradientHook: TypeAlias = "Callable[[Tensor], Tensor | Array | None]"

_keys = itertools.count()


class Hooks:
    """The hooks of one tensor, in the order they were registered, and whether it keeps its gradient."""

    __slots__ = ("_functions", "_retainer")

    def __init__(self) -> None:
        self._functions: dict[int, GradientHook] = {}
        self._retainer: weakref.ref[Tensor] | None = None

    def add(self, function: GradientHook) -> RemovableHandle:
        key = next(_keys)
        self._functions[key] = function
        return RemovableHandle(self._functions, key)

    def retain(self, tensor: Tensor) -> None:
        # Weak: these hooks hang on the node, and the tensor holds the node.
        self._retainer = weakref.ref(tensor)

    @property
    def is_retaining(self) -> bool:
        return self._retainer is not None

    def run(self, gradient: Tensor, is_accumulating: bool) -> Tensor:
        """The gradient as the hooks leave it; a retained one is added to ``.grad`` if the pass accumulates."""
        for function in list(self._functions.values()):
            given = function(gradient)
            if given is not None:
                gradient = _checked(given, gradient)
        tensor = None if self._retainer is None else self._retainer()
        if tensor is not None and is_accumulating:
            tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
        return gradient


class RemovableHandle:
    """What `Tensor.register_hook` returns; also a context manager that removes the hook at its end."""

    __slots__ = ("_functions", "_key")

    def __init__(self, functions: dict[int, GradientHook], key: int) -> None:
        self._functions, self._key = functions, key

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        self._functions.pop(self._key, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()


def _checked(given: Tensor | Array, gradient: Tensor) -> Tensor:
    made = given if isinstance(given, tensors.Tensor) else tensors.Tensor(np.asarray(given, gradient.dtype))
    if made.shape != gradient.shape or made.dtype != gradient.dtype:
        raise ValueError(
            f"a hook returned {made.dtype} of shape {made.shape} for a gradient of {gradient.dtype} {gradient.shape}"
        )
    return made
