"""Primitives that are defined by other primitives: one function is the forward and, differentiated, the gradient.

This is for operators that are a formula over others: what is written once cannot disagree with its own gradient, and
it can be differentiated as often as its parts. The gradient costs another forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import edgec.engine.tensor as tensors
from edgec.engine import modes
from edgec.engine.arrays import Array
from edgec.engine.definition import differentiate_definition
from edgec.engine.registry import Forward, Gradients, Primitive, primitive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

__all__ = ["defined"]

Definition: TypeAlias = "Callable[..., Tensor | Sequence[Tensor]]"


def defined(name: str, since: int = 22) -> Callable[[Definition], Primitive]:
    """Decorator that registers a function of tensors as the primitive `name`; attributes are its keyword-only ones.

    The function must use primitives only where a gradient shall flow; it may read the values of integer inputs.
    Traced models are of opset 22: a primitive of a later one (`since`) is recorded as what it is defined by.
    """

    def register(define: Definition) -> Primitive:
        made = primitive(name)(cast(Forward, define))
        made.forward = _evaluation(define)
        if since > 22:
            made.expansion = define

        @made.gradient
        def _(call: Node, *gradients: Tensor | None) -> Gradients:
            attributes = dict(call.attributes)
            if made.counts_outputs:
                attributes["output_count"] = call.output_count
            return differentiate_definition(call, gradients, lambda *inputs: define(*inputs, **attributes))

        return made

    return register


def _evaluation(define: Definition) -> Forward:
    def forward(*arrays: Array | None, **attributes: object) -> tuple[Array, ...]:
        inputs = [None if array is None else tensors.wrap(array, None, 0) for array in arrays]
        with _inner_calls():
            made = define(*inputs, **attributes)
        outputs = [made] if isinstance(made, Tensor) else made
        return tuple(output.data for output in outputs)

    return forward


class _Here:
    """Runs a forward in the context it is called in: a context cannot be entered twice."""

    @staticmethod
    def run(function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        return function(*args, **kwargs)


@contextmanager
def _inner_calls() -> Iterator[None]:
    """Calls inside leave no trace: what is noted, recorded, cast and checked is the primitive as a whole."""
    state = modes.state
    before = state.grad_enabled, state.recording, state.autocast, state.finds_anomalies, state.quiet
    state.grad_enabled, state.recording, state.autocast, state.finds_anomalies = False, None, None, False
    state.quiet = cast(Any, _Here)
    state.refresh()
    try:
        yield
    finally:
        state.grad_enabled, state.recording, state.autocast, state.finds_anomalies, state.quiet = before
        state.refresh()
