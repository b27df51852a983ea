"""The tape and the reverse pass.

A differentiable call leaves a Node: which primitive, where its inputs came from, and the few values its rule reads.
Nodes are numbered as they are made, so going through them in falling order is a reverse topological order, and the
reverse pass is one loop: take a node, ask its primitive's rule for the gradients of the inputs, add them up.

With ``create_graph`` the rules run with gradients enabled. They consist of primitives, so they leave nodes of their
own and the result can be differentiated again, to any order.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, overload

import edgec.engine.tensor as tensors
import numpy as np
from edgec.engine.arrays import Array, is_float
from edgec.engine.errors import GradientError
from edgec.engine.modes import GradMode

if TYPE_CHECKING:
    from edgec.engine.registry import Primitive
    from edgec.engine.tensor import Tensor

__all__ = ["Node", "backward", "grad"]

_numbers = itertools.count()

# Where a gradient goes: to an output of a node, or to a leaf tensor (index 0).
Edge: TypeAlias = "tuple[Node | Tensor, int]"


class Outline(NamedTuple):
    """What stays of an input whose value the rule does not read."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


class Node:
    """One call of a primitive on the tape, as its gradient rule sees it."""

    __slots__ = (
        "_alive", "_inputs", "_kept", "_outlines", "attributes", "edges", "is_freed", "number", "primitive", "wanted",
    )  # fmt: skip

    def __init__(
        self,
        primitive: Primitive,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, object],
        results: tuple[Array, ...],
    ) -> None:
        keeps = primitive.keeps_inputs
        self.primitive = primitive
        self.attributes = attributes
        self.number = next(_numbers)
        self.is_freed = False
        self.edges: list[Edge | None] = [
            edge_of(tensor) if tensor is not None and tensor.requires_grad else None for tensor in inputs
        ]
        self.wanted: list[bool] = [edge is not None for edge in self.edges]
        self._inputs: list[Tensor | Outline | None] = [
            tensor if tensor is None or keeps is None or index in keeps else Outline(tensor.shape, tensor.dtype)
            for index, tensor in enumerate(inputs)
        ]
        self._outlines = [Outline(result.shape, result.dtype) for result in results]
        self._kept = {index: np.asarray(results[index]) for index in primitive.keeps_outputs if index < len(results)}
        self._alive: tuple[weakref.ref[Tensor], ...] = ()

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
        if kept is None or isinstance(kept, Outline):
            raise RuntimeError(f"{self.primitive.name} does not keep input {index}; declare it in keeps_inputs")
        return kept

    def shape(self, index: int) -> tuple[int, ...]:
        kept = self._inputs[index]
        if kept is None:
            raise RuntimeError(f"{self.primitive.name} was called without input {index}")
        return kept.shape

    def dtype(self, index: int) -> np.dtype[np.generic]:
        kept = self._inputs[index]
        if kept is None:
            raise RuntimeError(f"{self.primitive.name} was called without input {index}")
        return kept.dtype

    def output(self, index: int) -> Tensor:
        alive = self._alive[index]() if index < len(self._alive) else None
        return alive if alive is not None else tensors.wrap(self._kept[index], self, index)

    def output_shape(self, index: int) -> tuple[int, ...]:
        return self._outlines[index].shape

    def output_dtype(self, index: int) -> np.dtype[np.generic]:
        return self._outlines[index].dtype

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

    def free(self) -> None:
        """Let go of the kept values and of everything before this node."""
        self.is_freed = True
        self.edges, self._inputs, self._kept = [], [], {}


def edge_of(tensor: Tensor) -> Edge:
    return (tensor, 0) if tensor.node is None else (tensor.node, tensor.node_output)


