"""The steps of LSTM, GRU and RNN in plain NumPy, forwards and backwards, for the usual activations.

The definitions in `recurrent` say what the operators mean, for every variant, to any order and in a trace. This is the
short way for training: one direction is two loops over the steps, and what does not depend on the state (the product
with the input and the gradients of all weights) is one product for all steps. The backward loop runs the forward one
again instead of keeping the gates of every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.engine.arrays import Array

__all__ = ["Direction"]


def _sigmoid(x: Array) -> Array:
    """In place; through tanh, which NumPy vectorizes."""
    x *= x.dtype.type(0.5)
    np.tanh(x, out=x)
    x *= x.dtype.type(0.5)
    x += x.dtype.type(0.5)
    return x


@dataclass
class Direction:
    """One direction of a recurrent network.

    Attributes:
        kind: "LSTM", "GRU" or "RNN".
        x: Shape (steps, n, features).
        weights, recurrence: Shape (gates * hidden, features) and (gates * hidden, hidden).
        bias: Shape (2 * gates * hidden), zeros if the operator has none.
        states: The first h, and c of an LSTM. Shape (n, hidden).
        lengths: Where each sequence ends, or None.
        is_reverse: Whether it runs from the end.
        resets_product: GRU's linear_before_reset.
    """

    kind: str
    x: Array
    weights: Array
    recurrence: Array
    bias: Array
    states: Sequence[Array]
    lengths: Array | None = None
    is_reverse: bool = False
    resets_product: bool = False
    _kept: list[tuple[Array, ...]] = field(default_factory=list)

    def forward(self, keeps: bool = False) -> tuple[Array, list[Array]]:
        """The outputs of all steps and the last states; `keeps` holds on to what `backward` needs."""
        steps, n = self.x.shape[:2]
        half = len(self.bias) // 2
        # The bias of the state joins that of the input, unless a GRU multiplies it by the reset gate.
        joined = self.bias[:half] + self.bias[half:]
        hidden = self.recurrence.shape[1]
        if self.kind == "GRU":
            joined[2 * hidden :] = self.bias[2 * hidden : half]
        projected = (self.x.reshape(steps * n, -1) @ self.weights.T + joined).reshape(steps, n, half)
        turned = np.ascontiguousarray(self.recurrence.T)
        y = np.empty((steps, n, hidden), self.x.dtype)
        current = list(self.states)
        self._kept = []
        for step, inside in self._order():
            after, kept = self._step(projected[step], current, turned)
            if keeps:
                self._kept.append((*kept, *current))
            if inside is None:
                y[step] = after[0]
                current = after
            else:
                y[step] = after[0] * inside
                current = [np.where(inside, new, old) for new, old in zip(after, current, strict=True)]
        return y, current

    def _order(self) -> Iterator[tuple[int, Array | None]]:
        steps = self.x.shape[0]
        full = steps if self.lengths is None else int(self.lengths.min(initial=steps))
        for step in reversed(range(steps)) if self.is_reverse else range(steps):
            yield step, None if self.lengths is None or step < full else (step < self.lengths).reshape(-1, 1)

    def _step(self, a: Array, states: Sequence[Array], turned: Array) -> tuple[list[Array], tuple[Array, ...]]:
        h, size = states[0], states[0].shape[1]
        if self.kind == "RNN":
            new = np.tanh(a + h @ turned)
            return [new], (new,)
        if self.kind == "LSTM":
            gates = a + h @ turned
            _sigmoid(gates[:, : 3 * size])
            np.tanh(gates[:, 3 * size :], out=gates[:, 3 * size :])
            i, o, f, g = (gates[:, k * size : (k + 1) * size] for k in range(4))
            c = f * states[1] + i * g
            bent = np.tanh(c)
            return [o * bent, c], (gates, bent)
        gates = _sigmoid(a[:, : 2 * size] + h @ turned[:, : 2 * size])
        z, r = gates[:, :size], gates[:, size:]
        bias = self.bias[-size:]
        product = (h if self.resets_product else r * h) @ turned[:, 2 * size :] + bias
        candidate = np.tanh(a[:, 2 * size :] + (r * product if self.resets_product else product))
        return [candidate + z * (h - candidate)], (gates, candidate, product)

    def backward(
        self, dy: Array | None, d_last: Sequence[Array | None]
    ) -> tuple[Array, Array, Array, Array, list[Array]]:
        """The gradients of x, weights, recurrence, bias and first states. Shape: dy as y, d_last as the states."""
        self.forward(keeps=True)
        steps, n = self.x.shape[:2]
        rows, hidden = self.recurrence.shape
        da = np.empty((steps, n, rows), self.x.dtype)
        # What multiplies the recurrent weights: the state, but for a GRU's candidate; and its gradient.
        seen = np.empty((steps, n, hidden), self.x.dtype)
        own = np.empty((steps, n, hidden), self.x.dtype) if self.kind == "GRU" else None
        d_own = np.empty_like(own) if own is not None else None
        d_states = [np.zeros_like(s) if d is None else d for s, d in zip(self.states, d_last, strict=True)]
        for (step, inside), kept in zip(reversed(list(self._order())), reversed(self._kept), strict=True):
            dh = d_states[0] if dy is None else d_states[0] + dy[step]
            before, seen[step] = self._step_back([dh, *d_states[1:]], kept, da[step])
            if own is not None and d_own is not None:
                own[step], d_own[step] = self._candidate_back(kept, da[step], before[0])
            before[0] = before[0] + self._recurrent(da[step], hidden)
            if inside is not None:
                da[step] *= inside
                if d_own is not None:
                    d_own[step] *= inside
                before = [np.where(inside, new, old) for new, old in zip(before, d_states, strict=True)]
            d_states = before
        flat = da.reshape(steps * n, rows)
        d_weights, d_bias = flat.T @ self.x.reshape(steps * n, -1), flat.sum(axis=0)
        dx = (flat @ self.weights).reshape(self.x.shape)
        d_recurrence, d_state_bias = flat.T @ seen.reshape(steps * n, hidden), d_bias.copy()
        if own is not None and d_own is not None:
            rest = d_own.reshape(steps * n, hidden)
            d_recurrence[2 * hidden :] = rest.T @ own.reshape(steps * n, hidden)
            d_state_bias[2 * hidden :] = rest.sum(axis=0)
        return dx, d_weights, d_recurrence, np.concatenate([d_bias, d_state_bias]), d_states

    def _recurrent(self, da: Array, hidden: int) -> Array:
        """The way of the gates' gradient through the product with the state; a GRU's candidate goes its own."""
        count = 2 * hidden if self.kind == "GRU" else len(self.recurrence)
        return np.asarray(da[:, :count] @ self.recurrence[:count])

    def _step_back(self, d_after: Sequence[Array], kept: tuple[Array, ...], da: Array) -> tuple[list[Array], Array]:
        """Fill `da`, the gradient before the activations; returns that of the states, without the product, and h."""
        dh = d_after[0]
        if self.kind == "RNN":
            new, h = kept
            np.multiply(dh, 1 - new * new, out=da)
            return [np.zeros_like(dh)], h
        if self.kind == "LSTM":
            gates, bent, h, c = kept
            size = h.shape[1]
            i, o, f, g = (gates[:, k * size : (k + 1) * size] for k in range(4))
            dc = d_after[1] + dh * o * (1 - bent * bent)
            for number, slope in enumerate((dc * g, dh * bent, dc * c)):
                gate = (i, o, f)[number]
                da[:, number * size : (number + 1) * size] = slope * gate * (1 - gate)
            da[:, 3 * size :] = dc * i * (1 - g * g)
            return [np.zeros_like(dh), dc * f], h
        gates, candidate, product, h = kept
        size = h.shape[1]
        z, r = gates[:, :size], gates[:, size:]
        d_candidate = dh * (1 - z) * (1 - candidate * candidate)
        da[:, 2 * size :] = d_candidate
        da[:, :size] = dh * (h - candidate) * z * (1 - z)
        if self.resets_product:
            da[:, size : 2 * size] = d_candidate * product * r * (1 - r)
        return [dh * z], h

    def _candidate_back(self, kept: tuple[Array, ...], da: Array, dh: Array) -> tuple[Array, Array]:
        """The candidate's product of a GRU: what it multiplied and its gradient; `dh` and the reset gate get theirs."""
        gates, _, _, h = kept
        size = h.shape[1]
        r, matrix = gates[:, size:], self.recurrence[2 * size :]
        if self.resets_product:
            d_product = da[:, 2 * size :] * r
            dh += d_product @ matrix
            return h, d_product
        d_product = da[:, 2 * size :]
        d_reset = d_product @ matrix
        da[:, size : 2 * size] = d_reset * h * r * (1 - r)
        dh += d_reset * r
        return r * h, d_product
