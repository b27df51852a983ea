"""Trade time for memory: compute a part of the network again in the reverse pass instead of keeping its values."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import edgec.engine.tensor as tensors
from edgec.engine import random, tree
from edgec.engine.errors import GradientError
from edgec.engine.modes import GradMode, state
from edgec.engine.node import Node, clock

if TYPE_CHECKING:
    from edgec.engine.arrays import Array

__all__ = ["checkpoint", "kept_bytes"]

_R = TypeVar("_R")


def checkpoint(function: Callable[..., _R], *args: Any, **kwargs: Any) -> _R:
    """``function(*args, **kwargs)``, of which only arguments and parameters are kept for the reverse pass.

    When the reverse pass comes to it, the function runs once more and yields the values that the rules read: with the
    random numbers, autocast and gradient mode of the first time, and without side effects on buffers (running
    statistics move once). Gradients are the same to the bit, of any order, by `backward` and by `grad`. In a recording
    it is an ordinary call.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".

    Example::

        y = engine.checkpoint(block, x)
    """
    if not state.grad_enabled or state.recording is not None:
        return function(*args, **kwargs)
    start = next(clock)
    region = _Region(lambda: function(*args, **kwargs), start)
    result = function(*args, **kwargs)
    given = {id(tensor) for tensor in tree.flatten((args, kwargs))[0]}
    region.forget(_nodes_since(start, result), given)
    return result


class _Region:
    """The calls of one checkpointed function; `restore` fills in what they do not keep."""

    def __init__(self, function: Callable[[], object], start: int) -> None:
        self.function = function
        self._start = start
        self._random = random.get_state()
        self._modes = state.autocast
        # Weak, because the nodes hold this region.
        self._nodes: list[weakref.ref[Node]] = []
        self._names: list[str] = []

    def forget(self, nodes: list[Node], given: set[int]) -> None:
        self._nodes = [weakref.ref(node) for node in nodes]
        self._names = [node.primitive.name for node in nodes]
        for node in nodes:
            for index, kept in enumerate(node._inputs):
                if not isinstance(kept, tensors.Tensor) or id(kept) in given or kept.version > node.number:
                    continue  # (one that has changed since must stay, to be refused)
                if kept.node is not None or not kept.requires_grad:
                    node._inputs[index] = _Forgotten(self, kept.shape, kept.dtype)
            if node._kept:
                node._kept = {index: _Forgotten(self, *node._outlines[index]) for index in node._kept}

    def restore(self) -> None:
        modes = state.autocast, state.recording, state.finds_anomalies, state.is_recomputing
        state.autocast, state.recording, state.finds_anomalies, state.is_recomputing = self._modes, None, False, True
        state.refresh()
        start = next(clock)
        try:
            with random.preserved(self._random), GradMode(True):
                again = _nodes_since(start, self.function())
        finally:
            state.autocast, state.recording, state.finds_anomalies, state.is_recomputing = modes
            state.refresh()
        names = [node.primitive.name for node in again]
        if names != self._names:
            raise GradientError(
                "checkpoint: the function did not compute the same when it ran again",
                where=f"first {', '.join(self._names)}; then {', '.join(names)}",
                fix="make it depend on its arguments and parameters only",
            )
        for reference, other in zip(self._nodes, again, strict=True):
            node = reference()
            if node is None or node.is_freed:
                continue
            for index, (kept, new) in enumerate(zip(node._inputs, other._inputs, strict=True)):
                if isinstance(kept, _Forgotten):
                    if isinstance(new, tensors.Tensor):
                        new.version = 0  # its changes belong to the second run, not to after this node
                    node._inputs[index] = new
            node._kept = dict(other._kept)
        self._nodes = []


class _Forgotten:
    """Stands for a kept value until it is computed again; shape and dtype are still known."""

    __slots__ = ("_region", "dtype", "shape")

    def __init__(self, region: _Region, shape: tuple[int, ...], dtype: Any) -> None:
        self._region, self.shape, self.dtype = region, shape, dtype

    def restore(self) -> None:
        self._region.restore()


def kept_bytes(result: object) -> int:
    """How much memory the graph behind a result keeps for the reverse pass, parameters and inputs included."""
    arrays: dict[int, Array] = {}
    for node in _nodes_since(0, result):
        for array in node.kept_arrays():
            root = array if array.base is None else array.base
            arrays[id(root)] = root
    return sum(array.nbytes for array in arrays.values())


def _nodes_since(start: int, result: object) -> list[Node]:
    """The nodes behind the result that were made after `start`, in order."""
    found: dict[int, Node] = {}
    waiting = [tensor.node for tensor in tree.flatten(result)[0] if tensor.node is not None]
    while waiting:
        node = waiting.pop()
        if node.number > start and node.number not in found:
            found[node.number] = node
            waiting.extend(edge[0] for edge in node.edges if edge is not None and isinstance(edge[0], Node))
    return [found[number] for number in sorted(found)]
