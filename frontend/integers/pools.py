"""Means of quantized values: integer sums, and the number of elements in the scale of the sum.

ReduceMean(DQ(x, s, z))   ->  DQ(ReduceSum(Cast(x)) - n·z, s / n)
AveragePool(DQ(x, s, z))  ->  DQ(ConvInteger(x, ones, z), s / n)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.products import emit_sum, is_normal
from edgec.frontend.integers.reading import Scaled, read_dequantize
from edgec.frontend.values import array_of, is_default_op, rank_of, static_shape

__all__ = ["make_mean_integer"]

_INT32_END = 1 << 31


def make_mean_integer(editor: Editor, node: ir.Node) -> bool:
    """Rewrites a GlobalAveragePool, ReduceMean or AveragePool of dequantized bytes of known shape."""
    if not is_default_op(node, "AveragePool", "GlobalAveragePool", "ReduceMean"):
        return False
    x = read_dequantize(node.inputs[0])
    shape = static_shape(node.inputs[0])
    if x is None or shape is None or not x.is_activation:
        return False
    if is_default_op(node, "AveragePool"):
        return _make_pool(editor, node, x, shape)
    if is_default_op(node, "GlobalAveragePool"):
        return _make_mean(editor, node, x, shape, range(2, len(shape)), keepdims=1)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = array_of(given)
    flags = {
        name: node.attributes[name].as_int() for name in ("keepdims", "noop_with_empty_axes") if name in node.attributes
    }
    if (given is not None and axes is None) or flags.get("noop_with_empty_axes", 0):
        return False
    reduced = (
        [int(axis) % len(shape) for axis in axes.reshape(-1)] if axes is not None and axes.size else range(len(shape))
    )
    return _make_mean(editor, node, x, shape, reduced, keepdims=flags.get("keepdims", 1))


def _make_mean(
    editor: Editor, node: ir.Node, x: Scaled, shape: tuple[int, ...], axes: Sequence[int], *, keepdims: int
) -> bool:
    output = node.outputs[0]
    count = math.prod(shape[axis] for axis in axes)
    scale = np.asarray(x.scale / np.float32(max(count, 1)), np.float32)
    if count == 0 or count * 255 >= _INT32_END or not is_normal(scale):
        return False
    emit = functools.partial(editor.emit, node, dtype=ir.DataType.INT32)
    wide = emit("Cast", [x.source], {"to": ir.DataType.INT32}, name=f"{output.name}_wide", shape=ir.Shape(shape))
    reduced = editor.constant(np.array(axes, np.int64), f"{output.name}_axes")
    total = emit("ReduceSum", [wide, reduced], {"keepdims": keepdims}, name=f"{output.name}_total", shape=output.shape)
    if x.zero_point.any():
        offset = editor.constant(np.array(count * int(x.zero_point), np.int32), f"{output.name}_offset")
        total = emit("Sub", [total, offset], name=f"{output.name}_centred", shape=output.shape)
    editor.replace(output, emit_sum(editor, node, total, np.zeros(0, np.int64), scale, axis=1))
    return True


@dataclass(frozen=True)
class _Window:
    """One axis of a pool.

    Attributes:
        pads: What ConvInteger is to pad before and after so that its outputs are those of the pool.
        counts: By how many elements each output is to be divided.
    """

    pads: tuple[int, int]
    counts: tuple[int, ...]


def _make_pool(editor: Editor, node: ir.Node, x: Scaled, shape: tuple[int, ...]) -> bool:
    output = node.outputs[0]
    pooled = static_shape(output)
    if pooled is None or rank_of(output) != len(shape) or 0 in shape:
        return False
    kernel = list(node.attributes["kernel_shape"].as_ints())
    windows = [_window(node, axis, shape[2 + axis], pooled[2 + axis]) for axis in range(len(kernel))]
    counts = functools.reduce(np.multiply.outer, [np.array(window.counts, np.float32) for window in windows])
    if not counts.all() or math.prod(kernel) * 255 >= _INT32_END:
        return False
    if tuple(kernel) == shape[2:] and set(pooled[2:]) == {1} and not any(any(window.pads) for window in windows):
        return _make_mean(editor, node, x, shape, range(2, len(shape)), keepdims=1)
    is_uniform = bool((counts == counts.flat[0]).all())
    scale = np.asarray(x.scale / (counts.flat[0] if is_uniform else np.float32(1)), np.float32)
    if not is_normal(scale):
        return False
    attributes: dict[str, int | Sequence[int]] = {
        "group": shape[1],
        "pads": [window.pads[side] for side in (0, 1) for window in windows],
        "strides": _ints(node, "strides", len(kernel)),
        "dilations": _ints(node, "dilations", len(kernel)),
    }
    ones = editor.constant(np.ones((shape[1], 1, *kernel), np.int8), f"{output.name}_ones")
    zero = editor.constant(x.zero_point, f"{output.name}_zero")
    total = editor.emit(
        node,
        "ConvInteger",
        [x.source, ones, zero],
        attributes,
        name=f"{output.name}_total",
        dtype=ir.DataType.INT32,
        shape=output.shape,
    )
    result = emit_sum(editor, node, total, np.zeros(0, np.int64), scale, axis=1)
    if not is_uniform:
        shares = editor.constant((np.float32(1) / counts)[np.newaxis, np.newaxis], f"{output.name}_shares")
        result = editor.emit(
            node, "Mul", [result, shares], name=f"{output.name}_mean", dtype=ir.DataType.FLOAT, shape=output.shape
        )
    editor.replace(output, result)
    return True


def _window(node: ir.Node, axis: int, size: int, pooled: int) -> _Window:
    rank = len(node.attributes["kernel_shape"].as_ints())
    length = node.attributes["kernel_shape"].as_ints()[axis]
    stride, dilation = _ints(node, "strides", rank)[axis], _ints(node, "dilations", rank)[axis]
    covered = (pooled - 1) * stride + (length - 1) * dilation + 1
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if mode.startswith("SAME"):
        missing = max(covered - size, 0)
        before = missing // 2 if mode == "SAME_UPPER" else missing - missing // 2
        after = missing - before
    else:
        pads = _ints(node, "pads", 2 * rank, default=0) if mode == "NOTSET" else [0] * (2 * rank)
        before, after = pads[axis], pads[rank + axis]
    includes_pad = "count_include_pad" in node.attributes and node.attributes["count_include_pad"].as_int() != 0
    low, high = (-before, size + after) if includes_pad else (0, size)
    positions: NDArray[np.int64] = (
        np.arange(pooled)[:, np.newaxis] * stride - before + np.arange(length)[np.newaxis] * dilation
    )
    counts = ((positions >= low) & (positions < high)).sum(axis=1)
    # Rounded up, the last window may reach beyond the padding; rounded down, not all of it is needed.
    return _Window((before, max(covered - size - before, 0)), tuple(int(count) for count in counts))


def _ints(node: ir.Node, name: str, count: int, default: int = 1) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else [default] * count
