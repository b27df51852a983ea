"""Merge consecutive Transposes, and consecutive operators that only rename axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import attribute_ints, new_constant, replace_node

__all__ = ["MergeReshapes"]

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class MergeReshapes(InPlacePass):
    """Merges chains of data movement; the first of two stays where others read it.

    1. Transpose of a Transpose: one Transpose with the composed permutation.
    2. Reshape, Flatten, Squeeze, Unsqueeze of one of these: one Reshape to the final shape.
    3. A Transpose that moves axes of size one only: a Reshape, which costs nothing.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            if is_default_op(node, "Transpose"):
                if source is not None and is_default_op(source, "Transpose"):
                    _compose(source, node)
                    tally.count("Transpose of Transpose")
                if _moves_nothing(node) and _to_reshape(node, node.inputs[0]):
                    tally.count("Transpose into Reshape")
            elif is_default_op(node, *_RESHAPES) and source is not None and is_default_op(source, *_RESHAPES):
                if _to_reshape(node, source.inputs[0]):
                    tally.count("Reshape of Reshape")
                else:
                    tally.refuse(node, "its shape is not static, or has no elements")
        return tally.result(model)


def _permutation(node: ir.Node) -> tuple[int, ...]:
    shape = node.outputs[0].shape
    return attribute_ints(node, "perm", () if shape is None else tuple(reversed(range(len(shape)))))


def _compose(inner: ir.Node, outer: ir.Node) -> None:
    first, second = _permutation(inner), _permutation(outer)
    outer.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
    outer.replace_input_with(0, inner.inputs[0])
    _remove_unused(inner)


def _moves_nothing(node: ir.Node) -> bool:
    shape = static_shape(node.inputs[0])
    if shape is None:
        return False
    permutation = _permutation(node)
    moved = [axis for axis in permutation if shape[axis] != 1]
    # A Transpose that moves no axis at all is left to EliminateIdentities, which needs no Reshape.
    return moved == sorted(moved) and list(permutation) != sorted(permutation)


def _to_reshape(node: ir.Node, source: ir.Value | None) -> bool:
    """Replace ``node`` by a Reshape of ``source`` to the shape that it makes."""
    shape = static_shape(node.outputs[0])
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    # In a Reshape a 0 means "as before", so empty tensors stay as they are.
    if shape is None or source is None or 0 in shape:
        return False
    inner = node.inputs[0].producer() if node.inputs[0] is not None and node.inputs[0] is not source else None
    target = new_constant(graph, np.array(shape, np.int64), f"{node.name}_shape")
    replace_node(node, ir.node("Reshape", [source, target], name=f"{node.name}_reshape"))
    if inner is not None:
        _remove_unused(inner)
    return True


def _remove_unused(node: ir.Node) -> None:
    if not any(value.uses() or value.is_graph_output() for value in node.outputs) and node.graph is not None:
        node.graph.remove(node, safe=True)
