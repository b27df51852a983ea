"""Weight-only quantization: products keep their float arithmetic and read weights of 8 or 4 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, is_default_op
from edgec.passes.quantization.encode_blocks import encode_blocks
from edgec.passes.quantization.encoding import encode_weight
from edgec.passes.quantization.weights import read_linear, refusal
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant

__all__ = ["PRODUCTS", "QuantizeWeights"]

PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizeWeights(InPlacePass):
    """Gives each Gemm and MatMul with constant weights a DequantizeLinear of integers for them.

    Attributes:
        bits: 8 or 4.
        block_size: Weights along a column that share a scale; None for whole columns.
        keep_float: Names of nodes that are left alone.
    """

    bits: int = 8
    block_size: int | None = None
    keep_float: frozenset[str] = frozenset()

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(model.graph):
            if not is_default_op(node, *PRODUCTS) or _is_dequantized(node.inputs[1]):
                continue
            why = "as you asked" if node.name in self.keep_float else refusal(node)
            if why is not None:
                tally.refuse(node, why)
                continue
            self._quantize(model.graph, node)
            tally.count(node.op_type)
        for value in [v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
            if not value.is_graph_input():
                del model.graph.initializers[str(value.name)]
        return tally.result(model)

    def _quantize(self, graph: ir.Graph, node: ir.Node) -> None:
        matrix, name = read_linear(node).weight, f"{node.name}_weight"
        attributes = {"axis": 1}
        if self.bits == 8 and self.block_size is None:
            steps, scales = encode_weight(matrix, 1)
        else:
            size = min(self.block_size or len(matrix), len(matrix))
            steps, scales = encode_blocks(matrix, self.bits, size)
            attributes = {"axis": 0, "block_size": size}
        constants = [
            new_constant(graph, _narrowed(steps, self.bits), f"{name}_quantized"),
            new_constant(graph, scales, f"{name}_scale"),
        ]
        made = ir.node("DequantizeLinear", constants, attributes, name=f"{name}_DequantizeLinear")
        weight = made.outputs[0]
        weight.name, weight.shape, weight.dtype = name, ir.Shape(matrix.shape), ir.DataType.FLOAT
        graph.insert_before(node, made)
        node.replace_input_with(1, weight)
        for attribute in ("alpha", "transB"):  # they are in the weights now
            node.attributes.pop(attribute, None)


def _is_dequantized(value: ir.Value | None) -> bool:
    return value is not None and is_default_op(value.producer(), "DequantizeLinear")


def _narrowed(steps: Array, bits: int) -> Array:
    import ml_dtypes

    return steps if bits == 8 else steps.astype(np.dtype(ml_dtypes.int4))
