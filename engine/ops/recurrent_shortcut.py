"""Which calls of RNN, GRU and LSTM may take the short way through `recurrent_steps`, and what it gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.modes import is_first_order
from edgec.engine.ops.recurrent_steps import Direction
from edgec.engine.registry import Gradients, Primitive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor

__all__ = ["shorten"]


def _directions_of(
    kind: str, arrays: Sequence[Array | None], attributes: Mapping[str, object]
) -> list[Direction] | None:
    """The network for the short way, or None where only the definition knows the variant."""
    given: list[Array | None] = [*arrays, *[None] * (8 - len(arrays))]
    (x, weights, recurrence, bias, lengths), states = given[:5], given[5:]
    assert x is not None
    assert weights is not None
    assert recurrence is not None
    unusual = ("activations", "clip", "input_forget")
    if any(attributes.get(name) for name in unusual) or (kind == "LSTM" and states[2] is not None):
        return None
    if x.dtype.itemsize < 4 or not x.size:
        return None
    is_batch_first = bool(attributes.get("layout"))
    x = x.swapaxes(0, 1) if is_batch_first else x
    made = []
    for index in range(len(weights)):
        zeros = np.zeros((x.shape[1], recurrence.shape[2]), x.dtype)
        first = [
            zeros if state is None else (state[:, index] if is_batch_first else state[index])
            for state in states[: 2 if kind == "LSTM" else 1]
        ]
        no_bias = np.zeros(2 * recurrence.shape[1], x.dtype)
        made.append(
            Direction(
                kind,
                x,
                weights[index],
                recurrence[index],
                no_bias if bias is None else bias[index],
                first,
                lengths,
                attributes.get("direction") == "reverse" or index == 1,
                bool(attributes.get("linear_before_reset")),
            )
        )
    return made


def shorten(made: Primitive) -> None:
    """Let the usual variants take the short way, and training without a second derivative too."""
    define, differentiate = made.forward, made.rule
    assert differentiate is not None

    def forward(*arrays: Array | None, **attributes: object) -> Array | tuple[Array, ...]:
        directions = _directions_of(made.name, arrays, attributes)
        if directions is None:
            return define(*arrays, **attributes)
        sequences, lasts = zip(*(direction.forward() for direction in directions), strict=True)
        y, finals = np.stack(sequences, 1), [np.stack(states) for states in zip(*lasts, strict=True)]
        if attributes.get("layout"):
            y, finals = y.transpose(2, 0, 1, 3), [state.swapaxes(0, 1) for state in finals]
        return (y, *finals)

    def rule(call: Node, *gradients: Tensor | None) -> Gradients:
        arrays = [call.input(index).data if call.has(index) else None for index in range(call.input_count)]
        directions = None
        if is_first_order():
            directions = _directions_of(made.name, arrays, call.attributes)
        if directions is None:
            return differentiate(call, *gradients)
        return _short_gradient(call, directions, [None if g is None else g.data for g in gradients])

    made.forward, made.rule = forward, rule


def _short_gradient(call: Node, directions: list[Direction], gradients: Sequence[Array | None]) -> Gradients:
    given: list[Array | None] = [*gradients, *[None] * (3 - len(gradients))]
    dy, d_last = given[0], given[1:]
    is_batch_first = bool(call.attributes.get("layout"))
    if is_batch_first:
        dy = None if dy is None else dy.transpose(1, 2, 0, 3)
        d_last = [None if state is None else state.swapaxes(0, 1) for state in d_last]
    found = [
        direction.backward(
            None if dy is None else dy[:, index],
            [None if state is None else state[index] for state in d_last[: len(direction.states)]],
        )
        for index, direction in enumerate(directions)
    ]
    dx = found[0][0] if len(found) == 1 else found[0][0] + found[1][0]
    states = [np.stack(state) for state in zip(*(parts[4] for parts in found), strict=True)]
    if is_batch_first:
        dx, states = np.swapaxes(dx, 0, 1), [state.swapaxes(0, 1) for state in states]
    weights = [np.stack([parts[number] for parts in found]) for number in (1, 2, 3)]
    slopes: list[Array | None] = [dx, *weights, None, *states]
    return [
        p.constant(slope) if slope is not None and call.wants(index) else None for index, slope in enumerate(slopes)
    ]
