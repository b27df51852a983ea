"""QLinearConv and QLinearMatMul, in the operators that the other rules make."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.products import emit_sum, is_normal, without_subnormals
from edgec.frontend.values import Array, array_of, is_default_op, rank_of

__all__ = ["write_out_linear_operator"]


def write_out_linear_operator(editor: Editor, node: ir.Node) -> bool:
    """Rewrites QLinearConv and QLinearMatMul as an integer product, DequantizeLinear, and QuantizeLinear of scale 1.

    The scale of the sum is float32(s_x · s_w) / s_y, so the integers are those of the operator itself.
    """
    if is_default_op(node, "QLinearConv"):
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *rest = node.inputs
    elif is_default_op(node, "QLinearMatMul"):
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *rest = (*node.inputs, None)
    else:
        return False
    rank = rank_of(node.outputs[0])
    scales = [_float32(value) for value in (x_scale, w_scale, y_scale)]
    if rank is None or any(scale is None for scale in scales) or y_zero is None or y_zero.dtype is None:
        return False
    of_x, of_w, of_y = (scale for scale in scales if scale is not None)
    bias = array_of(rest[0]) if rest else None
    if of_x.ndim or of_y.ndim or of_w.ndim > 1 or (rest and rest[0] is not None and bias is None):
        return False
    with np.errstate(over="ignore", under="ignore"):  # refused below
        scale = without_subnormals(np.asarray(of_x * of_w / of_y, np.float32))
    if not is_normal(scale):
        return False
    is_convolution = is_default_op(node, "QLinearConv")
    name = node.outputs[0].name or node.op_type
    total = editor.emit(
        node,
        "ConvInteger" if is_convolution else "MatMulInteger",
        [x, w, x_zero, w_zero],
        node.attributes,
        name=f"{name}_product",
        dtype=ir.DataType.INT32,
        shape=node.outputs[0].shape,
    )
    steps = np.zeros(0, np.int64)
    if bias is not None:
        steps = bias.astype(np.int64).reshape(1, -1, *[1] * (rank - 2))
    result = emit_sum(editor, node, total, steps, scale, axis=1 if is_convolution else rank - 1)
    inputs = [result, editor.constant(np.ones((), np.float32), f"{name}_unit"), y_zero]
    quantized = editor.emit(
        node, "QuantizeLinear", inputs, name=f"{name}_integers", dtype=y_zero.dtype, shape=node.outputs[0].shape
    )
    editor.replace(node.outputs[0], quantized)
    return True


def _float32(value: ir.Value | None) -> NDArray[np.float32] | None:
    array: Array | None = array_of(value)
    if array is None or array.dtype != np.float32:
        return None
    return np.asarray(array.reshape(()) if array.size == 1 else array, np.float32)
