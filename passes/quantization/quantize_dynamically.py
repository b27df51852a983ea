"""Dynamic quantization: products of bytes, with a range of the inputs that is found while the model runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import is_default_op
from edgec.passes.quantization.encoding import encode_weight
from edgec.passes.quantization.quantize_weights import PRODUCTS
from edgec.passes.quantization.weights import read_linear, refusal
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant, replace_node

__all__ = ["QuantizeDynamically"]


@dataclass(frozen=True)
class QuantizeDynamically(InPlacePass):
    """Computes each Gemm and MatMul with constant weights in integers.

        x · W + b  ->  (q, s, z) = DynamicQuantizeLinear(x); DequantizeLinear(MatMulInteger(q, W_q, z), s · s_W) + b

    Products of the same input share its bytes. Weights are int8, symmetric, with a scale per column.

    Attributes:
        keep_float: Names of nodes that are left alone.
    """

    keep_float: frozenset[str] = frozenset()

    def call(self, model: ir.Model) -> CountedResult:
        tally, rewriting = Tally(), _Rewriting(model.graph)
        for node in list(model.graph):
            if not is_default_op(node, *PRODUCTS):
                continue
            why = "as you asked" if node.name in self.keep_float else refusal(node)
            if why is None and (node.outputs[0].shape is None or not node.outputs[0].shape.rank()):
                why = "its result has no axis"
            if why is not None:
                tally.refuse(node, why)
                continue
            tally.count(node.op_type)
            rewriting.quantize(node)
        for value in [v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
            if not value.is_graph_input():
                del model.graph.initializers[str(value.name)]
        return tally.result(model)


@dataclass
class _Rewriting:
    """One run: the graph, and the inputs that were made bytes already."""

    graph: ir.Graph
    quantized: dict[ir.Value, tuple[ir.Value, ...]] = field(default_factory=dict)

    def quantize(self, node: ir.Node) -> None:
        linear, x, name = read_linear(node), node.inputs[0], str(node.name)
        assert x is not None and node.outputs[0].shape is not None
        if x not in self.quantized:
            self.quantized[x] = self._dynamic_bytes(x, node)
        data, scale, zero = self.quantized[x]
        steps, weight_scales = encode_weight(linear.weight, 1)
        weights = new_constant(self.graph, steps, f"{name}_weight_quantized")
        factors = new_constant(self.graph, weight_scales, f"{name}_weight_scale")
        shape, out = node.outputs[0].shape, f"{node.outputs[0].name}"
        total = self._before(node, "MatMulInteger", [data, weights, zero], f"{out}_sum", ir.DataType.INT32, shape)
        factor = self._before(node, "Mul", [scale, factors], f"{out}_scale", ir.DataType.FLOAT, factors.shape)
        dequantize = ir.node("DequantizeLinear", [total, factor], {"axis": len(shape) - 1}, name=f"{out}_dequantize")
        if linear.bias is None:
            replace_node(node, dequantize)
            return
        product = dequantize.outputs[0]
        product.name, product.shape, product.dtype = f"{out}_product", shape, ir.DataType.FLOAT
        self.graph.insert_before(node, dequantize)
        bias = new_constant(self.graph, np.asarray(linear.bias, np.float32), f"{name}_bias")
        replace_node(node, ir.node("Add", [product, bias], name=f"{out}_add"))

    def _dynamic_bytes(self, x: ir.Value, reader: ir.Node) -> tuple[ir.Value, ...]:
        """Integers, scale and zero point."""
        node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{x.name}_DynamicQuantizeLinear")
        kinds = (
            ("quantized", ir.DataType.UINT8, x.shape),
            ("scale", ir.DataType.FLOAT, ir.Shape([])),
            ("zero_point", ir.DataType.UINT8, ir.Shape([])),
        )
        for value, (suffix, dtype, shape) in zip(node.outputs, kinds, strict=True):
            value.name, value.dtype, value.shape = f"{x.name}_{suffix}", dtype, shape
        self.graph.insert_before(reader, node)
        return tuple(node.outputs)

    def _before(
        self,
        reader: ir.Node,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, name=f"{name}_{op_type}")
        value = node.outputs[0]
        value.name, value.dtype, value.shape = name, dtype, shape
        self.graph.insert_before(reader, node)
        return value
