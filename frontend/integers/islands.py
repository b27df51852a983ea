"""Where the integers of a quantized model come from float arithmetic that no contract fixes."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["float_islands"]

_EXACT = frozenset({
    "Abs", "Add", "Cast", "Clip", "Concat", "ConvInteger", "DepthToSpace", "DequantizeLinear", "Div",
    "DynamicQuantizeLinear", "Expand", "Flatten", "Gather", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "MatMulInteger", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Pad", "QuantizeLinear", "Relu", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that move numbers, compute with integers, or round each sum and product as IEEE 754 has it."""


def float_islands(model: ir.Model) -> list[str]:
    """The operators, in order, on whose rounding in float a QuantizeLinear of the integer form depends.

    A sum of many terms or a transcendental function may differ in its last digits from machine to machine, and an
    integer that is made of it by one step. A model without any is the same everywhere, bit for bit.

    Args:
        model: What :func:`integer_form` returned.
    """
    depends: set[ir.Value] = set()
    found: dict[str, None] = {}
    for node in reversed(list(model.graph)):
        is_quantizer = node.op_type in ("DynamicQuantizeLinear", "QuantizeLinear") and not node.domain
        if not is_quantizer and depends.isdisjoint(node.outputs):
            continue
        if node.domain or node.op_type not in _EXACT:
            found[node.op_type] = None
        depends.update(value for value in node.inputs if value is not None and _is_float(value))
    return list(found)[::-1]


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
