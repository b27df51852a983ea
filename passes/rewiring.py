"""The few edits that passes make to a graph, each leaving it valid and its input and output names as they were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.values import Array, array_of

__all__ = [
    "attribute_ints",
    "bypass",
    "new_constant",
    "remove_unread",
    "replace_node",
    "rounded_to",
    "scalar_of",
]


def scalar_of(value: ir.Value | None) -> float | None:
    """The number in a constant of one floating-point element, else None."""
    array = array_of(value)
    if array is None or array.size != 1 or array.dtype.kind != "f":
        return None
    return float(array.reshape(()))


def attribute_ints(node: ir.Node, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return default if attribute is None else tuple(attribute.as_ints())


def bypass(node: ir.Node, source: ir.Value, *, output: int = 0) -> bool:
    """Let the users of an output of ``node`` read ``source`` instead and remove the node, where names allow it.

    1. An inner value: its users are redirected.
    2. A graph output: ``source`` takes its place and its name, unless ``source`` is itself a graph input, a graph
       output, an initializer, or made in another graph. Then the graph is left as it is and the result is False.
    """
    old = node.outputs[output]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    if old.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return False
        name = old.name
        old.replace_all_uses_with(source, replace_graph_outputs=True)
        old.name = None
        source.name = name
    else:
        old.replace_all_uses_with(source)
    _keep_type(source, old)
    if not any(value.uses() or value.is_graph_output() for value in node.outputs):
        graph.remove(node, safe=True)
    return True


def replace_node(node: ir.Node, replacement: ir.Node) -> None:
    """Put a node with as many outputs in the place of ``node``; the outputs' names, types and shapes carry over."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(node, replacement)
    for old, new in zip(node.outputs, replacement.outputs, strict=True):
        new.shape, new.type = old.shape, old.type
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        new.name = name
    if not replacement.metadata_props:
        replacement.metadata_props.update(node.metadata_props)
    graph.remove(node, safe=True)


def remove_unread(values: Sequence[ir.Value | None]) -> None:
    """Remove the nodes that make these values if nothing reads what they make, and then what only they read."""
    for value in values:
        node = None if value is None else value.producer()
        if node is None or node.graph is None or any(out.uses() or out.is_graph_output() for out in node.outputs):
            continue
        inputs = list(node.inputs)
        node.graph.remove(node, safe=True)
        remove_unread(inputs)


def new_constant(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    """A new initializer of ``graph``, named ``name`` or, where that is taken, after it."""
    taken = {value.name for node in graph.all_nodes() for value in node.outputs}
    taken.update(value.name for value in graph.inputs)
    taken.update(graph.initializers)
    free, suffix = name, 0
    while free in taken:
        suffix += 1
        free = f"{name}_{suffix}"
    # order="C" and not ascontiguousarray, which turns a scalar into a vector.
    tensor = ir.tensor(np.asarray(array, order="C"), name=free)
    value = ir.Value(name=free, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def rounded_to(array: NDArray[np.float64], dtype: np.dtype[np.generic]) -> Array | None:
    """``array`` in ``dtype``, or None where that makes a finite value infinite or one of them is no finite number."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype(dtype)
    return rounded if bool(np.isfinite(rounded.astype(np.float64)).all()) else None


def _keep_type(value: ir.Value, other: ir.Value) -> None:
    if value.shape is None or not value.shape.is_static():
        value.shape = other.shape or value.shape
    if value.type is None:
        value.type = other.type
