"""Replace questions about shapes by their answers, which are known once the inputs are fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, array_of, is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import bypass, new_constant

__all__ = ["FoldShapes"]


@dataclass(frozen=True)
class FoldShapes(InPlacePass):
    """Folds Shape and Size; what is computed from them is left to `FoldConstants`.

    1. Shape or Size of a value whose shape is known.
    2. Gather or Slice of a Shape, where the dimensions it takes are known though others are not.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            answer = _answer(node)
            if answer is None:
                if is_default_op(node, "Shape", "Size"):
                    tally.refuse(node, f"the shape of '{node.inputs[0].name if node.inputs[0] else ''}' is not static")
                continue
            graph = node.graph
            assert isinstance(graph, ir.Graph)
            if node.outputs[0].is_graph_output():
                tally.refuse(node, "it is an output of the model")
                continue
            name = node.outputs[0].name or f"{node.name}_folded"
            node.outputs[0].name = None
            if bypass(node, new_constant(graph, answer, name)):
                tally.count(node.op_type)
        return tally.result(model)


def _answer(node: ir.Node) -> Array | None:
    if is_default_op(node, "Size"):
        shape = static_shape(node.inputs[0])
        return None if shape is None else np.array(np.prod(shape, dtype=np.int64), np.int64)
    if is_default_op(node, "Shape"):
        return _known(_dimensions(node))
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if source is None or not is_default_op(source, "Shape"):
        return None
    dims = _dimensions(source)
    if dims is None:
        return None
    if is_default_op(node, "Gather"):
        indices = array_of(node.inputs[1])
        return None if indices is None else _taken(dims, indices)
    if is_default_op(node, "Slice"):
        bounds = [array_of(value) for value in node.inputs[1:]]
        if any(bound is None or bound.size != 1 for bound in bounds):
            return None
        numbers = [int(bound.reshape(-1)[0]) for bound in bounds if bound is not None]
        return _known(dims[numbers[0] : numbers[1] : numbers[3] if len(numbers) > 3 else 1])
    return None


def _dimensions(shape_node: ir.Node) -> list[int | ir.SymbolicDim] | None:
    value = shape_node.inputs[0]
    if value is None or value.shape is None:
        return None
    start, end = shape_node.attributes.get("start"), shape_node.attributes.get("end")
    return list(value.shape)[None if start is None else start.as_int() : None if end is None else end.as_int()]


def _taken(dims: list[int | ir.SymbolicDim], indices: Array) -> Array | None:
    picked = [dims[index] for index in indices.reshape(-1).tolist()]
    known = _known(picked)
    return None if known is None else known.reshape(indices.shape)


def _known(dims: list[int | ir.SymbolicDim] | None) -> Array | None:
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return np.array(dims, np.int64)
