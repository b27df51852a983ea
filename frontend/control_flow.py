"""Run If, Loop and Scan nodes: their subgraphs with the engine's primitives, so that gradients go through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from edgec import engine
from edgec.engine import Tensor, to_tensor
from edgec.errors import EdgecError

__all__ = ["CONTROL_FLOW", "Subgraph", "run_control_flow", "values_read"]

# Runs a subgraph of the node on tensors for its inputs.
Subgraph: TypeAlias = Callable[[ir.Graph, Sequence[Tensor]], list[Tensor]]


def run_control_flow(node: ir.Node, given: Sequence[Tensor | None], run: Subgraph) -> tuple[Tensor, ...]:
    """Returns the outputs of an If, Loop or Scan node; ``run`` knows the values around it."""
    return tuple(CONTROL_FLOW[node.op_type](node, given, run))


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Every value that the node depends on: its inputs, and what its subgraphs take from around it."""
    for value in node.inputs:
        if value is not None:
            yield value
    for graph in _subgraphs(node):
        for inner in graph:
            yield from values_read(inner)
        yield from graph.outputs


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    return [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]


def _branch(node: ir.Node, given: Sequence[Tensor | None], run: Subgraph) -> list[Tensor]:
    (condition,) = given
    assert condition is not None
    then, otherwise = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    return engine.cond(condition.reshape(()), lambda: run(then, ()), lambda: run(otherwise, ()))


def _loop(node: ir.Node, given: Sequence[Tensor | None], run: Subgraph) -> list[Tensor]:
    body = node.attributes["body"].as_graph()
    limit = None if given[0] is None else int(given[0])
    goes_on = len(given) < 2 or given[1] is None or bool(given[1])
    carried = [tensor for tensor in given[2:] if tensor is not None]
    count, rows, index = len(carried), [], 0
    while goes_on and (limit is None or index < limit):
        flag, *made = run(body, [to_tensor(np.asarray(index, np.int64)), to_tensor(np.asarray(True)), *carried])
        carried = made[:count]
        rows.append(made[count:])
        goes_on, index = bool(flag), index + 1
    return [*carried, *_stacked(body.outputs[1 + count :], rows, [0] * (len(body.outputs) - 1 - count))]


def _scan(node: ir.Node, given: Sequence[Tensor | None], run: Subgraph) -> list[Tensor]:
    body = node.attributes["body"].as_graph()
    tensors = [tensor for tensor in given if tensor is not None]
    scanned = node.attributes["num_scan_inputs"].as_int()
    count = len(tensors) - scanned
    carried, xs = tensors[:count], tensors[count:]
    results = len(body.outputs) - count
    axes = _list(node, "scan_input_axes", scanned)
    lengths = {x.shape[axis] for x, axis in zip(xs, axes, strict=True)}
    if len(lengths) != 1:
        raise EdgecError(f"Scan '{node.name}': its inputs have lengths {sorted(lengths)}", where=f"node '{node.name}'")
    (length,) = lengths
    slices = [
        [part.squeeze(axis) for part in engine.split(x, 1, axis)][:: -1 if backwards else 1]
        for x, axis, backwards in zip(xs, axes, _list(node, "scan_input_directions", scanned), strict=True)
    ]
    rows: list[list[Tensor]] = []
    for index in range(length):
        made = run(body, [*carried, *(several[index] for several in slices)])
        carried = made[:count]
        rows.append(made[count:])
    directions = _list(node, "scan_output_directions", results)
    turned = [[row[place] for row in rows][:: -1 if backwards else 1] for place, backwards in enumerate(directions)]
    rows = [list(row) for row in zip(*turned, strict=True)]
    return [*carried, *_stacked(body.outputs[count:], rows, _list(node, "scan_output_axes", results))]


def _list(node: ir.Node, name: str, count: int) -> list[int]:
    return [int(value) for value in node.attributes[name].as_ints()] if name in node.attributes else [0] * count


def _stacked(values: Sequence[ir.Value], rows: Sequence[Sequence[Tensor]], axes: Sequence[int]) -> list[Tensor]:
    """What the runs of a body gave, joined along a new axis."""
    if rows:
        return [
            engine.stack([row[place] for row in rows], axis if axis >= 0 else axis + rows[0][place].ndim + 1)
            for place, axis in enumerate(axes)
        ]
    empty = []
    for value, axis in zip(values, axes, strict=True):  # no run: only the declared type is known
        shape = [dim if isinstance(dim, int) else 0 for dim in value.shape or ()]
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
        empty.append(to_tensor(np.zeros(shape, np.float32 if value.dtype is None else value.dtype.numpy())))
    return empty


CONTROL_FLOW: dict[str, Callable[[ir.Node, Sequence[Tensor | None], Subgraph], list[Tensor]]] = {
    "If": _branch,
    "Loop": _loop,
    "Scan": _scan,
}
