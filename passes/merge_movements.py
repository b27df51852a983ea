"""Replace chains of data movement by the one node that moves the same elements to the same places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass

from edgec.engine import to_tensor
from edgec.errors import EdgecError
from edgec.frontend.executor import run_node
from edgec.frontend.values import Array, array_of, is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import bypass, new_constant, replace_node

__all__ = ["MergeMovements"]

_MOVEMENTS = ("Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class MergeMovements(InPlacePass):
    """Runs chains of Reshape, Transpose, Slice, Gather ... on the positions of elements, to see what they amount to.

    1. To nothing: the chain is removed.
    2. To another shape of the same elements in order: one Reshape.
    3. To every n-th element of some axes: one Slice. (The channel shuffle and split of ShuffleNet is two of them.)

    Attributes:
        size_limit: Chains that start from a value of more elements than this are left alone; a position is eight
            bytes.
        length_limit: How many nodes back a chain is followed.
    """

    size_limit: int = 1 << 21
    length_limit: int = 6

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if node.graph is not None and _is_movement(node):
                self._merge(node, tally)
        return tally.result(model)

    def _merge(self, node: ir.Node, tally: Tally) -> None:
        chain = list(_chain_before(node, self.length_limit))
        target = static_shape(node.outputs[0])
        if len(chain) < 2 or target is None or 0 in target:
            return
        for length in range(len(chain), 1, -1):
            part = chain[:length]
            root = part[-1].inputs[0]
            shape = static_shape(root)
            if root is None or shape is None or np.prod(shape) > self.size_limit:
                continue
            positions = _run_on_positions(part[::-1], shape)
            what = None if positions is None or positions.shape != target else _rewrite(node, root, shape, positions)
            if what is not None:
                _remove_unused(part)
                tally.count(what)
                return


def _is_movement(node: ir.Node) -> bool:
    is_known = is_default_op(node, *_MOVEMENTS) and bool(node.inputs) and not node.outputs[1:]
    return is_known and all(value is None or array_of(value) is not None for value in node.inputs[1:])


def _chain_before(node: ir.Node | None, limit: int) -> Iterator[ir.Node]:
    while node is not None and limit > 0 and _is_movement(node):
        yield node
        node = None if node.inputs[0] is None else node.inputs[0].producer()
        limit -= 1


def _run_on_positions(nodes: Sequence[ir.Node], shape: tuple[int, ...]) -> Array | None:
    positions: Array = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    for node in nodes:
        constants = [array_of(value) for value in node.inputs[1:]]
        inputs = [positions, *constants]
        try:
            (result,) = run_node(node, [None if array is None else to_tensor(array) for array in inputs])
        except EdgecError:
            return None
        positions = result.data
    return positions


def _rewrite(node: ir.Node, root: ir.Value, shape: tuple[int, ...], positions: Array) -> str | None:
    """Make ``node`` read ``root`` directly; returns what it became, or None when it cannot be said in one node."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    every = np.arange(np.prod(shape, dtype=np.int64))
    if positions.size == every.size and np.array_equal(positions.reshape(-1), every):
        if positions.shape == shape:
            return "chain removed" if bypass(node, root) else None
        target = new_constant(graph, np.array(positions.shape, np.int64), f"{node.name}_shape")
        replace_node(node, ir.node("Reshape", [root, target], name=f"{node.name}_reshape"))
        return "chain into Reshape"
    slices = _slices(shape, positions)
    if slices is None or not np.array_equal(every.reshape(shape)[slices], positions):
        return None
    axes = [axis for axis, part in enumerate(slices) if part != slice(0, shape[axis], 1)]
    bounds = {
        "starts": [slices[axis].start for axis in axes],
        "ends": [slices[axis].stop for axis in axes],
        "axes": axes,
        "steps": [slices[axis].step for axis in axes],
    }
    inputs = [new_constant(graph, np.array(array, np.int64), f"{node.name}_{key}") for key, array in bounds.items()]
    replace_node(node, ir.node("Slice", [root, *inputs], name=f"{node.name}_slice"))
    return "chain into Slice"


def _slices(shape: tuple[int, ...], positions: NDArray[np.generic]) -> tuple[slice, ...] | None:
    """The slices that would pick ``positions``, if any do: from the first element and its neighbours."""
    if positions.ndim != len(shape):
        return None
    origin = (0,) * positions.ndim
    start = [int(index) for index in np.unravel_index(int(positions[origin]), shape)]
    slices = []
    for axis, size in enumerate(positions.shape):
        step = 1
        if size > 1:
            neighbour = (*origin[:axis], 1, *origin[axis + 1 :])
            step = int(np.unravel_index(int(positions[neighbour]), shape)[axis]) - start[axis]
        if step < 1:
            return None
        slices.append(slice(start[axis], min(start[axis] + size * step, shape[axis]), step))
    return tuple(slices)


def _remove_unused(nodes: Sequence[ir.Node]) -> None:
    for node in nodes:
        is_used = any(value.uses() or value.is_graph_output() for value in node.outputs)
        if node.graph is not None and not is_used:
            node.graph.remove(node, safe=True)
