"""LSTM, GRU and RNN: one product for the inputs of all steps, then one kernel that walks through time.

The walk is a loop nest written out in TensorIR, since Relax has no operator for it: in every step the gates get the
product of the state with the recurrent weights, vector by vector, and the new state follows from the gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering import layouts, scalars
from edgec.targets.lowering.attributes import integer, text
from edgec.targets.lowering.emitter import Emitter, Fusion, lowers, shape_of, static_shape
from edgec.targets.lowering.linear import packed_matmul

__all__ = ["WRITTEN_OUT"]

WRITTEN_OUT = "edgec.written_out"
"""Function attribute of a kernel whose loops are already as they shall be: no schedule is applied."""

UNROLLED_VECTORS = 4
"""Vectors of gates that are summed up together, each in a register."""

Loop = Callable[..., tirx.Stmt]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell in one direction.

    Attributes:
        kind: ``LSTM``, ``GRU`` or ``RNN``.
        linear_before_reset: GRU: the reset gate is applied after the product with the recurrent weights.
    """

    kind: str
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
    def width(self) -> int:
        """Elements of a gate, filled up to whole groups of unrolled vectors."""
        group = self.lanes * UNROLLED_VECTORS
        return -(-self.hidden // group) * group


@lowers("LSTM", "GRU", "RNN")
def recurrent(emitter: Emitter, node: ir.Node) -> None:
    """One or two directions; weights must be constants, activations the default ones."""
    _refuse_rare_forms(emitter, node)
    x = emitter.plain(node.inputs[0])
    steps, batch, features = shape_of(x)
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
        text(node, "direction", "forward")
    ]
    hidden = integer(node, "hidden_size", 0)
    results = []
    for number, is_reverse in enumerate(directions):
        cell = Cell(
            node.op_type,
            steps,
            batch,
            hidden,
            emitter.profile.lanes("float32"),
            is_reverse,
            bool(integer(node, "linear_before_reset", 0)),
        )
        projected, recurrent_weights, state_bias = _weights(emitter, node, cell, number, features)
        states = [_initial(emitter, node, index, cell, number) for index in (5, 6)[: 2 if cell.kind == "LSTM" else 1]]
        results.append(_walk(emitter, cell, [projected, recurrent_weights, state_bias, *states]))
    for index, output in enumerate(node.outputs):
        if output is None or not output.name:
            continue
        axis = 1 if index == 0 else 0
        parts = []
        for result in results:
            shape = shape_of(result[index])
            parts.append(emitter.reshape(result[index], [*shape[:axis], 1, *shape[axis:]]))
        joined = parts[0] if len(parts) == 1 else emitter.emit(relax.op.concat(parts, axis=axis))
        emitter.set_plain(output, emitter.reshape(joined, static_shape(output)))


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


