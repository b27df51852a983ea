"""One call of a primitive on the tape: what its gradient rule sees."""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine.arrays import Array
from edgec.engine.errors import GradientError

if TYPE_CHECKING:
    from edgec.engine.hooks import Hooks
    from edgec.engine.registry import Primitive
    from edgec.engine.tensor import Tensor

__all__ = ["Edge", "Node", "Outline", "edge_of", "note_change"]

# Numbers the nodes, and so is the clock by which changes in place are dated; 0 is before everything.
clock = itertools.count(1)

# Where a gradient goes: to an output of a node, or to a leaf tensor (index 0).
Edge: TypeAlias = "tuple[Node | Tensor, int]"
# What stays of a value that the rule does not read: shape and dtype.
Outline: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"

# Arrays that were written to (by optimizers, mostly) and when, by id: views of them may be kept by nodes.
_written: dict[int, tuple[weakref.ref[Array], int]] = {}


class Forgotten(Protocol):
    """Stands for a kept value that is computed again when it is needed; see `edgec.engine.recompute`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def restore(self) -> None: ...


_NOTHING: dict[int, Array | Forgotten] = {}


class Node:
    """One call of a primitive on the tape, as its gradient rule sees it."""

    __slots__ = (
        "__weakref__", "_alive", "_inputs", "_kept", "_outlines", "attributes", "edges", "hooks", "is_freed", "number",
        "primitive", "source", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        primitive: Primitive,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, object],
        results: tuple[Array, ...],
    ) -> None:
        self.source: str | None
        self.primitive = primitive
        self.attributes = attributes
        self.number = next(clock)
        self.is_freed = False
        self.hooks: dict[int, Hooks] | None = None
        self.wanted: list[bool] = []
        self.edges: list[Edge | None] = [
            None
            if tensor is None or not tensor._requires_grad
            else (tensor, 0)
            if tensor.node is None
            else (tensor.node, tensor.node_output)
            for tensor in inputs
        ]
        keeps = primitive.keeps_inputs
        if primitive.reads is not None:
            keeps = frozenset().union(
                *(primitive.reads.get(index, ()) for index, edge in enumerate(self.edges) if edge is not None)
            )
        self._inputs: list[Tensor | Outline | Forgotten | None] = (
            list(inputs)
            if keeps is None
            else [
                tensor if tensor is None or index in keeps else (tensor.array.shape, tensor.array.dtype)
                for index, tensor in enumerate(inputs)
            ]
        )
        self._outlines = [(result.shape, result.dtype) for result in results]
        self._alive: tuple[weakref.ref[Tensor], ...] = ()
        self._kept = _NOTHING
        if primitive.keeps_outputs:
            self._kept = {i: np.asarray(results[i]) for i in primitive.keeps_outputs if i < len(results)}

    def watch(self, outputs: Iterable[Tensor]) -> None:
        # Weak, because the outputs hold this node. A recording keeps them alive, and a rule must then use the very
        # tensors that were recorded, or the recorded gradient would contain constants.
        self._alive = tuple(weakref.ref(tensor) for tensor in outputs)

    def wants(self, index: int) -> bool:
        """Whether the gradient of this input is needed; a rule may skip the others."""
        return index < len(self.wanted) and self.wanted[index]

    def has(self, index: int) -> bool:
        """Whether this optional input was given."""
        return index < len(self._inputs) and self._inputs[index] is not None

    @property
    def input_count(self) -> int:
        return len(self._inputs)

    def input(self, index: int) -> Tensor:
        kept = self._inputs[index]
        if not isinstance(kept, tensors.Tensor):
            if kept is None or isinstance(kept, tuple):
                raise RuntimeError(f"{self.primitive.name} does not keep input {index}; declare it in keeps_inputs")
            kept.restore()
            kept = self._inputs[index]
            assert isinstance(kept, tensors.Tensor)
        if kept.version > self.number or (_written and _view_is_newer(kept.array, self.number)):
            raise self._changed(f"its input {index}", kept)
        return kept

    def shape(self, index: int) -> tuple[int, ...]:
        kept = self._inputs[index]
        if kept is None:
            raise RuntimeError(f"{self.primitive.name} was called without input {index}")
        return kept[0] if isinstance(kept, tuple) else kept.shape

    def dtype(self, index: int) -> np.dtype[np.generic]:
        kept = self._inputs[index]
        if kept is None:
            raise RuntimeError(f"{self.primitive.name} was called without input {index}")
        return kept[1] if isinstance(kept, tuple) else kept.dtype

    def output(self, index: int) -> Tensor:
        alive = self._alive[index]() if index < len(self._alive) else None
        if alive is not None:
            if alive.version > self.number:
                raise self._changed("its output" if self.output_count == 1 else f"its output {index}", alive)
            return alive
        kept = self._kept[index]
        if not isinstance(kept, np.ndarray):
            kept.restore()
            kept = self._kept[index]
            assert isinstance(kept, np.ndarray)
        return tensors.wrap(kept, self, index)

    def output_shape(self, index: int) -> tuple[int, ...]:
        return self._outlines[index][0]

    def output_dtype(self, index: int) -> np.dtype[np.generic]:
        return self._outlines[index][1]

    @property
    def output_count(self) -> int:
        return len(self._outlines)

    def attribute(self, name: str) -> object:
        """The attribute's value, or the operator's default."""
        return self.attributes[name] if name in self.attributes else self.primitive.defaults[name]

    def integer(self, name: str) -> int:
        return operator.index(self.attribute(name))  # type: ignore[arg-type]

    def real(self, name: str) -> float:
        return float(self.attribute(name))  # type: ignore[arg-type]

    def integers(self, name: str) -> list[int] | None:
        value = self.attribute(name)
        return None if value is None else [int(item) for item in value]  # type: ignore[attr-defined]

    def run_rule(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of the inputs from those of the outputs."""
        rule = self.primitive.rule
        if rule is None:
            raise GradientError(f"{self.primitive.name} has no gradient rule")
        return rule(self, *gradients)

    def kept_arrays(self) -> list[Array]:
        """The values that are held for the rule."""
        inputs = [kept.array for kept in self._inputs if isinstance(kept, tensors.Tensor)]
        return inputs + [kept for kept in self._kept.values() if isinstance(kept, np.ndarray)]

    def free(self) -> None:
        """Let go of the kept values and of everything before this node."""
        self.is_freed = True
        self.edges, self._inputs, self._kept, self.attributes, self.hooks = [], [], {}, {}, None

    def _changed(self, what: str, tensor: Tensor) -> GradientError:
        return GradientError(
            f"the gradient of {self.primitive.name} needs {what}, which was changed in place after the call",
            where=repr(tensor),
            fix="compute a new tensor instead (y = y + 1 for y.add_(1)), or make the change after backward()",
        )


def edge_of(tensor: Tensor) -> Edge:
    return (tensor, 0) if tensor.node is None else (tensor.node, tensor.node_output)


def note_change(array: Array) -> int:
    """Remember that `array` was written to, for nodes that keep a view of it; gives the moment."""
    now = next(clock)
    root = array if array.base is None else array.base
    if isinstance(root, np.ndarray):  # otherwise a foreign buffer, whose views have this array as base no more
        key = id(root)
        _written[key] = (weakref.ref(root, lambda _gone: _written.pop(key, None) and None), now)
    return now


def _view_is_newer(array: Array, number: int) -> bool:
    base = array.base
    if base is None:
        return False
    entry = _written.get(id(base))
    return entry is not None and entry[1] > number
