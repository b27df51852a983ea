"""Remove nodes, initializers and operator sets that no output needs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from edgec.passes.report import CountedResult, Tally

__all__ = ["RemoveDeadCode"]


@dataclass(frozen=True)
class RemoveDeadCode(InPlacePass):
    """Removes what nothing reads; inputs and outputs of the model stay, used or not."""

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        nodes, constants = _sizes(model)
        RemoveUnusedNodesPass()(model)
        nodes_left, constants_left = _sizes(model)
        for _ in range(nodes - nodes_left):
            tally.count("node")
        for _ in range(constants - constants_left):
            tally.count("initializer")
        if RemoveUnusedOpsetsPass()(model).modified:
            tally.count("operator set")
        return tally.result(model)


def _sizes(model: ir.Model) -> tuple[int, int]:
    nodes = sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
    return nodes, sum(len(graph.initializers) for graph in model.graphs())
