"""Functions of one quantized tensor as tables of 256 entries.

A table is made by running the very nodes that it replaces on every byte, so it holds what they would have computed:
functions like Sigmoid, which libraries round differently, give the same integers everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgec.engine import to_tensor
from edgec.frontend.executor import run_node
from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.reading import read_dequantize, read_quantize
from edgec.frontend.values import Array, array_of, is_default_op, rank_of

__all__ = ["tabulate_function", "tabulate_quantized"]

# Costly enough that a look-up is faster.
_TRANSCENDENTAL = frozenset(
    {
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu", "Log",
        "Mish", "Pow", "Reciprocal", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh",
    }
)  # fmt: skip
_ELEMENTWISE = _TRANSCENDENTAL | {
    "Abs", "Add", "Ceil", "Clip", "Div", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min",
    "Mul", "Neg", "PRelu", "Relu", "Round", "Sign", "Sub", "Sum", "ThresholdedRelu",
}  # fmt: skip
_ENTRIES = 256


def tabulate_quantized(editor: Editor, node: ir.Node) -> bool:
    """Rewrites a QuantizeLinear of a function of one quantized tensor that has a transcendental operator in it.

    Tables on the way are taken in, as those of x · Sigmoid(x) with the Sigmoid quantized on its own.
    """
    quantize = read_quantize(node)
    if quantize is None or not quantize.is_per_tensor:
        return False
    function = _Function()
    if not function.follow(quantize.source) or not function.is_costly:
        return False
    return _look_up(editor, node, function)


def tabulate_function(editor: Editor, node: ir.Node) -> bool:
    """Rewrites a transcendental operator of a dequantized tensor whose result stays a float."""
    if not is_default_op(node, *_TRANSCENDENTAL) or not any(
        read_dequantize(value) is not None for value in node.inputs
    ):
        return False
    function = _Function()
    return function.follow(node.outputs[0]) and _look_up(editor, node, function)


@dataclass
class _Function:
    """A value as a function of one tensor of bytes.

    Attributes:
        root: The tensor, once `follow` has met it.
        is_costly: Whether there is a transcendental operator on the way.
    """

    root: ir.Value | None = None
    is_costly: bool = False
    _values: dict[ir.Value, Array] = field(default_factory=dict)

    def follow(self, value: ir.Value) -> bool:
        """Walk back from a float value; False where it is no function of one tensor and of single numbers."""
        constant = array_of(value)
        if constant is not None:
            return constant.size == 1
        producer = value.producer()
        scaled = read_dequantize(value)
        if scaled is not None:
            if not scaled.is_activation:
                return False
            table, index = _read_table(scaled.source)
            self.is_costly = self.is_costly or table is not None
            root = scaled.source if index is None else index
            self.root = self.root or root
            return root is self.root and array_of(root) is None
        if producer is None or not is_default_op(producer, *_ELEMENTWISE) or len(producer.outputs) != 1:
            return False
        self.is_costly = self.is_costly or producer.op_type in _TRANSCENDENTAL
        return all(self.follow(given) for given in producer.inputs if given is not None)

    def tabulate(self, value: ir.Value) -> Array:
        """The value for every byte, in the order of the bytes."""
        if value not in self._values:
            self._values[value] = self._compute(value)
        return self._values[value]

    def _compute(self, value: ir.Value) -> Array:
        if value is self.root:
            assert value.dtype is not None
            first = _first(value)
            return np.arange(first, first + _ENTRIES).astype(value.dtype.numpy())
        constant = array_of(value)
        if constant is not None:
            return constant.reshape(())
        table, _ = _read_table(value)
        if table is not None:
            return table
        node = value.producer()
        assert node is not None
        given = [None if item is None else to_tensor(self.tabulate(item)) for item in node.inputs]
        with np.errstate(all="ignore"):  # a byte that does not occur may have no logarithm
            return run_node(node, given)[0].data


def _look_up(editor: Editor, node: ir.Node, function: _Function) -> bool:
    """Put a Gather in the place of ``node``."""
    output, root = node.outputs[0], function.root
    if root is None or rank_of(root) is None or rank_of(output) != rank_of(root):
        return False
    entries = function.tabulate(output)
    if entries.shape != (_ENTRIES,):
        return False
    name = output.name
    index = editor.emit(
        node,
        "Cast",
        [root],
        {"to": ir.DataType.INT32},
        name=f"{name}_index",
        dtype=ir.DataType.INT32,
        shape=root.shape,
    )
    first = _first(root)
    if first:
        offset = editor.constant(np.array(-first, np.int32), f"{name}_offset")
        index = editor.emit(
            node, "Add", [index, offset], name=f"{name}_index", dtype=ir.DataType.INT32, shape=root.shape
        )
    table = editor.constant(entries, f"{name}_table")
    found = editor.emit(
        node, "Gather", [table, index], {"axis": 0}, name=f"{name}_found", dtype=output.dtype, shape=output.shape
    )
    editor.replace(output, found)
    return True


def _read_table(value: ir.Value) -> tuple[Array | None, ir.Value | None]:
    """The entries of a table that `_look_up` has made and the bytes it is looked up with, or nothing."""
    gather = value.producer()
    table = array_of(gather.inputs[0]) if gather is not None and is_default_op(gather, "Gather") else None
    if gather is None or table is None or table.shape != (_ENTRIES,):
        return None, None
    index, offset = gather.inputs[1], 0
    producer = None if index is None else index.producer()
    if producer is not None and is_default_op(producer, "Add"):
        constant = array_of(producer.inputs[1])
        offset = int(constant.reshape(())) if constant is not None and constant.size == 1 else 0
        producer = None if producer.inputs[0] is None else producer.inputs[0].producer()
    root = producer.inputs[0] if producer is not None and is_default_op(producer, "Cast") else None
    if root is None or root.dtype not in (ir.DataType.INT8, ir.DataType.UINT8) or offset != -_first(root):
        return None, None
    return table, root


def _first(root: ir.Value) -> int:
    return -128 if root.dtype == ir.DataType.INT8 else 0
