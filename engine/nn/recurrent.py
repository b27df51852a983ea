"""Recurrent networks; each layer is one ONNX operator (RNN, GRU or LSTM), so a traced model keeps them whole.

Weights are stored as ONNX has them: per layer one array for all directions, gates in ONNX's order, and both biases in
one. `load_pytorch` takes PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.nn.init import empty, uniform_
from edgec.engine.nn.module import Module
from edgec.engine.registry import apply
from edgec.engine.tensor import Parameter, Tensor

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

State: TypeAlias = "Tensor | tuple[Tensor, Tensor]"


class _Recurrent(Module):
    """Layers over a sequence.

    Args:
        input_size: Features of a step.
        hidden_size: Features of the state.
        num_layers: Each takes the outputs of the one before.
        bias: Whether there are biases.
        batch_first: Whether sequences are (n, steps, features) instead of (steps, n, features).
        dropout: Between the layers.
        bidirectional: A second direction starts from the end; outputs have both, one after the other.
    """

    op_type: ClassVar[str]
    gates: ClassVar[tuple[int, ...]]  # where ONNX's gates stand in PyTorch's order
    states: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        self.hidden_size, self.num_layers, self.batch_first = hidden_size, num_layers, batch_first
        self.dropout, self.bidirectional = dropout, bidirectional
        self.directions = 2 if bidirectional else 1
        bound, rows = 1.0 / math.sqrt(hidden_size), len(self.gates) * hidden_size
        for layer in range(num_layers):
            features = input_size if layer == 0 else hidden_size * self.directions
            shapes = {"weight_ih": (rows, features), "weight_hh": (rows, hidden_size), "bias": (2 * rows,)}
            for name, shape in shapes.items():
                made = uniform_(empty(self.directions, *shape), -bound, bound) if bias or name != "bias" else None
                setattr(self, f"{name}_l{layer}", made)

    def _attributes(self) -> dict[str, object]:
        return {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if self.bidirectional else "forward",
        }

    # Unlike other modules these give a pair, as in PyTorch.
    def __call__(  # type: ignore[override]
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        return self.forward(x, state, lengths)

    def forward(  # type: ignore[override]
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The outputs of all steps, and the last state.

        Args:
            x: Shape (steps, n, input_size), or (n, steps, input_size) with `batch_first`.
            state: Where to start, of shape (layers * directions, n, hidden_size), a pair of them for LSTM; zeros by
                default.
            lengths: Steps of each sequence; outputs beyond are zero, and the state is that of the last step.
        """
        given = () if state is None else (state,) if isinstance(state, Tensor) else state
        if state is not None and len(given) != self.states:
            raise ValueError(f"{type(self).__name__} has {self.states} states, {len(given)} were given")
        if self.batch_first:
            x = p.transpose(x, [1, 0, 2])
        lasts: list[tuple[Tensor, ...]] = []
        limits = None if lengths is None else p.cast(lengths, np.int32)
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            first, last = layer * self.directions, (layer + 1) * self.directions
            starts = [p.slice_axes(part, [first], [last], [0], [1]) for part in given]
            weights = [getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias")]
            inputs: list[Tensor | None] = [x, *weights, limits, *starts]
            while inputs[-1] is None:
                inputs.pop()
            y, *own = apply(self.op_type, inputs, self._attributes(), outputs=1 + self.states)
            lasts.append(tuple(own))
            x = self._joined(y)
        finals = [p.concat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*lasts, strict=True)]
        outputs = p.transpose(x, [1, 0, 2]) if self.batch_first else x
        return outputs, finals[0] if self.states == 1 else (finals[0], finals[1])

    def _joined(self, y: Tensor) -> Tensor:
        """(steps, directions, n, hidden) to (steps, n, directions * hidden)."""
        if self.directions == 1:
            return p.squeeze(y, [1])
        steps, directions, n, hidden = y.shape
        return p.reshape(p.transpose(y, [0, 2, 1, 3]), [steps, n, directions * hidden])

    def load_pytorch(self, state: Mapping[str, Array]) -> None:
        """Take the weights of PyTorch's module of the same name: "weight_ih_l0", "bias_hh_l0_reverse" and so on."""
        arrays = {name: np.asarray(array) for name, array in state.items()}
        for layer in range(self.num_layers):
            ends = [f"l{layer}", f"l{layer}_reverse"][: self.directions]
            for name in ("weight_ih", "weight_hh", "bias"):
                parameter = getattr(self, f"{name}_l{layer}")
                if isinstance(parameter, Parameter):
                    parts = ["bias_ih", "bias_hh"] if name == "bias" else [name]
                    value = np.stack(
                        [np.concatenate([self._reordered(arrays[f"{part}_{end}"]) for part in parts]) for end in ends]
                    )
                    if value.shape != parameter.shape:
                        raise ValueError(f"{name}_l{layer} has shape {value.shape}, not {parameter.shape}")
                    parameter.data = value.astype(parameter.dtype)

    def _reordered(self, rows: Array) -> Array:
        gates = rows.reshape(len(self.gates), -1, *rows.shape[1:])
        return gates[list(self.gates)].reshape(rows.shape)

    def describe(self) -> str:
        features = dict(self.named_parameters())["weight_ih_l0"].shape[2]
        return f"{features}, {self.hidden_size}, num_layers={self.num_layers}, bidirectional={self.bidirectional}"


class RNN(_Recurrent):
    """h' = tanh(W x + R h + b), or relu."""

    op_type = "RNN"
    gates = (0,)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f'nonlinearity must be "tanh" or "relu", not {nonlinearity!r}')
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        self.nonlinearity = nonlinearity

    def _attributes(self) -> dict[str, object]:
        return {**super()._attributes(), "activations": [self.nonlinearity.capitalize()] * self.directions}


class GRU(_Recurrent):
    """Gated recurrent unit; the reset gate acts on the state's product, as in PyTorch. Source: Cho et al. 2014."""

    op_type = "GRU"
    gates = (1, 0, 2)  # z, r, h from r, z, n

    def _attributes(self) -> dict[str, object]:
        return {**super()._attributes(), "linear_before_reset": 1}


class LSTM(_Recurrent):
    """Long short-term memory; the state is a pair (h, c). Source: Hochreiter and Schmidhuber 1997."""

    op_type = "LSTM"
    gates = (0, 3, 1, 2)  # i, o, f, c from i, f, g, o
    states = 2


class _Cell(Module):
    """One step at a time; `layer` has the weights. Shape: x (n, input_size), state (n, hidden_size)."""

    kind: ClassVar[type[_Recurrent]]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        self.layer = self.kind(input_size, hidden_size, bias=bias)

    def __call__(self, x: Tensor, state: State | None = None) -> State:  # type: ignore[override]
        return self.forward(x, state)

    def forward(self, x: Tensor, state: State | None = None) -> State:  # type: ignore[override]
        """The next state; for LSTM a pair."""
        _, last = self.layer(p.unsqueeze(x, [0]), _with_axis(state))
        return p.squeeze(last, [0]) if isinstance(last, Tensor) else (p.squeeze(last[0], [0]), p.squeeze(last[1], [0]))


def _with_axis(state: State | None) -> State | None:
    if state is None or isinstance(state, Tensor):
        return None if state is None else p.unsqueeze(state, [0])
    return p.unsqueeze(state[0], [0]), p.unsqueeze(state[1], [0])


class RNNCell(_Cell):
    kind = RNN


class GRUCell(_Cell):
    kind = GRU


class LSTMCell(_Cell):
    kind = LSTM