def backward(
    outputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add the gradients of `outputs` to the ``.grad`` of every leaf tensor they depend on.

    Args:
        outputs: Usually one loss. An output with several elements counts as the sum of them.
        grad_outputs: Weights of the outputs; ones where None.
        retain_graph: Keep the graph for another pass; defaults to `create_graph`.
        create_graph: Make the gradients differentiable themselves.

    Raises:
        GradientError: No output requires a gradient, or its graph was freed by an earlier pass.
    """
    roots = _roots(outputs, grad_outputs)
    leaves: dict[int, Tensor] = {}
    sums = _reverse(roots, None, leaves, create_graph, create_graph if retain_graph is None else retain_graph)
    given: set[int] = set()
    with GradMode(create_graph):
        for leaf in leaves.values():
            total = sums.get((id(leaf), 0))
            if total is None:
                continue
            if leaf.grad is not None:
                total = leaf.grad + total
            elif not create_graph and (id(total.data) in given or total.data.base is not None):
                # The array may be shared with another gradient; .grad must be safe to change in place.
                total = tensors.wrap(total.data.copy(), None, 0)
            given.add(id(total.data))
            leaf.grad = total


@overload
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = ...,
    create_graph: bool = ...,
    retain_graph: bool | None = ...,
    allow_unused: Literal[False] = ...,
) -> tuple[Tensor, ...]: ...
@overload
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = ...,
    create_graph: bool = ...,
    retain_graph: bool | None = ...,
    allow_unused: bool = ...,
) -> tuple[Tensor | None, ...]: ...
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` by `inputs`, leaves or not; ``.grad`` stays untouched.

    Args:
        outputs: One or more tensors; several elements count as their sum.
        inputs: What to differentiate by.
        grad_outputs: Weights of the outputs; ones where None.
        create_graph: Make the gradients differentiable themselves.
        retain_graph: Keep the graph for another pass; defaults to `create_graph`.
        allow_unused: Give None for an input that the outputs do not depend on, instead of an error.

    Raises:
        GradientError: An input does not require a gradient or is not used, or the graph was freed.
    """
    wanted = [inputs] if isinstance(inputs, tensors.Tensor) else list(inputs)
    for index, tensor in enumerate(wanted):
        if not tensor.requires_grad and not allow_unused:
            raise GradientError(
                f"grad: input {index} does not require a gradient",
                where=repr(tensor),
                fix="set requires_grad=True (or stop_gradient=False) before it is used",
            )
    keys = [(id(target), index) for target, index in map(edge_of, wanted)]
    roots = _roots(outputs, grad_outputs)
    sums = _reverse(roots, set(keys), {}, create_graph, create_graph if retain_graph is None else retain_graph)
    found: list[Tensor | None] = []
    for index, (key, tensor) in enumerate(zip(keys, wanted, strict=True)):
        gradient = sums.get(key)
        if gradient is None and not allow_unused:
            raise GradientError(
                f"grad: the outputs do not depend on input {index}",
                where=repr(tensor),
                fix="check that it takes part in the computation, or pass allow_unused=True to get None",
            )
        found.append(gradient)
    return tuple(found)


def _roots(
    outputs: Tensor | Sequence[Tensor], grad_outputs: Tensor | Sequence[Tensor | None] | None
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of an output that requires a gradient and the gradient it starts with."""
    several = [outputs] if isinstance(outputs, tensors.Tensor) else list(outputs)
    if grad_outputs is None or isinstance(grad_outputs, tensors.Tensor):
        weights: list[Tensor | None] = [grad_outputs] * len(several)
    else:
        weights = list(grad_outputs)
    if len(weights) != len(several):
        raise ValueError(f"{len(several)} outputs, but {len(weights)} grad_outputs")
    roots = []
    for output, weight in zip(several, weights, strict=True):
        if weight is None:
            weight = tensors.wrap(np.ones_like(output.data), None, 0)
        if weight.shape != output.shape:
            raise ValueError(f"the output has shape {output.shape}, its gradient {weight.shape}")
        if output.requires_grad:
            roots.append((output, weight))
    if not roots:
        raise GradientError(
            "no output requires a gradient",
            where=", ".join(map(repr, several)),
            fix="give an input requires_grad=True (or stop_gradient=False), and compute outside no_grad()",
        )
    return roots


def _reachable(roots: list[tuple[Tensor, Tensor]], leaves: dict[int, Tensor]) -> list[Node]:
    """Every node behind the roots, oldest first; `leaves` collects the leaf tensors by id."""
    found: dict[int, Node] = {}
    waiting = [edge_of(output)[0] for output, _ in roots]
    while waiting:
        target = waiting.pop()
        if not isinstance(target, Node):
            leaves[id(target)] = target
        elif target.number not in found:
            if target.is_freed:
                raise GradientError(
                    "the graph behind this result was freed by an earlier backward() or grad()",
                    where=f"the call of {target.primitive.name}",
                    fix="compute the result again, or pass retain_graph=True to the earlier call",
                )
            found[target.number] = target
            waiting.extend(edge[0] for edge in target.edges if edge is not None)
    return [found[number] for number in sorted(found)]


def _reverse(
    roots: list[tuple[Tensor, Tensor]],
    keys: set[tuple[int, int]] | None,
    leaves: dict[int, Tensor],
    create_graph: bool,
    retain_graph: bool,
) -> dict[tuple[int, int], Tensor]:
    """The summed gradients of `keys` (all leaves if None), by (id of node or leaf, output index)."""
    nodes = _reachable(roots, leaves)
    if keys is not None:
        nodes = _on_the_way(nodes, keys)
    else:
        for node in nodes:
            node.wanted = [edge is not None for edge in node.edges]
    sums: dict[tuple[int, int], Tensor] = {}
    with GradMode(create_graph):
        for output, weight in roots:
            target, index = edge_of(output)
            _add(sums, (id(target), index), weight)
        for node in reversed(nodes):
            slots = [(id(node), index) for index in range(node.output_count)]
            given = [sums.get(slot) for slot in slots]
            if any(gradient is not None for gradient in given):
                if node.primitive.rule is None:
                    raise GradientError(f"{node.primitive.name} has no gradient rule")
                gradients = node.primitive.rule(node, *given)
                for edge, is_wanted, gradient in zip(node.edges, node.wanted, gradients, strict=False):
                    if edge is not None and is_wanted and gradient is not None:
                        _add(sums, (id(edge[0]), edge[1]), gradient)
            for slot in slots:
                if keys is None or slot not in keys:
                    sums.pop(slot, None)
    if not retain_graph:
        for node in nodes:
            node.free()
    return sums


def _on_the_way(nodes: list[Node], keys: set[tuple[int, int]]) -> list[Node]:
    """Those nodes from which a wanted tensor can be reached, each told which of its inputs lead there."""
    leading: set[int] = set()
    kept = []
    for node in nodes:
        node.wanted = [
            edge is not None and ((id(edge[0]), edge[1]) in keys or id(edge[0]) in leading) for edge in node.edges
        ]
        if any(node.wanted):
            leading.add(id(node))
            kept.append(node)
    return kept


def _add(sums: dict[tuple[int, int], Tensor], key: tuple[int, int], gradient: Tensor) -> None:
    before = sums.get(key)
    sums[key] = gradient if before is None else before + gradient


def requires_float(dtype: np.dtype[np.generic]) -> None:
    if not is_float(dtype):
        raise TypeError(f"only floating tensors can require a gradient, this one is {dtype}")
