"""Sums of products that are brought to real numbers by a Cast and a Mul, as ONNX Runtime writes them."""

from __future__ import annotations

import onnx_ir as ir

from edgec.frontend.integers.editing import Editor
from edgec.frontend.values import is_default_op, only_consumer, static_shape

__all__ = ["scale_sums"]


def scale_sums(editor: Editor, node: ir.Node) -> bool:
    """Mul(Cast(sum), s)  ->  DequantizeLinear(sum, s), for one scale, or one per column.

    The numbers are the same; it says that their products are rounded before anything is added to them.
    """
    if not is_default_op(node, "Mul"):
        return False
    for real, scale in (node.inputs, node.inputs[::-1]):
        cast = None if real is None else real.producer()
        total = cast.inputs[0] if cast is not None and is_default_op(cast, "Cast") else None
        if total is None or real is None or scale is None or not is_default_op(total.producer(), "MatMulInteger"):
            continue
        shape, scales = static_shape(total), static_shape(scale)
        if real.dtype != ir.DataType.FLOAT or only_consumer(real) is not node or not shape:
            continue
        if scales == () or scales == shape[-1:]:
            attributes = {"axis": len(shape) - 1} if scales else {}
            name, dtype, inputs = f"{total.name}_real", ir.DataType.FLOAT, [total, scale]
            out = editor.emit(
                node, "DequantizeLinear", inputs, attributes, name=name, dtype=dtype, shape=node.outputs[0].shape
            )
            editor.replace(node.outputs[0], out)
            return True
    return False
