"""Convolutions and matrix products of quantized operands: integer sums, and one scale for the sum.

    Conv(DQ(x), DQ(w), b)  ->  DQ(ConvInteger(x, w, z_x, z_w) + b_int, float32(s_x · s_w))

and so MatMul and Gemm. What reads the result reads the same real numbers as before, but for the rounding of float sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.reading import Scaled, read_dequantize
from edgec.frontend.values import Array, array_of, is_default_op, rank_of, static_shape

__all__ = ["emit_sum", "is_normal", "make_products_integer", "without_subnormals"]

# A bias beyond this leaves no room in int32 for the sum itself.
_LARGEST_BIAS = 1 << 30
_INT32_END = 1 << 31
# No sum makes more of a scale that float32 has no normal number for: such scales count as 0.
_TINY = float(np.finfo(np.float32).tiny)
_NOTHING = _TINY * _INT32_END
# How far the scale of an integer bias may be from s_x · s_w: exporters compute the product in other precisions.
_BIAS_TOLERANCE = 1e-4


def make_products_integer(editor: Editor, node: ir.Node) -> bool:
    """Rewrites a Conv, MatMul or Gemm of quantized operands.

    It stays as it is where the sum could leave int32, where the product of the scales is no normal float32, and where
    operands are scaled along other axes than integer sums allow.
    """
    if is_default_op(node, "Conv"):
        return _make_convolution(editor, node)
    if is_default_op(node, "MatMul"):
        return _make_product(editor, node, None)
    if is_default_op(node, "Gemm"):
        return _make_gemm(editor, node)
    return False


@dataclass(frozen=True)
class _Bias:
    """A bias in steps of the sum (zeros for none), or one that has to be added to the real numbers."""

    steps: NDArray[np.int64]
    remainder: ir.Value | None = None


def _make_convolution(editor: Editor, node: ir.Node) -> bool:
    x, w = read_dequantize(node.inputs[0]), read_dequantize(node.inputs[1])
    if x is None or w is None or not x.is_activation or not w.is_byte:
        return False
    weights = array_of(w.source)
    if weights is None or not (w.is_per_tensor or w.axis % weights.ndim == 0):
        return False
    channels = weights.shape[0]
    scale = np.broadcast_to(_scale_of_sum(x, w), channels)
    added = node.inputs[2] if len(node.inputs) > 2 else None
    real = None if added is None else _real(added)
    if not is_normal(scale) or (added is not None and real is None):
        return False
    bias = _read_row(added, scale)
    if _largest_sum(x, w, weights.reshape(channels, -1).T) + np.abs(bias.steps).max(initial=0) >= _INT32_END:
        return False
    trailing = [1] * (weights.ndim - 2)
    output = _integer_node(editor, node, "ConvInteger", x, w, None, node.attributes)
    result = emit_sum(editor, node, output, bias.steps.reshape(1, channels, *trailing), scale, axis=1)
    if bias.remainder is not None and real is not None:
        spread = real.astype(np.float32).reshape(1, channels, *trailing)
        result = _added(editor, node, result, editor.constant(spread, f"{bias.remainder.name}_spread"))
    editor.replace(node.outputs[0], result)
    return True


def _make_gemm(editor: Editor, node: ir.Node) -> bool:
    numbers = {name: node.attributes[name].value for name in ("alpha", "beta", "transA") if name in node.attributes}
    if numbers.get("alpha", 1) != 1 or numbers.get("transA", 0) != 0:
        return False
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if has_bias and numbers.get("beta", 1) != 1:
        return False
    return _make_product(editor, node, node.inputs[2] if has_bias else None)


def _make_product(editor: Editor, node: ir.Node, added: ir.Value | None) -> bool:
    """A MatMul, or a Gemm with what it adds."""
    a, b = read_dequantize(node.inputs[0]), read_dequantize(node.inputs[1])
    rank = rank_of(node.outputs[0])
    if a is None or b is None or rank is None or not a.is_activation or not b.is_byte:
        return False
    if min(rank_of(a.source) or 0, rank_of(b.source) or 0) < 2:
        return False
    is_transposed = "transB" in node.attributes and node.attributes["transB"].as_int() != 0
    weights = array_of(b.source)
    if weights is None:
        if is_transposed or added is not None or not b.is_activation or not _sum_of_activations_fits(a):
            return False
        scale = _scale_of_sum(a, b)
        if not is_normal(scale):
            return False
        output = _integer_node(editor, node, "MatMulInteger", a, b, None, None)
        editor.replace(node.outputs[0], emit_sum(editor, node, output, np.zeros(0, np.int64), scale, axis=rank - 1))
        return True
    if not b.is_per_tensor and b.axis % weights.ndim != weights.ndim - (2 if is_transposed else 1):
        return False
    weights = weights.T if is_transposed else weights
    columns = weights.shape[-1]
    if b.zero_point.ndim and weights.ndim > 2:
        return False
    scale = np.broadcast_to(_scale_of_sum(a, b), columns)
    if not is_normal(scale):
        return False
    bias = _read_row(added, scale)
    if _largest_sum(a, b, weights) + np.abs(bias.steps).max(initial=0) >= _INT32_END:
        return False
    output = _integer_node(editor, node, "MatMulInteger", a, b, weights if is_transposed else None, None)
    result = emit_sum(editor, node, output, bias.steps, scale, axis=rank - 1)
    if bias.remainder is not None:
        result = _added(editor, node, result, bias.remainder)
    editor.replace(node.outputs[0], result)
    return True


def emit_sum(
    editor: Editor, node: ir.Node, total: ir.Value, bias: NDArray[np.int64], scale: Array, *, axis: int
) -> ir.Value:
    """The real numbers of an int32 sum and a bias in its steps: Add (unless the bias is zero), DequantizeLinear."""
    name = node.outputs[0].name or node.op_type
    shape = node.outputs[0].shape
    if bias.any():
        constant = editor.constant(bias.astype(np.int32), f"{name}_bias")
        total = editor.emit(
            node, "Add", [total, constant], name=f"{name}_sum", dtype=ir.DataType.INT32, shape=shape
        )  # fmt: skip
    inputs = [total, editor.constant(np.asarray(scale, np.float32), f"{name}_scale")]
    attributes = {"axis": axis} if scale.ndim else None
    return editor.emit(
        node, "DequantizeLinear", inputs, attributes, name=f"{name}_real", dtype=ir.DataType.FLOAT, shape=shape
    )


def _scale_of_sum(x: Scaled, w: Scaled) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):  # refused by `is_normal`
        return without_subnormals(np.asarray(x.scale * w.scale, np.float32))


def without_subnormals(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales of int32 sums with 0 for those too small to matter: of channels whose weights have died out."""
    return np.where(scale < _TINY, np.float32(0), scale)