def _weights(
    emitter: Emitter, node: ir.Node, cell: Cell, direction: int, features: int
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Projected inputs (steps, batch, gates * width), recurrent weights (hidden, gates * width), bias of the state."""
    w = emitter.required_constant(node, 1)[direction]
    r = emitter.required_constant(node, 2)[direction]
    rows = cell.gates * cell.hidden
    bias = np.zeros(2 * rows, w.dtype)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        bias = emitter.required_constant(node, 3)[direction]
    input_bias, state_bias = bias[:rows].copy(), bias[rows:].copy()
    # Only the last gate of a GRU needs the bias of the state apart; elsewhere the two biases are one.
    kept = np.zeros_like(state_bias)
    if cell.kind == "GRU" and cell.linear_before_reset:
        kept[2 * cell.hidden :] = state_bias[2 * cell.hidden :]
    input_bias += state_bias - kept
    matrix = np.ascontiguousarray(_widened(w, cell).T)
    x = emitter.reshape(emitter.plain(node.inputs[0]), [cell.steps * cell.batch, features])
    packed = emitter.const(layouts.pack_matrix(matrix, cell.lanes))
    projected = emitter.te(packed_matmul, x, packed, matrix.shape[1], name="matmul", fusion=Fusion.EPILOGUE)
    projected = emitter.emit(relax.op.add(projected, emitter.const(_widened(input_bias[:, None], cell)[:, 0])))
    projected = emitter.reshape(projected, [cell.steps, cell.batch, matrix.shape[1]])
    recurrent_weights = emitter.const(np.ascontiguousarray(_widened(r, cell).T))
    return projected, recurrent_weights, emitter.const(_widened(kept[:, None], cell)[:, 0])


def _widened(rows: np.ndarray, cell: Cell) -> np.ndarray:
    """Gate rows (gates * hidden, n) -> (gates * width, n), filled with zeros."""
    split = rows.reshape(cell.gates, cell.hidden, -1)
    result = np.zeros((cell.gates, cell.width, split.shape[2]), rows.dtype)
    result[:, : cell.hidden] = split
    return result.reshape(cell.gates * cell.width, -1)


def _initial(emitter: Emitter, node: ir.Node, index: int, cell: Cell, direction: int) -> relax.Expr:
    """Initial state (batch, hidden) of one direction; zeros where the node has none."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return emitter.const(np.zeros((cell.batch, cell.hidden), np.float32))
    constant = emitter.constant(node.inputs[index])
    if constant is not None:
        return emitter.const(np.ascontiguousarray(constant[direction]))
    state = emitter.plain(node.inputs[index])
    begin, end = [direction], [direction + 1]
    state = emitter.emit(relax.op.strided_slice(state, axes=[0], begin=begin, end=end))
    return emitter.reshape(state, [cell.batch, cell.hidden])


def _walk(emitter: Emitter, cell: Cell, arguments: list[relax.Expr]) -> list[relax.Expr]:
    """Call the kernel; returns all outputs (steps, batch, hidden), then the last states (batch, hidden)."""
    kernel = emitter.builder.add_func(walk_kernel(cell), cell.kind.lower())
    state = relax.TensorType((cell.batch, cell.hidden), "float32")
    types = [relax.TensorType((cell.steps, cell.batch, cell.hidden), "float32"), state]
    if cell.kind == "LSTM":
        types.append(state)
    scratch = relax.TensorType((cell.gates * cell.width + cell.hidden,), "float32")
    called = emitter.emit(relax.call_tir(kernel, arguments, [*types, scratch]))
    return [emitter.emit(relax.TupleGetItem(called, i)) for i in range(len(types))]


def walk_kernel(cell: Cell) -> tirx.PrimFunc:
    """The loop nest over time; its parameters are the inputs, then the outputs, then scratch memory."""
    walk = _Walk(cell)
    body = tirx.SeqStmt(
        [
            _nest([cell.batch, cell.hidden], walk.start),
            _nest([cell.steps, cell.batch], walk.step),
        ]
    )
    inputs = [walk.x, walk.weights, walk.bias, *walk.initial]
    params = [*inputs, walk.outputs, *walk.states, walk.scratch]
    attributes = {WRITTEN_OUT: True, "op_pattern": 8, "tirx.noalias": True, "s_tir": True}
    return tirx.PrimFunc(params, body).with_attr(attributes)


class _Walk:
    """The buffers of a kernel and the statements over them."""

    def __init__(self, cell: Cell) -> None:
        state, width = (cell.batch, cell.hidden), cell.gates * cell.width
        names = ("h", "c")[: 2 if cell.kind == "LSTM" else 1]
        self.cell = cell
        self.x = _buffer("x", (cell.steps, cell.batch, width))
        self.weights = _buffer("weights", (cell.hidden, width))
        self.bias = _buffer("bias", (width,))
        self.initial = [_buffer(f"{name}0", state) for name in names]
        self.outputs = _buffer("y", (cell.steps, *state))
        self.states = [_buffer(name, state) for name in names]
        self.scratch = _buffer("scratch", (width + cell.hidden,))

    def start(self, b: tirx.Var, j: tirx.Var) -> tirx.Stmt:
        """The states before the first step."""
        return _sequence(
            [tirx.BufferStore(s, s0[b, j], [b, j]) for s, s0 in zip(self.states, self.initial, strict=True)]
        )

    def step(self, s: tirx.Var, b: tirx.Var) -> tirx.Stmt:
        """One step of one sample."""
        t = self.cell.steps - 1 - s if self.cell.is_reverse else s
        return {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.cell.kind](t, b)

    def _lstm(self, t: tirx.Expr, b: tirx.Var) -> tirx.Stmt:
        """Source: ONNX LSTM; gates in the order i, o, f, c."""
        h, c = self.states

        def update(j: tirx.Var) -> tirx.Stmt:
            i, o, f = (scalars.sigmoid(self._gate(number, j)) for number in range(3))
            memory = f * c[b, j] + i * scalars.tanh(self._gate(3, j))
            return _sequence([tirx.BufferStore(c, memory, [b, j]), *self._output(o * scalars.tanh(c[b, j]), t, b, j)])

        return _sequence([self._product(0, 4, lambda j: self.x[t, b, j], lambda k: h[b, k]), self._elements(update)])

    def _gru(self, t: tirx.Expr, b: tirx.Var) -> tirx.Stmt:
        """Source: ONNX GRU; gates in the order z, r, h."""
        (h,) = self.states
        width = self.cell.width

        def update(j: tirx.Var) -> tirx.Stmt:
            if self.cell.linear_before_reset:
                z, r = (scalars.sigmoid(self._gate(n, j) + self.x[t, b, n * width + j]) for n in range(2))
                new = scalars.tanh(self.x[t, b, 2 * width + j] + r * self._gate(2, j))
            else:
                z, new = scalars.sigmoid(self._gate(0, j)), scalars.tanh(self._gate(2, j))
            return _sequence(self._output((1.0 - z) * new + z * h[b, j], t, b, j))

        if self.cell.linear_before_reset:
            return _sequence([self._product(0, 3, lambda j: self.bias[j], lambda k: h[b, k]), self._elements(update)])
        behind = 3 * width  # after the gates: the state behind the reset gate

        def reset(j: tirx.Var) -> tirx.Stmt:
            return tirx.BufferStore(self.scratch, scalars.sigmoid(self._gate(1, j)) * h[b, j], [behind + j])

        return _sequence(
            [
                self._product(0, 2, lambda j: self.x[t, b, j], lambda k: h[b, k]),
                self._elements(reset),
                self._product(2, 3, lambda j: self.x[t, b, j], lambda k: self.scratch[behind + k]),
                self._elements(update),
            ]
        )

    def _rnn(self, t: tirx.Expr, b: tirx.Var) -> tirx.Stmt:
        """Source: ONNX RNN."""
        (h,) = self.states

        def update(j: tirx.Var) -> tirx.Stmt:
            return _sequence(self._output(scalars.tanh(self._gate(0, j)), t, b, j))

        return _sequence([self._product(0, 1, lambda j: self.x[t, b, j], lambda k: h[b, k]), self._elements(update)])

    def _gate(self, number: int, j: tirx.Var) -> tirx.Expr:
        return self.scratch[number * self.cell.width + j]

    def _output(self, value: tirx.Expr, t: tirx.Expr, b: tirx.Var, j: tirx.Var) -> list[tirx.Stmt]:
        """The new state, which is also the output of the step."""
        h = self.states[0]
        return [tirx.BufferStore(h, value, [b, j]), tirx.BufferStore(self.outputs, h[b, j], [t, b, j])]

    def _elements(self, body: Callable[[tirx.Var], tirx.Stmt]) -> tirx.Stmt:
        """``body`` for every element of the state; LLVM vectorizes it (TVM's own pass refuses the nested Lets)."""
        return _nest([self.cell.hidden], body)

    def _product(
        self, first: int, last: int, start: Callable[[tirx.Expr], tirx.Expr], state: Callable[[tirx.Var], tirx.Expr]
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
                    return tirx.BufferStore(scratch, scratch[j] + state(k) * self.weights[k, j], [j])

                return _nest([UNROLLED_VECTORS, lanes], multiply, kinds)

            return _sequence([_nest([UNROLLED_VECTORS, lanes], clear, kinds), _nest([self.cell.hidden], add)])

        return _nest([(last - first) * self.cell.width // group], columns)


def _buffer(name: str, shape: tuple[int, ...]) -> tirx.Buffer:
    return tirx.decl_buffer(shape, "float32", name)


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
