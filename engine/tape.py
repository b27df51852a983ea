"""The tape and the reverse pass.

A differentiable call leaves a Node: which primitive, where its inputs came from, and the few values its rule reads.
Nodes are numbered as they are made, so going through them in falling order is a reverse topological order, and the
reverse pass is one loop: take a node, ask its primitive's rule for the gradients of the inputs, add them up.

With ``create_graph`` the rules run with gradients enabled. They consist of primitives, so they leave nodes of their
own and the result can be differentiated again, to any order.

The numbers are also the clock of changes in place: a tensor carries the moment of its last one, and a kept value that
changed after its node was made is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import anomaly
from edgec.engine.errors import GradientError
from edgec.engine.hooks import Hooks
from edgec.engine.modes import GradMode, ReverseMode, state
from edgec.engine.node import Node, edge_of

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

__all__ = ["Node", "backward", "grad"]

# A gradient's place: the id of a node and the index of its output, or the id of a leaf and 0.
Slot: TypeAlias = tuple[int, int]


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
        GradientError: No output requires a gradient, its graph was freed by an earlier pass, or a value that a rule
            reads was changed in place.
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
            elif not create_graph and (id(total.array) in given or total.array.base is not None):
                # The array may be shared with another gradient; .grad must be safe to change in place.
                total = tensors.wrap(total.array.copy(), None, 0)
            given.add(id(total.array))
            leaf.grad = total


@overload
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = ...,
    retain_graph: bool | None = ...,
    create_graph: bool = ...,
    allow_unused: Literal[False] = ...,
) -> tuple[Tensor, ...]: ...
@overload
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = ...,
    retain_graph: bool | None = ...,
    create_graph: bool = ...,
    allow_unused: bool = ...,
) -> tuple[Tensor | None, ...]: ...
def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` by `inputs`, leaves or not; ``.grad`` stays untouched.

    Args:
        outputs: One or more tensors; several elements count as their sum.
        inputs: What to differentiate by.
        grad_outputs: Weights of the outputs; ones where None.
        retain_graph: Keep the graph for another pass; defaults to `create_graph`.
        create_graph: Make the gradients differentiable themselves.
        allow_unused: Give None for an input that the outputs do not depend on, instead of an error.

    Raises:
        GradientError: An input does not require a gradient or is not used, the graph was freed, or a value that a
            rule reads was changed in place.
    """
    wanted = [inputs] if isinstance(inputs, tensors.Tensor) else list(inputs)
    for index, tensor in enumerate(wanted):
        if not tensor.requires_grad and not allow_unused:
            raise GradientError(
                f"grad: input {index} does not require a gradient",
                where=repr(tensor),
                fix="set requires_grad=True (or stop_gradient=False) before it is used",
            )
    slots = [(id(target), index) for target, index in map(edge_of, wanted)]
    roots = _roots(outputs, grad_outputs)
    sums = _reverse(roots, set(slots), {}, create_graph, create_graph if retain_graph is None else retain_graph)
    found: list[Tensor | None] = []
    for index, (slot, tensor) in enumerate(zip(slots, wanted, strict=True)):
        gradient = sums.get(slot)
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
            weight = tensors.wrap(np.ones_like(output.array), None, 0)
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
    slots: set[Slot] | None,
    leaves: dict[int, Tensor],
    create_graph: bool,
    retain_graph: bool,
) -> dict[Slot, Tensor]:
    """The summed gradients of `slots` (of all leaves if None)."""
    nodes = _reachable(roots, leaves)
    reached = nodes
    if slots is None:
        for node in nodes:
            node.wanted = [edge is not None for edge in node.edges]
    else:
        nodes = _on_the_way(nodes, slots)
    finds_anomalies = state.finds_anomalies
    sums = _Sums(can_add_in_place=not create_graph and state.recording is None)
    with ReverseMode(create_graph):
        for output, weight in roots:
            target, index = edge_of(output)
            sums.add((id(target), index), weight)
        for node in reversed(nodes):
            given = sums.of_node(node, slots)
            if given is not None:
                gradients = anomaly.run_rule(node, given) if finds_anomalies else node.run_rule(given)
                for edge, is_wanted, gradient in zip(node.edges, node.wanted, gradients, strict=False):
                    if is_wanted and edge is not None and gradient is not None:
                        sums.add((id(edge[0]), edge[1]), gradient)
            if not retain_graph:
                node.free()
        for target in reached if slots is not None else ():
            if target.hooks is not None and target not in nodes:  # wanted themselves, with nothing wanted behind
                sums.run_hooks(id(target), target.hooks, False)
        for leaf in leaves.values():
            hooks = getattr(leaf, "hooks", None)
            if hooks is not None:
                sums.run_hooks(id(leaf), {0: hooks}, slots is None)
    return sums.totals


def _on_the_way(nodes: list[Node], slots: set[Slot]) -> list[Node]:
    """Those nodes from which a wanted tensor can be reached, each told which of its inputs lead there."""
    leading: set[int] = set()
    kept = []
    for node in nodes:
        node.wanted = [
            edge is not None and ((id(edge[0]), edge[1]) in slots or id(edge[0]) in leading) for edge in node.edges
        ]
        if any(node.wanted):
            leading.add(id(node))
            kept.append(node)
    return kept


class _Sums:
    """The gradients so far, by slot."""

    def __init__(self, can_add_in_place: bool) -> None:
        self.totals: dict[Slot, Tensor] = {}
        self._can_add_in_place = can_add_in_place
        # Slots whose array was made here by an addition, so that nobody else holds it.
        self._own: set[Slot] = set()

    def add(self, slot: Slot, gradient: Tensor) -> None:
        before = self.totals.get(slot)
        if before is None:
            self.totals[slot] = gradient
        elif slot in self._own and before.array.dtype == gradient.array.dtype:
            np.add(before.array, gradient.array, out=before.array)
        else:
            self.totals[slot] = before + gradient
            if self._can_add_in_place:
                self._own.add(slot)

    def of_node(self, node: Node, slots: set[Slot] | None) -> list[Tensor | None] | None:
        """The gradients of the node's outputs, None if there are none; only wanted ones are kept for later."""
        key, totals = id(node), self.totals
        if node.hooks is not None:
            self.run_hooks(key, node.hooks, slots is None)
        found: list[Tensor | None] = []
        has_any = False
        for index in range(node.output_count):
            gradient = totals.get((key, index))
            found.append(gradient)
            if gradient is not None:
                has_any = True
                if slots is None or (key, index) not in slots:
                    del totals[key, index]
        return found if has_any else None

    def run_hooks(self, key: int, hooks: dict[int, Hooks], is_accumulating: bool) -> None:
        for index, several in hooks.items():
            gradient = self.totals.get((key, index))
            if gradient is not None:
                self.totals[key, index] = several.run(gradient, is_accumulating)
                self._own.discard((key, index))
