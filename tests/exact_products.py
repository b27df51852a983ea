"""Integer products for ONNX Runtime that it computes exactly everywhere.

On x86 without VNNI, its kernels for bytes saturate sums of two products (its documentation, "Quantize ONNX models",
tells of "data type selection" therefore). The same in other standard operators does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
from onnx import helper

__all__ = ["without_saturation"]


def without_saturation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, changed in place: MatMulInteger multiplies int32, QLinear operators what is dequantized."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        model.graph.node.extend(_RULES[node.op_type](node) if node.op_type in _RULES else [node])
    return model


def _product_of_int32(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    factors = []
    for factor, zero in zip(node.input[:2], [*node.input[2:], "", ""][:2], strict=True):
        wide, shift, centered = (f"{node.output[0]}_{factor}_{kind}" for kind in ("wide", "zero", "centered"))
        yield helper.make_node("Cast", [factor], [wide], to=onnx.TensorProto.INT32)
        if zero:
            yield helper.make_node("Cast", [zero], [shift], to=onnx.TensorProto.INT32)
            yield helper.make_node("Sub", [wide, shift], [centered])
        factors.append(centered if zero else wide)
    yield helper.make_node("MatMul", factors, node.output)


def _dequantized(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    x, w, bias, result = (f"{node.output[0]}_{part}" for part in ("x", "w", "bias", "product"))
    is_convolution = node.op_type == "QLinearConv"
    channels = 0 if is_convolution else -1
    yield helper.make_node("DequantizeLinear", node.input[:3], [x], axis=-2)
    yield helper.make_node("DequantizeLinear", node.input[3:6], [w], axis=channels)
    factors = [x, w]
    if len(node.input) > 8 and node.input[8]:
        yield helper.make_node("Mul", [node.input[1], node.input[4]], [f"{bias}_scale"])
        yield helper.make_node("DequantizeLinear", [node.input[8], f"{bias}_scale"], [bias], axis=0)
        factors.append(bias)
    product = helper.make_node("Conv" if is_convolution else "MatMul", factors, [result])
    product.attribute.extend(node.attribute)
    yield product
    yield helper.make_node("QuantizeLinear", [result, *node.input[6:8]], node.output, axis=-2)


_RULES: dict[str, Callable[[onnx.NodeProto], Iterator[onnx.NodeProto]]] = {
    "MatMulInteger": _product_of_int32,
    "QLinearConv": _dequantized,
    "QLinearMatMul": _dequantized,
}
