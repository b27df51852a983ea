"""Put the branch of an If whose condition is known in the place of the If."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, is_default_op
from edgec.passes.fix_names import FixNames
from edgec.passes.report import CountedResult, Tally

__all__ = ["FoldBranches"]


@dataclass(frozen=True)
class FoldBranches(InPlacePass):
    """Inlines the branch that a constant condition takes, as left behind by exporters that ask for shapes."""

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        # Outer nodes come first, so an If inside an inlined branch is seen in its new place.
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if not is_default_op(node, "If") or node.graph is None:
                continue
            condition = array_of(node.inputs[0])
            if condition is None:
                tally.refuse(node, "the condition depends on the input")
                continue
            _inline(node, node.attributes["then_branch" if condition.any() else "else_branch"].as_graph())
            tally.count("If")
        if tally.changes:
            FixNames()(model)  # two branches may use the same names
        return tally.result(model)


def _inline(node: ir.Node, branch: ir.Graph) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        assert value.name is not None
        del branch.initializers[value.name]
        while value.name in graph.initializers:
            value.name += "_"
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    # An Identity per result keeps the names of the If's outputs; EliminateIdentities takes out those not needed.
    for old, result in zip(list(node.outputs), results, strict=True):
        named = ir.node("Identity", [result], outputs=[ir.Value(shape=result.shape or old.shape, type=old.type)])
        graph.insert_before(node, named)
        name = old.name
        old.replace_all_uses_with(named.outputs[0], replace_graph_outputs=True)
        old.name, named.outputs[0].name = None, name
    graph.remove(node, safe=True)
