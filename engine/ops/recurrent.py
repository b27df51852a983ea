"""Recurrent networks: RNN, GRU and LSTM over a sequence, one or both directions, sequences of unequal length.

Each is a cell, a function of the projected input and the state, and `_run` takes it through the steps. The input is
projected for all steps at once. They are definitions in other primitives, so the gradient is that of the steps; the
usual variants take the short way of `recurrent_shortcut` instead, which gives the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.ops.defined import defined
from edgec.engine.ops.recurrent_shortcut import shorten
from edgec.engine.registry import Sample
from edgec.engine.samples import normal
from edgec.engine.tensor import Tensor

Activation: TypeAlias = Callable[[Tensor], Tensor]
Cell: TypeAlias = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]

# Name to its function, and the default alpha and beta.
_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], float, float]] = {
    "affine": (lambda x, alpha, beta: x * alpha + beta, 1.0, 0.0),
    "elu": (lambda x, alpha, beta: p.call("Elu", x, alpha=alpha), 1.0, 0.0),  # noqa: ARG005
    "hardsigmoid": (lambda x, alpha, beta: p.call("HardSigmoid", x, alpha=alpha, beta=beta), 0.2, 0.5),
    "leakyrelu": (lambda x, alpha, beta: p.call("LeakyRelu", x, alpha=alpha), 0.01, 0.0),  # noqa: ARG005
    "relu": (lambda x, alpha, beta: p.call("Relu", x), 0.0, 0.0),  # noqa: ARG005
    "scaledtanh": (lambda x, alpha, beta: p.scale(p.tanh(p.scale(x, beta)), alpha), 1.0, 1.0),
    "sigmoid": (lambda x, alpha, beta: p.sigmoid(x), 0.0, 0.0),  # noqa: ARG005
    "softplus": (lambda x, alpha, beta: p.call("Softplus", x), 0.0, 0.0),  # noqa: ARG005
    "softsign": (lambda x, alpha, beta: p.call("Softsign", x), 0.0, 0.0),  # noqa: ARG005
    "tanh": (lambda x, alpha, beta: p.tanh(x), 0.0, 0.0),  # noqa: ARG005
    "thresholdedrelu": (lambda x, alpha, beta: p.call("ThresholdedRelu", x, alpha=alpha), 1.0, 0.0),  # noqa: ARG005
}


def _activations(
    names: Sequence[str] | None,
    defaults: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    directions: int,
) -> list[list[Activation]]:
    """The activations of each direction."""
    chosen = list(names) if names else list(defaults) * directions
    if len(chosen) == len(defaults) < len(defaults) * directions:
        chosen *= directions
    made: list[Activation] = []
    for index, name in enumerate(chosen):
        if name.lower() not in _ACTIVATIONS:
            raise ValueError(f"there is no activation {name!r} for a recurrent network")
        function, alpha, beta = _ACTIVATIONS[name.lower()]
        alpha = alphas[index] if alphas and index < len(alphas) else alpha
        beta = betas[index] if betas and index < len(betas) else beta
        made.append(functools.partial(function, alpha=alpha, beta=beta))
    count = len(defaults)
    return [made[start : start + count] for start in range(0, count * directions, count)]


def _take(x: Tensor, index: int, axis: int = 0) -> Tensor:
    return p.squeeze(p.slice_axes(x, [index], [index + 1], [axis], [1]), [axis])


def _parts(x: Tensor, count: int, axis: int = -1) -> list[Tensor]:
    """`x` in equal parts; which gate is which stands in ONNX's text."""
    size = x.shape[axis] // count
    return [p.slice_axes(x, [i * size], [(i + 1) * size], [axis], [1]) for i in range(count)]


def _clipped(x: Tensor, clip: float | None) -> Tensor:
    return x if not clip else p.call("Clip", x, p.full_like(x, -clip), p.full_like(x, clip))


