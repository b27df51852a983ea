"""LSTM, GRU and RNN: one product for the inputs of all steps, then one kernel that walks through time.

The walk is a loop nest written out in TensorIR, since Relax has no operator for it: in every step the gates get the
product of the state with the recurrent weights, vector by vector, and the new state follows from the gates. CPUs run it
as it stands; on a GPU it says what the kernel computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering import scalars
from edgec.targets.lowering.attributes import integer, text
from edgec.targets.lowering.emitter import Emitter, dtype_of, lowers, static_shape
from edgec.targets.lowering.linear import times_constant

__all__ = ["CELL", "WRITTEN_OUT", "Cell"]

WRITTEN_OUT = "edgec.written_out"
"""Function attribute of a kernel whose loops are already as they shall be on a CPU: no schedule is applied."""

CELL = "edgec.cell"
"""Function attribute of a walk through time: the fields of its `Cell`."""

UNROLLED_VECTORS = 4
"""Vectors of gates that are summed up together, each in a register."""

Loop = Callable[..., tirx.Stmt]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell, walking through time in one or both directions.

    Attributes:
        kind: ``LSTM``, ``GRU`` or ``RNN``.
        directions: 1 or 2; the second one goes backwards.
        is_reverse: The only direction goes backwards.
        linear_before_reset: GRU: the reset gate is applied after the product with the recurrent weights.
    """

    kind: str
    directions: int
    steps: int
    batch: int
    hidden: int
    lanes: int
    is_reverse: bool
    linear_before_reset: bool

    @property
    def gates(self) -> int:
        return {"LSTM": 4, "GRU": 3, "RNN": 1}[self.kind]

    @property
    def states(self) -> int:
        return 2 if self.kind == "LSTM" else 1

    @property
    def resets_first(self) -> bool:
        """Whether the state is reset before its product with the weights of the new one."""
        return self.kind == "GRU" and not self.linear_before_reset

    @property
    def width(self) -> int:
        """Elements of a gate, filled up to whole groups of unrolled vectors."""
        group = self.lanes * UNROLLED_VECTORS
        return -(-self.hidden // group) * group

    @property
    def columns(self) -> int:
        """Elements of all gates of a direction."""
        return self.gates * self.width


@lowers("LSTM", "GRU", "RNN")
def recurrent(emitter: Emitter, node: ir.Node) -> None:
    """One or two directions; weights must be constants, activations the default ones."""
    _refuse_rare_forms(emitter, node)
    steps, batch, _ = static_shape(node.inputs[0])
    direction = text(node, "direction", "forward")
    cell = Cell(
        node.op_type,
        2 if direction == "bidirectional" else 1,
        steps,
        batch,
        integer(node, "hidden_size", 0),
        emitter.profile.lanes("float32"),
        direction == "reverse",
        bool(integer(node, "linear_before_reset", 0)),
    )
    arguments = [*_weights(emitter, node, cell), *(_initial(emitter, node, 5 + i, cell) for i in range(cell.states))]
    for output, result in zip(node.outputs, _walk(emitter, cell, arguments), strict=False):
        if output is not None and output.name:
            emitter.set_plain(output, result)


def _refuse_rare_forms(emitter: Emitter, node: ir.Node) -> None:
    rare = [name for name in ("layout", "input_forget") if integer(node, name, 0)]
    rare += ["clip"] if "clip" in node.attributes else []
    if "activations" in node.attributes:
        default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[node.op_type]
        given = list(node.attributes["activations"].as_strings())
        if given != default * (len(given) // len(default)):
            rare.append("activations")
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        lengths = emitter.constant(node.inputs[4])
        if lengths is None or (lengths != static_shape(node.inputs[0])[0]).any():
            rare.append("sequence_lens")
    if len(node.inputs) > 7 and node.inputs[7] is not None:
        rare.append("peepholes")
    if rare:
        raise UnsupportedError(
            f"{node.op_type} '{node.name}' uses {', '.join(rare)}, which is not supported",
            fix="export the model with the operator's defaults",
        )


def _weights(emitter: Emitter, node: ir.Node, cell: Cell) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Projected inputs (steps, batch, columns of all directions), recurrent weights (directions, hidden, columns), bias
    of the state (directions, columns). On a GPU, weights that float16 holds are float16.
    """
    w, r = emitter.required_constant(node, 1), emitter.required_constant(node, 2)
    gates = cell.gates * cell.hidden
    bias = np.zeros((cell.directions, 2 * gates), w.dtype)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        bias = emitter.required_constant(node, 3)
    input_bias, state_bias = bias[:, :gates].copy(), bias[:, gates:].copy()
    # Only the last gate of a GRU needs the bias of the state apart; elsewhere the two biases are one.
    kept = np.zeros_like(state_bias)
    if cell.kind == "GRU" and cell.linear_before_reset:
        kept[:, 2 * cell.hidden :] = state_bias[:, 2 * cell.hidden :]
    input_bias += state_bias - kept
    columns = cell.directions * cell.columns
    x, w = emitter.halved(node.inputs[0], w)
    if w.dtype == np.float16:
        _, r = emitter.halved(node.inputs[0], r)
    matrix = np.ascontiguousarray(_widened(w, cell).reshape(columns, -1).T)
    rows = emitter.reshape(emitter.plain(x), [cell.steps * cell.batch, matrix.shape[0]])
    projected = times_constant(emitter, rows, matrix)
    projected = emitter.emit(relax.op.add(projected, emitter.const(_widened(input_bias, cell).reshape(columns))))
    projected = emitter.reshape(projected, [cell.steps, cell.batch, columns])
    recurrent_weights = np.ascontiguousarray(_widened(r, cell).swapaxes(1, 2))
    return projected, emitter.const(recurrent_weights), emitter.const(_widened(kept, cell)[..., 0])


def _widened(rows: np.ndarray, cell: Cell) -> np.ndarray:
    """Gate rows (directions, gates * hidden[, n]) -> (directions, gates * width, n), filled with zeros."""
    split = rows.reshape(cell.directions, cell.gates, cell.hidden, -1)
    result = np.zeros((cell.directions, cell.gates, cell.width, split.shape[3]), rows.dtype)
    result[:, :, : cell.hidden] = split
    return result.reshape(cell.directions, cell.columns, -1)


def _initial(emitter: Emitter, node: ir.Node, index: int, cell: Cell) -> relax.Expr:
    """Initial state (directions, batch, hidden); zeros where the node has none."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return emitter.const(np.zeros((cell.directions, cell.batch, cell.hidden), np.float32))
    return emitter.plain(node.inputs[index])


def _walk(emitter: Emitter, cell: Cell, arguments: list[relax.Expr]) -> list[relax.Expr]:
    """Call the kernel; returns all outputs (steps, directions, batch, hidden), then the last states (directions, batch,
    hidden).
    """
    kernel = emitter.builder.add_func(walk_kernel(cell, dtype_of(arguments[1])), cell.kind.lower())
    state = (cell.directions, cell.batch, cell.hidden)
    shapes = [(cell.steps, *state), *[state] * cell.states, (cell.columns + cell.hidden,)]
    types = [relax.TensorType(shape, "float32") for shape in shapes]
    called = emitter.emit(relax.call_tir(kernel, arguments, types))
    return [emitter.emit(relax.TupleGetItem(called, i)) for i in range(len(types) - 1)]


def walk_kernel(cell: Cell, weights: str = "float32") -> tirx.PrimFunc:
    """The loop nest over time; its parameters are the inputs, then the outputs, then scratch memory.

    Args:
        cell: What it computes.
        weights: Type of the recurrent weights.
    """
    walk = _Walk(cell, weights)
    body = tirx.SeqStmt(
        [
            _nest([cell.directions, cell.batch, cell.hidden], walk.start),
            _nest([cell.directions, cell.steps, cell.batch], walk.step),
        ]
    )
    inputs = [walk.x, walk.weights, walk.bias, *walk.initial]
    params = [*inputs, walk.outputs, *walk.states, walk.scratch]
    attributes = {WRITTEN_OUT: True, CELL: asdict(cell), "op_pattern": 8, "tirx.noalias": True, "s_tir": True}
    return tirx.PrimFunc(params, body).with_attr(attributes)


class _At(NamedTuple):
    """A direction, a step and a sample."""

    d: tirx.Expr
    t: tirx.Expr
    b: tirx.Expr


class _Walk:
    """The buffers of a kernel and the statements over them."""

    def __init__(self, cell: Cell, weights: str) -> None:
        state, columns = (cell.directions, cell.batch, cell.hidden), cell.columns
        names = ("h", "c")[: cell.states]
        self.cell = cell
        self.x = _buffer("x", (cell.steps, cell.batch, cell.directions * columns))
        self.weights = _buffer("weights", (cell.directions, cell.hidden, columns), weights)
        self.bias = _buffer("bias", (cell.directions, columns))
        self.initial = [_buffer(f"{name}0", state) for name in names]
        self.outputs = _buffer("y", (cell.steps, *state))
        self.states = [_buffer(name, state) for name in names]
        self.scratch = _buffer("scratch", (columns + cell.hidden,))

    def start(self, d: tirx.Var, b: tirx.Var, j: tirx.Var) -> tirx.Stmt:
        """The states before the first step."""
        return _sequence(
            [tirx.BufferStore(s, s0[d, b, j], [d, b, j]) for s, s0 in zip(self.states, self.initial, strict=True)]
        )

    def step(self, d: tirx.Var, s: tirx.Var, b: tirx.Var) -> tirx.Stmt:
        """One step of one sample."""
        last = self.cell.steps - 1
        t = last - s if self.cell.is_reverse else s + d * (last - 2 * s) if self.cell.directions == 2 else s
        return {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.cell.kind](_At(d, t, b))

    def _lstm(self, at: _At) -> tirx.Stmt:
        """Source: ONNX LSTM; gates in the order i, o, f, c."""
        c = self.states[1]

        def update(j: tirx.Var) -> tirx.Stmt:
            i, o, f = (scalars.sigmoid(self._gate(number, j)) for number in range(3))
            memory = f * c[at.d, at.b, j] + i * scalars.tanh(self._gate(3, j))
            stored = tirx.BufferStore(c, memory, [at.d, at.b, j])
            return _sequence([stored, *self._output(o * scalars.tanh(c[at.d, at.b, j]), at, j)])

        return _sequence([self._product(0, 4, at, self._x(at), self._h(at)), self._elements(update)])

    def _gru(self, at: _At) -> tirx.Stmt:
        """Source: ONNX GRU; gates in the order z, r, h."""
        width, x, h = self.cell.width, self._x(at), self._h(at)

        def update(j: tirx.Var) -> tirx.Stmt:
            if self.cell.linear_before_reset:
                z, r = (scalars.sigmoid(self._gate(n, j) + x(n * width + j)) for n in range(2))
                new = scalars.tanh(x(2 * width + j) + r * self._gate(2, j))
            else:
                z, new = scalars.sigmoid(self._gate(0, j)), scalars.tanh(self._gate(2, j))
            return _sequence(self._output((1.0 - z) * new + z * h(j), at, j))

        if self.cell.linear_before_reset:
            return _sequence([self._product(0, 3, at, lambda j: self.bias[at.d, j], h), self._elements(update)])
        behind = 3 * width  # after the gates: the state behind the reset gate

        def reset(j: tirx.Var) -> tirx.Stmt:
            return tirx.BufferStore(self.scratch, scalars.sigmoid(self._gate(1, j)) * h(j), [behind + j])

        return _sequence(
            [
                self._product(0, 2, at, x, h),
                self._elements(reset),
                self._product(2, 3, at, x, lambda k: self.scratch[behind + k]),
                self._elements(update),
            ]
        )

    def _rnn(self, at: _At) -> tirx.Stmt:
        """Source: ONNX RNN."""

        def update(j: tirx.Var) -> tirx.Stmt:
            return _sequence(self._output(scalars.tanh(self._gate(0, j)), at, j))

        return _sequence([self._product(0, 1, at, self._x(at), self._h(at)), self._elements(update)])

    def _x(self, at: _At) -> Callable[[tirx.Expr], tirx.Expr]:
        return lambda j: self.x[at.t, at.b, at.d * self.cell.columns + j]

    def _h(self, at: _At) -> Callable[[tirx.Expr], tirx.Expr]:
        return lambda j: self.states[0][at.d, at.b, j]

    def _gate(self, number: int, j: tirx.Var) -> tirx.Expr:
        return self.scratch[number * self.cell.width + j]

    def _output(self, value: tirx.Expr, at: _At, j: tirx.Var) -> list[tirx.Stmt]:
        """The new state, which is also the output of the step."""
        h = self.states[0]
        stored = tirx.BufferStore(h, value, [at.d, at.b, j])
        return [stored, tirx.BufferStore(self.outputs, h[at.d, at.b, j], [at.t, at.d, at.b, j])]

    def _elements(self, body: Callable[[tirx.Var], tirx.Stmt]) -> tirx.Stmt:
        """``body`` for every element of the state; LLVM vectorizes it (TVM's own pass refuses the nested Lets)."""
        return _nest([self.cell.hidden], body)

    def _product(
        self,
        first: int,
        last: int,
        at: _At,
        start: Callable[[tirx.Expr], tirx.Expr],
        state: Callable[[tirx.Var], tirx.Expr],
    ) -> tirx.Stmt:
        """Gates ``first`` to ``last`` of scratch = start + state · weights."""
        lanes, scratch = self.cell.lanes, self.scratch
        group = lanes * UNROLLED_VECTORS
        kinds = [tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED]

        def columns(outer: tirx.Var) -> tirx.Stmt:
            def element(u: tirx.Var, v: tirx.Var) -> tirx.Expr:
                return first * self.cell.width + outer * group + u * lanes + v

            def clear(u: tirx.Var, v: tirx.Var) -> tirx.Stmt:
                return tirx.BufferStore(scratch, start(element(u, v)), [element(u, v)])

            def add(k: tirx.Var) -> tirx.Stmt:
                def multiply(u: tirx.Var, v: tirx.Var) -> tirx.Stmt:
                    j = element(u, v)
                    return tirx.BufferStore(
                        scratch, scratch[j] + state(k) * self.weights[at.d, k, j].astype("float32"), [j]
                    )

                return _nest([UNROLLED_VECTORS, lanes], multiply, kinds)

            return _sequence([_nest([UNROLLED_VECTORS, lanes], clear, kinds), _nest([self.cell.hidden], add)])

        return _nest([(last - first) * self.cell.width // group], columns)


def _buffer(name: str, shape: tuple[int, ...], dtype: str = "float32") -> tirx.Buffer:
    return tirx.decl_buffer(shape, dtype, name)


def _sequence(statements: list[tirx.Stmt]) -> tirx.Stmt:
    return tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]


def _nest(extents: list[int], body: Loop, kinds: list[tirx.ForKind] | None = None) -> tirx.Stmt:
    """Nested loops around ``body``, which gets their variables."""
    variables = [tirx.Var(f"i{depth}", "int32") for depth in range(len(extents))]
    statement = body(*variables)
    for depth in reversed(range(len(extents))):
        kind = kinds[depth] if kinds else tirx.ForKind.SERIAL
        begin, extent = tirx.const(0, "int32"), tirx.const(extents[depth], "int32")
        statement = tirx.For(variables[depth], begin, extent, kind, statement)
    return statement
