"""Merge a matrix product and the addition of its bias into Gemm."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, is_default_op, only_consumer, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import replace_node

__all__ = ["MergeGemm"]


@dataclass(frozen=True)
class MergeGemm(InPlacePass):
    """Merges MatMul and Add into Gemm, where both factors are matrices and the addend is a constant.

    The product must have no other consumer, and the addend must not widen it.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if is_default_op(node, "Add"):
                _merge(node, tally)
        return tally.result(model)


def _merge(add: ir.Node, tally: Tally) -> None:
    for index in (0, 1):
        product_value, addend = add.inputs[index], add.inputs[1 - index]
        product = None if product_value is None else product_value.producer()
        if product_value is None or addend is None or product is None or not is_default_op(product, "MatMul"):
            continue
        left, right = product.inputs
        shapes = [static_shape(value) for value in (left, right, product_value, addend, add.outputs[0])]
        if any(shape is None or len(shape) > 2 for shape in shapes) or len(shapes[0] or ()) + len(shapes[1] or ()) != 4:
            tally.refuse(add, f"MatMul '{product.name}' is no product of two matrices")
        elif array_of(addend) is None or array_of(right) is None:
            tally.refuse(add, "the addend or the right factor is not constant")
        elif shapes[2] != shapes[4]:
            tally.refuse(add, "the addend widens the product")
        elif only_consumer(product_value) is None:
            tally.refuse(add, f"the result of MatMul '{product.name}' is used elsewhere too")
        else:
            gemm = ir.node("Gemm", [left, right, addend], name=f"{product.name}_gemm")
            gemm.metadata_props.update(product.metadata_props)
            replace_node(add, gemm)
            assert isinstance(product.graph, ir.Graph)
            product.graph.remove(product, safe=True)
            tally.count("MatMul and Add into Gemm")
            return
