"""Gradients of recorded branches and loops, made of branches and loops, so that they can be recorded too.

They serve `grad` inside a traced function. Elsewhere a recording is run again call by call, and every call has left
its own node on the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import edgec.engine.tensor as tensors
from edgec.engine import primitives as p
from edgec.engine import tape
from edgec.engine.arrays import Array, is_float
from edgec.engine.definition import differentiate_definition
from edgec.engine.errors import TraceError
from edgec.engine.modes import enable_grad, state
from edgec.engine.node import Node
from edgec.engine.registry import Gradients, Primitive

if TYPE_CHECKING:
    from edgec.engine.recording import Recording
    from edgec.engine.replay import Plan
    from edgec.engine.tensor import Tensor

__all__ = ["BRANCH", "LOOP", "SCAN", "noted"]


def _no_forward(*_arrays: Array) -> Array:
    raise RuntimeError("control flow is run by edgec.engine.control_flow")


# No entries of PRIMITIVES: their bodies are no arrays.
BRANCH, LOOP, SCAN = (Primitive(name, _no_forward) for name in ("If", "Loop", "Scan"))


def noted(
    kind: Primitive,
    inputs: Sequence[Tensor],
    bodies: Sequence[Recording],
    settings: Mapping[str, object],
    results: Sequence[Array],
) -> tuple[Tensor, ...]:
    """Tensors for the results of a control node, on the tape if an input or a capture wants a gradient."""
    from edgec.engine.replay import Plan

    plans = [Plan(body, body.outputs) for body in bodies]
    captures = {id(tensor): tensor for plan in plans for tensor in plan.captures}
    places = {key: index for index, key in enumerate(captures)}
    given = [*inputs, *captures.values()]
    node = None
    if state.grad_enabled and any(tensor.requires_grad for tensor in given):
        of_plan = [[places[id(tensor)] for tensor in plan.captures] for plan in plans]
        attributes = {**settings, "plans": list(zip(plans, of_plan, strict=True)), "given": len(inputs)}
        node = Node(kind, given, attributes, tuple(results))
    return tuple(tensors.wrap(result, node, index) for index, result in enumerate(results))


@BRANCH.gradient
def _(call: Node, *gradients: Tensor | None) -> Gradients:
    from edgec.engine.control_flow import branch

    wanted = [index for index in range(call.input_count) if call.wants(index)]

    def backward(plan: Plan, places: Sequence[int]) -> Callable[[], list[Tensor]]:
        def define(_pred: Tensor, *captures: Tensor) -> Sequence[Tensor]:
            return plan.run((), [captures[place] for place in places])

        def body() -> list[Tensor]:
            found = differentiate_definition(call, gradients, define)
            return [_or_zero(found[index], call.input(index)) for index in wanted]

        return body

    plans = cast(list[Any], call.attribute("plans"))
    found = branch(call.input(0), *(backward(plan, places) for plan, places in plans))
    results: list[Tensor | None] = [None] * call.input_count
    for index, gradient in zip(wanted, found, strict=True):
        results[index] = gradient
    return results


@LOOP.gradient
def _(_call: Node, *_gradients: Tensor | None) -> Gradients:
    raise TraceError(
        "the gradient of a while_loop cannot be traced: how often it runs, and so what it must keep, is not known",
        fix="use scan, whose length is known, or differentiate outside the traced function",
    )


@SCAN.gradient
def _(call: Node, *gradients: Tensor | None) -> Gradients:
    """Run forward once more, keeping the carry of every step, then back over the steps."""
    from edgec.engine.control_flow import scan_flat

    ((plan, _places),) = cast(list[Any], call.attribute("plans"))
    count, given, reverse = call.integer("carried"), call.integer("given"), bool(call.attribute("reverse"))
    inputs = [call.input(index) for index in range(call.input_count)]
    init, xs, captures = inputs[:count], inputs[count:given], inputs[given:]

    def forward(*values: Tensor) -> list[Tensor]:
        return [*plan.run(values, captures)[:count], *values[:count]]

    before = scan_flat(forward, init, xs, reverse)[count:]
    floats = [index for index, tensor in enumerate(inputs) if is_float(tensor.dtype)]
    carried = [index for index in floats if not count <= index < given]  # what is summed from step to step
    sliced = [index for index in floats if count <= index < given]
    outputs = [index for index in range(call.output_count) if is_float(call.output_dtype(index))]
    slopes = [
        p.zeros(call.output_shape(index), call.output_dtype(index)) if gradient is None else gradient
        for index, gradient in enumerate(gradients)
    ]

    def backward(*values: Tensor) -> list[Tensor]:
        sums = dict(zip(carried, values[: len(carried)], strict=True))
        at = values[len(carried) :]
        point = [_entry(tensor) for tensor in (*at[:given], *captures)]
        slope = {index: sums[index] for index in outputs if index < count}
        slope |= dict(zip([index for index in outputs if index >= count], at[given:], strict=True))
        with enable_grad():
            made = plan.run(point[:given], point[given:])
            pairs = [(made[index], slope[index]) for index in outputs if made[index].requires_grad]
            found = tape.grad(
                [output for output, _ in pairs],
                [point[index] for index in floats],
                [gradient for _, gradient in pairs],
                create_graph=state_before,
                allow_unused=True,
            )
        step = {index: _or_zero(gradient, point[index]) for index, gradient in zip(floats, found, strict=True)}
        return [
            *(step[index] if index < count else sums[index] + step[index] for index in carried),
            *(step[index] for index in sliced),
        ]

    state_before = state.grad_enabled
    start = [slopes[index] if index < count else p.zeros(inputs[index].shape, inputs[index].dtype) for index in carried]
    along = [slopes[index] for index in outputs if index >= count]
    found = scan_flat(backward, start, [*before, *xs, *along], not reverse)
    results: list[Tensor | None] = [None] * call.input_count
    for index, gradient in zip([*carried, *sliced], found, strict=True):
        results[index] = gradient
    return results


def _entry(tensor: Tensor) -> Tensor:
    """Where an inner reverse pass stops; connected to `tensor` if gradients are noted."""
    if not is_float(tensor.dtype):
        return tensor
    return tensor.clone() if state.grad_enabled and tensor.requires_grad else p.detach(tensor).requires_grad_()


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return p.zeros(like.shape, like.dtype) if gradient is None else gradient
