"""Compute once what is computed twice, and keep one copy of equal constants."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from edgec.frontend.values import array_of
from edgec.passes.report import CountedResult, Tally

__all__ = ["MergeDuplicates"]

# onnx_ir 1.1 knows the other random operators itself.
_RANDOM = ("Bernoulli", "Dropout")


@dataclass(frozen=True)
class MergeDuplicates(InPlacePass):
    """Merges equal initializers, then nodes with equal operator, inputs and attributes.

    Float vectors are left alone up to ``tied_size`` elements: two biases that happen to be equal (both zero, mostly)
    belong to different layers, and would be trained and quantized as one.

    Attributes:
        tied_size: Float initializers of more elements than this, and of one element, are merged too.
    """

    tied_size: int = 4096

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for graph in model.graphs():
            self._merge_initializers(graph, tally)
        before = _count(model)
        if any(node.op_type in _RANDOM for node in ir.traversal.RecursiveGraphIterator(model.graph)):
            tally.refused.append("the model draws random numbers; its nodes are left as they are")
        elif CommonSubexpressionEliminationPass()(model).modified:
            for _ in range(max(1, before - _count(model))):
                tally.count("node")
        return tally.result(model)

    def _merge_initializers(self, graph: ir.Graph, tally: Tally) -> None:
        first: dict[tuple[object, ...], ir.Value] = {}
        for value in list(graph.initializers.values()):
            array = array_of(value)
            if array is None or value.is_graph_output() or value.dtype is None:
                continue
            if value.dtype.is_floating_point() and 1 < array.size <= self.tied_size:
                continue
            key = (value.dtype, array.shape, array.tobytes())
            kept = first.setdefault(key, value)
            if kept is not value and value.name is not None:
                value.replace_all_uses_with(kept)
                del graph.initializers[value.name]
                tally.count("initializer")


def _count(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
