"""The few edits that the rules make to a graph: each leaves it valid, and what the model named keeps its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.frontend.values import Array

__all__ = ["Editor"]


class Editor:
    """Edits one graph.

    A value that a rule makes has a name of its own until it takes the place of one that the model named; then it takes
    the name, too. So integer tensors can be compared by name with those of the literal graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = {value.name for node in graph.all_nodes() for value in node.outputs}
        self._taken.update(value.name for value in graph.inputs)
        self._taken.update(graph.initializers)
        self._made: set[ir.Value] = set()
        self._scalars: dict[tuple[np.dtype[np.generic], bytes] | None, ir.Value] = {}

    def constant(self, array: Array, name: str) -> ir.Value:
        """An initializer: a new one, named ``name`` or after it, or for a scalar one that was made before."""
        key = None if array.ndim else (array.dtype, array.tobytes())
        if key in self._scalars:
            return self._scalars[key]
        free = self._free(name)
        # order="C" and not ascontiguousarray, which turns a scalar into a vector.
        tensor = ir.Tensor(np.asarray(array, order="C"), name=free)
        value = ir.Value(name=free, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        if key is not None:
            self._scalars[key] = value
        return value

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr | int | float | Sequence[int]] | None = None,
        *,
        name: str,
        dtype: ir.DataType | None,
        shapes: Iterable[ir.Shape | None],
    ) -> ir.Node:
        """A new node before another one, with an output for each of ``shapes``, all of type ``dtype``."""
        type_ = None if dtype is None else ir.TensorType(dtype)
        outputs = [ir.Value(name=self._free(name), shape=shape, type=type_) for shape in shapes]
        node = ir.node(op_type, list(inputs), attributes, outputs=outputs, name=self._free(f"{name}_node"))
        node.metadata_props.update(before.metadata_props)
        self.graph.insert_before(before, node)
        self._made.update(outputs)
        return node

    def emit(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr | int | float | Sequence[int]] | None = None,
        *,
        name: str,
        dtype: ir.DataType | None,
        shape: ir.Shape | None,
    ) -> ir.Value:
        """The output of a new node that has one."""
        node = self.insert(before, op_type, inputs, attributes, name=name, dtype=dtype, shapes=[shape])
        return node.outputs[0]

    def can_replace(self, old: ir.Value, new: ir.Value) -> bool:
        """Whether `replace` can keep the names of the graph's inputs and outputs."""
        if not old.is_graph_output():
            return True
        return new.producer() is not None and not new.is_graph_output()

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of ``old`` read ``new``, which takes the name unless it has one from the model already."""
        assert self.can_replace(old, new)
        takes_name = old.is_graph_output() or (new in self._made and old not in self._made)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if new.shape is None:
            new.shape = old.shape
        if takes_name:
            name, old.name = old.name, None
            new.name = name
            self._made.discard(new)
        self.drop(old)

    def rename(self, value: ir.Value, name: str) -> None:
        """A name of its own for a value whose meaning has changed."""
        value.name = self._free(name)
        self._made.add(value)

    def drop(self, *values: ir.Value | None) -> None:
        """Remove the nodes that make these values if nothing reads what they make, and then what only they read."""
        for value in values:
            node = None if value is None else value.producer()
            if node is None or node.graph is not self.graph or any(_is_read(output) for output in node.outputs):
                continue
            inputs = list(node.inputs)
            self.graph.remove(node, safe=True)
            self.drop(*inputs)

    def redirect(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Let one input of ``node`` read ``value``, and drop what it read before."""
        old = node.inputs[index]
        node.replace_input_with(index, value)
        self.drop(old)

    def _free(self, name: str) -> str:
        free, suffix = name, 0
        while free in self._taken:
            suffix += 1
            free = f"{name}_{suffix}"
        self._taken.add(free)
        return free


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