def is_normal(scale: Array) -> bool:
    """Whether these scales are finite, and not all 0."""
    return bool(np.isfinite(scale).all() and scale.any())


def _integer_node(
    editor: Editor,
    node: ir.Node,
    op_type: str,
    x: Scaled,
    w: Scaled,
    weights: Array | None,
    attributes: Mapping[str, ir.Attr] | None,
) -> ir.Value:
    """The int32 sums, of ``weights`` instead of what ``w`` reads where they are given.

    The zero point of the second operand is left out where it is 0.
    """
    name = node.outputs[0].name or node.op_type
    second = w.source if weights is None else editor.constant(weights, f"{w.source.name}_transposed")
    inputs = [x.source, second, editor.constant(x.zero_point, f"{name}_zero")]
    if w.zero_point.any():
        inputs.append(editor.constant(w.zero_point, f"{name}_weight_zero"))
    return editor.emit(
        node, op_type, inputs, attributes, name=f"{name}_product", dtype=ir.DataType.INT32, shape=node.outputs[0].shape
    )


def _read_row(value: ir.Value | None, scale: NDArray[np.float32]) -> _Bias:
    """What is added to every row: in steps if it is one constant row that int32 sums have room for."""
    none = np.zeros(scale.shape, np.int64)
    if value is None:
        return _Bias(none)
    shape = static_shape(value)
    if shape is not None and shape in ((), (1,), (1, 1), scale.shape, (1, *scale.shape)):
        steps = _steps_of(value, scale)
        if steps is not None:
            return _Bias(steps)
    return _Bias(none, value)


def _steps_of(value: ir.Value, scale: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """A constant in steps of ``scale``; None if it is no constant, or does not fit."""
    real = _real(value)
    if real is None:
        return None
    unit: Array = scale
    quantized = read_dequantize(value)
    if quantized is not None and quantized.dtype == ir.DataType.INT32:
        unit = np.where(np.isclose(quantized.scale, scale, rtol=_BIAS_TOLERANCE, atol=0), quantized.scale, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.rint(real / unit.astype(np.float64))
    steps = np.where((unit == 0) & (np.abs(real) < _NOTHING), 0, steps)
    if not bool((np.abs(steps) <= _LARGEST_BIAS).all()):  # false for nan, too
        return None
    return np.broadcast_to(steps, scale.shape).astype(np.int64)


def _real(value: ir.Value) -> NDArray[np.float64] | None:
    """The numbers of a constant, also of a quantized one, in one row."""
    quantized = read_dequantize(value)
    array = array_of(value if quantized is None else quantized.source)
    if array is None:
        return None
    wide = array.astype(np.float64).reshape(-1)
    if quantized is None:
        return wide
    return (wide - quantized.zero_point.astype(np.float64)) * quantized.scale.astype(np.float64)


def _largest_sum(x: Scaled, w: Scaled, columns: Array) -> int:
    """The largest magnitude that a sum over the second to last axis can have."""
    low, high = x.limits
    zero = int(x.zero_point)
    centred = np.abs(columns.astype(np.int64) - w.zero_point.astype(np.int64))
    return int(centred.sum(axis=-2).max(initial=0)) * max(high - zero, zero - low)


def _sum_of_activations_fits(a: Scaled) -> bool:
    shape = static_shape(a.source)
    return shape is not None and shape[-1] * 255 * 255 < _INT32_END


def _added(editor: Editor, node: ir.Node, result: ir.Value, remainder: ir.Value) -> ir.Value:
    name, shape = node.outputs[0].name, node.outputs[0].shape
    return editor.emit(node, "Add", [result, remainder], name=f"{name}_biased", dtype=ir.DataType.FLOAT, shape=shape)
