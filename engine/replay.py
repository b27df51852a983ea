"""Run a recording again on other tensors: the same primitives in the same order, noted on the tape like any calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from edgec.engine import control_flow
from edgec.engine.errors import AnomalyError
from edgec.engine.modes import state
from edgec.engine.recording import DRAWING, Recording
from edgec.engine.registry import apply

if TYPE_CHECKING:
    from edgec.engine.recording import RecordedNode
    from edgec.engine.tensor import Tensor

__all__ = ["Plan"]


@dataclass(frozen=True)
class _Step:
    op_type: str
    inputs: tuple[int, ...]
    attributes: dict[str, object]
    outputs: tuple[int, ...]
    is_noted: bool
    source: str
    # Values that no later step reads, so that memory is freed as in the eager run.
    done: tuple[int, ...]


@dataclass(frozen=True)
class _Body:
    """A branch or loop body, and where its captures are among the values of the plan around it."""

    plan: Plan
    captures: tuple[int, ...]


class Plan:
    """A recording as steps over numbered values; the first are the inputs, then come the captures, then the results.

    Args:
        recording: What was run.
        outputs: The recorded tensors wanted of it.

    Attributes:
        captures: Tensors from outside that the steps read: parameters, buffers, constants.
    """

    def __init__(self, recording: Recording, outputs: Sequence[Tensor]) -> None:
        wanted = [recording.resolve(tensor) for tensor in outputs]
        nodes = _needed(recording, wanted)
        self.captures: list[Tensor] = _captures(recording, nodes, wanted)
        self._slots = {id(tensor): slot for slot, tensor in enumerate([*recording.inputs, *self.captures])}
        self._none = len(self._slots)
        self._count = self._none + 1
        numbered = [(node, self._numbered(node)) for node in nodes]
        self._outputs = [self._slots[id(tensor)] for tensor in wanted]
        last = {slot: index for index, (_, step) in enumerate(numbered) for slot in _reads(step)}
        kept = {*self._outputs, *range(self._none + 1)}
        self._steps = [
            _Step(
                step.op_type,
                step.inputs,
                step.attributes,
                step.outputs,
                step.is_noted,
                step.source,
                tuple(slot for slot in {*_reads(step), *step.outputs} if slot not in kept and last.get(slot, i) == i),
            )
            for i, (_, step) in enumerate(numbered)
        ]
        self._slots = {}

    def run(self, inputs: Sequence[Tensor], captures: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """The outputs for `inputs`; the captures are those of the recording unless others are given."""
        values: list[Tensor | None] = [*inputs, *(self.captures if captures is None else captures)]
        values.extend([None] * (self._count - len(values)))
        is_enabled = state.grad_enabled
        try:
            for step in self._steps:
                state.grad_enabled = is_enabled and step.is_noted
                given = [values[slot] for slot in step.inputs]
                control = control_flow.RUNNERS.get(step.op_type)
                made: Sequence[Tensor]
                if control is None:
                    made = apply(step.op_type, given, step.attributes, outputs=len(step.outputs))
                    if state.finds_anomalies and made[0].node is not None:
                        made[0].node.source = step.source
                else:
                    made = control(given, _bound(step.attributes, values))
                for slot, tensor in zip(step.outputs, made, strict=True):
                    values[slot] = tensor
                for slot in step.done:
                    values[slot] = None
        except AnomalyError as err:
            err.where = step.source  # the line of the operator, not of the call that ran the graph
            raise
        finally:
            state.grad_enabled = is_enabled
        return tuple(cast("Tensor", values[slot]) for slot in self._outputs)

    def _numbered(self, node: RecordedNode) -> _Step:
        inputs = tuple(self._none if tensor is None else self._slots[id(tensor)] for tensor in node.inputs)
        attributes: dict[str, object] = dict(node.attributes)
        for name, body in attributes.items():
            if isinstance(body, Recording):
                plan = Plan(body, body.outputs)
                attributes[name] = _Body(plan, tuple(self._slots[id(tensor)] for tensor in plan.captures))
        outputs = tuple(range(self._count, self._count + len(node.outputs)))
        self._slots.update((id(tensor), slot) for tensor, slot in zip(node.outputs, outputs, strict=True))
        self._count += len(outputs)
        return _Step(node.op_type, inputs, attributes, outputs, node.is_noted, node.source, ())


def _needed(recording: Recording, wanted: Sequence[Tensor]) -> list[RecordedNode]:
    needed = {id(tensor) for tensor in wanted}
    kept: list[RecordedNode] = []
    for node in reversed(recording.nodes):
        made = {id(tensor) for tensor in node.outputs}
        if _draws(node) or not needed.isdisjoint(made):
            kept.append(node)
            needed -= made  # the calls inside a custom operator made them before; it makes them again as a whole
            needed.update(id(tensor) for tensor in node.reads())
    return kept[::-1]


def _draws(node: RecordedNode) -> bool:
    return node.op_type in DRAWING or any(_draws(inner) for body in node.bodies() for inner in body.nodes)


def _captures(recording: Recording, nodes: Sequence[RecordedNode], wanted: Sequence[Tensor]) -> list[Tensor]:
    made = {id(tensor) for tensor in recording.inputs}
    found: dict[int, Tensor] = {}
    for node in nodes:
        for tensor in node.reads():
            if id(tensor) not in made:
                found.setdefault(id(tensor), tensor)
        made.update(id(tensor) for tensor in node.outputs)
    for tensor in wanted:
        if id(tensor) not in made:
            found.setdefault(id(tensor), tensor)
    return list(found.values())


def _reads(step: _Step) -> list[int]:
    bodies = [value for value in step.attributes.values() if isinstance(value, _Body)]
    return [*step.inputs, *(slot for body in bodies for slot in body.captures)]


def _bound(attributes: dict[str, object], values: Sequence[Tensor | None]) -> dict[str, object]:
    """The attributes with every body as a function of its inputs alone."""

    def function(body: _Body) -> control_flow.Body:
        captured = [cast("Tensor", values[slot]) for slot in body.captures]
        return lambda *inputs: body.plan.run(inputs, captured)

    return {name: function(value) if isinstance(value, _Body) else value for name, value in attributes.items()}
