"""Gradients of rare operators by differentiating their definition in other primitives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgec.engine import modes, tape
from edgec.engine import primitives as p

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

__all__ = ["differentiate_definition"]


def differentiate_definition(
    call: tape.Node, gradients: Sequence[Tensor | None], define: Callable[..., Tensor | Sequence[Tensor]]
) -> list[Tensor | None]:
    """The gradients of a call whose outputs `define(*inputs)` computes in primitives.

    It costs another forward pass, so it is for operators that are not worth a rule of their own. The definition must
    use its arguments, not `call.input`.
    """
    create_graph = modes.is_grad_enabled()
    inputs: list[Tensor | None] = []
    for index in range(call.input_count):
        given = call.input(index) if call.has(index) else None
        if given is not None and call.wants(index):
            # A fresh tensor is where the inner pass stops; an Identity keeps it connected when that is wanted.
            given = given.clone() if create_graph else p.detach(given).requires_grad_()
        inputs.append(given)
    with modes.enable_grad():
        made = define(*inputs)
        outputs = list(made) if isinstance(made, Sequence) else [made]
        pairs = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=False)
            if gradient is not None and output.requires_grad
        ]
        wanted = [index for index in range(call.input_count) if call.wants(index)]
        if not pairs:
            return [None] * call.input_count
        found = tape.grad(
            [output for output, _ in pairs],
            [tensor for index in wanted if (tensor := inputs[index]) is not None],
            [gradient for _, gradient in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    results: list[Tensor | None] = [None] * call.input_count
    for index, gradient in zip(wanted, found, strict=True):
        results[index] = gradient
    return results
