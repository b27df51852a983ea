"""Give every node and value a name of its own."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes.common import NameFixPass

from edgec.passes.report import CountedResult, Tally

__all__ = ["FixNames"]


class _Names:
    """Names for what has none: a node is called by its operator, a value by the node that makes it."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        producer = value.producer()
        return value.name or ("value" if producer is None else f"{producer.name or producer.op_type}_output")


@dataclass(frozen=True)
class FixNames(InPlacePass):
    """Makes names unique and fills missing ones; names of inputs and outputs of the model take precedence."""

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        if NameFixPass(name_generator=_Names())(model).modified:
            tally.count("names")
        return tally.result(model)