def _run(
    cell: Cell, projected: Tensor, states: Sequence[Tensor], lengths: np.ndarray | None, is_reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    """One direction. Shape: projected (steps, n, ...), states (n, hidden); outputs (steps, n, hidden) and states.

    A sequence that has ended keeps its state and gives zeros; a reversed one starts at its own end.
    """
    steps = projected.shape[0]
    shown: list[Tensor] = []
    current = list(states)
    for step in reversed(range(steps)) if is_reverse else range(steps):
        after = list(cell(_take(projected, step), current))
        if lengths is not None and step >= int(lengths.min(initial=steps)):
            is_inside = p.constant((step < lengths).reshape(-1, 1))
            shown.append(p.mask(is_inside, after[0]))
            current = [p.where(is_inside, new, old) for new, old in zip(after, current, strict=True)]
        else:
            shown.append(after[0])
            current = after
    if is_reverse:
        shown.reverse()
    if not shown:
        return p.zeros([0, *current[0].shape], current[0].dtype), current
    return p.concat([p.unsqueeze(y, [0]) for y in shown], 0), current


def _directions(
    x: Tensor,
    states: Sequence[Tensor | None],
    lengths: Tensor | None,
    direction: str,
    hidden: int,
    layout: int,
    make_cell: Callable[[int], tuple[Callable[[Tensor], Tensor], Cell]],
) -> list[Tensor]:
    """Run every direction and put the outputs together as ONNX wants them: the sequence, then the last states.

    Shape: x (steps, n, features), states (directions, n, hidden); with `layout` the batch comes first.
    """
    if layout:
        x = p.swap_axes(x, 0, 1)
        states = [None if state is None else p.swap_axes(state, 0, 1) for state in states]
    count = 2 if direction == "bidirectional" else 1
    limits = None if lengths is None else lengths.data
    zeros = p.zeros([x.shape[1], hidden], x.dtype)
    sequences, lasts = [], []
    for index in range(count):
        project, cell = make_cell(index)
        first = [zeros if state is None else _take(state, index) for state in states]
        is_reverse = direction == "reverse" or index == 1
        sequence, last = _run(cell, project(x), first, limits, is_reverse)
        sequences.append(p.unsqueeze(sequence, [1]))
        lasts.append([p.unsqueeze(state, [0]) for state in last])
    y = p.concat(sequences, 1)
    finals = [p.concat(list(states), 0) for states in zip(*lasts, strict=True)]
    if layout:
        y, finals = p.transpose(y, [2, 0, 1, 3]), [p.swap_axes(state, 0, 1) for state in finals]
    return [y, *finals]


def _projection(weights: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The part of the gates that comes from the input, for all steps in one product."""
    turned = p.transpose(weights)

    def project(x: Tensor) -> Tensor:
        product = p.matmul(p.reshape(x, [x.shape[0] * x.shape[1], x.shape[2]]), turned)
        product = product if bias is None else product + bias
        return p.reshape(product, [x.shape[0], x.shape[1], turned.shape[1]])

    return project


def _biases(bias: Tensor | None, index: int) -> tuple[Tensor | None, Tensor | None]:
    """The bias of the input's product and that of the state's."""
    if bias is None:
        return None, None
    first, second = _parts(_take(bias, index), 2)
    return first, second


@defined("RNN")
def rnn(
    x: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> list[Tensor]:
    """One step is h' = f(x W + h R + b).

    Shape: x (steps, n, features), weights (directions, hidden, features), recurrence (directions, hidden, hidden),
    bias (directions, 2 hidden); outputs (steps, directions, n, hidden) and (directions, n, hidden).
    """
    hidden = hidden_size or recurrence.shape[2]
    count = weights.shape[0]
    functions = _activations(activations, ["Tanh"], activation_alpha, activation_beta, count)

    def make_cell(index: int) -> tuple[Callable[[Tensor], Tensor], Cell]:
        from_input, from_state = _biases(bias, index)
        if from_input is not None and from_state is not None:
            from_input = from_input + from_state
        turned = p.transpose(_take(recurrence, index))

        def cell(projected: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
            return [functions[index][0](_clipped(projected + p.matmul(states[0], turned), clip))]

        return _projection(_take(weights, index), from_input), cell

    return _directions(x, [initial_h], lengths, direction, hidden, layout, make_cell)


@defined("GRU")
def gru(
    x: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> list[Tensor]:
    """Update gate z, reset gate r, candidate c; h' = (1 - z) c + z h. Gates stand in the order z, r, c.

    `linear_before_reset` resets the product of the state (as PyTorch does), otherwise the state itself.

    Shape: as RNN, with 3 hidden rows of weights and a bias of 6 hidden. Source: Cho et al. 2014.
    """
    hidden = hidden_size or recurrence.shape[2]
    count = weights.shape[0]
    functions = _activations(activations, ["Sigmoid", "Tanh"], activation_alpha, activation_beta, count)

    def make_cell(index: int) -> tuple[Callable[[Tensor], Tensor], Cell]:
        f, g = functions[index]
        from_input, from_state = _biases(bias, index)
        matrix = _take(recurrence, index)
        gates = p.transpose(p.slice_axes(matrix, [0], [2 * hidden], [0], [1]))
        candidate = p.transpose(p.slice_axes(matrix, [2 * hidden], [3 * hidden], [0], [1]))
        gate_bias = None if from_state is None else p.slice_axes(from_state, [0], [2 * hidden], [0], [1])
        last_bias = None if from_state is None else p.slice_axes(from_state, [2 * hidden], [3 * hidden], [0], [1])

        def cell(projected: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
            h = states[0]
            total = p.slice_axes(projected, [0], [2 * hidden], [1], [1]) + p.matmul(h, gates)
            z, r = _parts(f(_clipped(total if gate_bias is None else total + gate_bias, clip)), 2)
            recurrent = p.matmul(h if linear_before_reset else r * h, candidate)
            recurrent = recurrent if last_bias is None else recurrent + last_bias
            recurrent = r * recurrent if linear_before_reset else recurrent
            c = g(_clipped(p.slice_axes(projected, [2 * hidden], [3 * hidden], [1], [1]) + recurrent, clip))
            return [c + z * (h - c)]

        return _projection(_take(weights, index), from_input), cell

    return _directions(x, [initial_h], lengths, direction, hidden, layout, make_cell)


@defined("LSTM")
def lstm(
    x: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> list[Tensor]:
    """Input, output and forget gate and a candidate; c' = f c + i g, h' = o tanh(c'). Gates stand in the order i, o, f, g.

    Shape: as RNN, with 4 hidden rows of weights, a bias of 8 hidden, peepholes (directions, 3 hidden); a third output
    is the last cell state. Source: Hochreiter and Schmidhuber 1997, peepholes by Gers et al. 2002.
    """  # noqa: E501
    hidden = hidden_size or recurrence.shape[2]
    count = weights.shape[0]
    functions = _activations(activations, ["Sigmoid", "Tanh", "Tanh"], activation_alpha, activation_beta, count)

    def make_cell(index: int) -> tuple[Callable[[Tensor], Tensor], Cell]:
        f, g, h_of = functions[index]
        from_input, from_state = _biases(bias, index)
        if from_input is not None and from_state is not None:
            from_input = from_input + from_state
        turned = p.transpose(_take(recurrence, index))
        peeps = [] if peepholes is None else _parts(_take(peepholes, index), 3)

        def peeped(gate: Tensor, c: Tensor, number: int) -> Tensor:
            return f(_clipped(gate + peeps[number] * c if peeps else gate, clip))

        def cell(projected: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
            h, c = states
            i, o, forget, candidate = _parts(projected + p.matmul(h, turned), 4)
            i = peeped(i, c, 0)
            forget = 1.0 - i if input_forget else peeped(forget, c, 2)
            c = forget * c + i * g(_clipped(candidate, clip))
            return [peeped(o, c, 1) * h_of(c), c]

        return _projection(_take(weights, index), from_input), cell

    return _directions(x, [initial_h, initial_c], lengths, direction, hidden, layout, make_cell)


for _made in (rnn, gru, lstm):
    shorten(_made)


def _samples(gates: int) -> list[Sample]:
    """Directions, lengths, states and activations, for a network with this many gates. 2 features, 3 hidden."""

    def weights(count: int) -> list[np.ndarray]:
        return [normal(count, 3 * gates, 2) * 0.5, normal(count, 3 * gates, 3) * 0.5, normal(count, 6 * gates)]

    lengths = np.array([3, 1], np.int32)
    outputs = 3 if gates == 4 else 2
    made = [
        Sample([normal(3, 2, 2), *weights(1)], {"hidden_size": 3}, outputs=outputs, order=2),
        Sample(
            [normal(3, 2, 2), *weights(2), lengths, *[normal(2, 2, 3, seed=seed) for seed in range(outputs - 1)]],
            {"hidden_size": 3, "direction": "bidirectional"},
            outputs=outputs,
            order=1,
        ),
        Sample([normal(3, 2, 2), *weights(1)[:2]], {"hidden_size": 3, "direction": "reverse"}, order=1),
        Sample([normal(2, 2, 2) * 1e3, *weights(1)], {"hidden_size": 3}, varied=()),
        Sample([normal(3, 2, 2), *weights(1)], {"hidden_size": 3, "clip": 0.9}, order=1),
        Sample([normal(0, 2, 2), *weights(1)], {"hidden_size": 3}, reference="", varied=()),
    ]
    for sample in made:
        sample.tolerance = 2e-5
    return made


rnn.samples = lambda: [
    *_samples(1),
    Sample([normal(2, 1, 2), normal(1, 3, 2), normal(1, 3, 3)],
           {"hidden_size": 3, "activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}, order=1),
]  # fmt: skip
gru.samples = lambda: [
    *_samples(3),
    Sample([normal(3, 2, 2), normal(1, 9, 2), normal(1, 9, 3), normal(1, 18)],
           {"hidden_size": 3, "linear_before_reset": 1}, order=1),
]  # fmt: skip
lstm.samples = lambda: [
    *_samples(4),
    Sample([normal(2, 2, 2), normal(1, 12, 2), normal(1, 12, 3), normal(1, 24), None, None, None, normal(1, 9)],
           {"hidden_size": 3}, order=1),
    Sample([normal(2, 2, 2), normal(1, 12, 2), normal(1, 12, 3)], {"hidden_size": 3, "input_forget": 1}, reference="",
           order=1),
]  # fmt: skip
