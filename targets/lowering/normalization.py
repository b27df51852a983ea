"""Normalizations that are not folded into a convolution."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.targets.lowering import layouts
from edgec.targets.lowering.attributes import integer, number
from edgec.targets.lowering.elementwise import combine
from edgec.targets.lowering.emitter import (
    Emitter,
    Fusion,
    before_widening,
    dtype_name,
    lowers,
    shape_of,
    static_shape,
)
from edgec.targets.lowering.reduction import emit_mean
from edgec.targets.lowering.rows import SUM, kept_stage, reduce_row

__all__: list[str] = []


@lowers("BatchNormalization")
def batch_normalization(emitter: Emitter, node: ir.Node) -> None:
    """At inference one product and one sum per channel, with constants."""
    scale, bias, mean, variance = (emitter.required_constant(node, i).astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + number(node, "epsilon", 1e-5))
    offset = bias - mean * factor
    shape = static_shape(node.inputs[0])
    x, constants = _with_channels(emitter, node.inputs[0], [factor, offset], len(shape))
    result = combine(emitter, lambda v, a, b: v * a + b, [x, *constants], "batch_normalization")
    _set_like(emitter, node, result)


def _with_channels(
    emitter: Emitter, value: ir.Value | None, vectors: list[np.ndarray], rank: int
) -> tuple[relax.Expr, list[relax.Expr]]:
    """The tensor in the layout it has, and per-channel constants shaped to broadcast over it."""
    dtype = np.dtype(dtype_name(value))
    if emitter.is_blocked(value):
        x = emitter.blocked(value).var
        images = [layouts.block_array(v.astype(dtype).reshape(1, -1, 1, 1), shape_of(x)[4]) for v in vectors]
        return x, [emitter.const(image) for image in images]
    return emitter.plain(value), [emitter.const(v.astype(dtype).reshape(-1, *[1] * (rank - 2))) for v in vectors]


def _set_like(emitter: Emitter, node: ir.Node, result: relax.Expr) -> None:
    out = node.outputs[0]
    if emitter.is_blocked(node.inputs[0]):
        emitter.set_blocked(out, result, static_shape(out)[1])
    else:
        emitter.set_plain(out, result)


@lowers("InstanceNormalization")
def instance_normalization(emitter: Emitter, node: ir.Node) -> None:
    """Each channel of each sample normalized by its own mean and variance."""
    vectors = [emitter.required_constant(node, i) for i in (1, 2)]
    rank = len(static_shape(node.inputs[0]))
    x, (scale, bias) = _with_channels(emitter, node.inputs[0], vectors, rank)
    axes = [2, 3] if emitter.is_blocked(node.inputs[0]) else list(range(2, rank))
    result = _normalized(emitter, x, axes, number(node, "epsilon", 1e-5), [scale, bias])
    _set_like(emitter, node, result)


@lowers("LayerNormalization")
def layer_normalization(emitter: Emitter, node: ir.Node) -> None:
    """One row, of all normalized axes, after another."""
    shape = static_shape(node.inputs[0])
    axis = integer(node, "axis", -1) % len(shape)
    rows, length = shape[:axis], math.prod(shape[axis:])
    affine = [emitter.plain(value) for value in node.inputs[1:] if value is not None]
    # ONNX lets scale and bias broadcast along the normalized axes; a row has one number for each of its elements.
    if any(shape_of(vector) != shape[axis:] for vector in affine):
        x = emitter.plain(node.inputs[0])
        result = _normalized(emitter, x, list(range(axis, len(shape))), number(node, "epsilon", 1e-5), affine)
    else:
        vectors = [emitter.reshape(vector, [length]) for vector in affine]
        dtype = dtype_name(node.inputs[0])
        settings = number(node, "epsilon", 1e-5), dtype, emitter.profile.row_lanes(dtype)
        merged = emitter.reshape(emitter.plain(before_widening(node.inputs[0])), [*rows, length])
        result = emitter.te(normalize_rows, settings, merged, *vectors, name="layer_norm", fusion=Fusion.EPILOGUE)
    emitter.set_plain(node.outputs[0], emitter.reshape(result, shape))


def normalize_rows(settings: tuple[float, str, int], x: te.Tensor, *affine: te.Tensor) -> te.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias along the last axis; scale and bias have its length.

    ``settings`` are epsilon, the type to compute in, and the lanes of a vector of that.
    """
    epsilon, dtype, lanes = settings
    *rows, length = (int(size) for size in x.shape)
    share = tirx.const(1 / length, dtype)
    total = reduce_row(rows, length, lambda row, at: x(*row, at).astype(dtype), SUM, lanes, "sum")
    mean = kept_stage((*rows, 1), lambda *i: total(*i) * share, "mean")
    centred = kept_stage(x.shape, lambda *i: x(*i).astype(dtype) - mean(*i[:-1], 0), "centred")
    squares = reduce_row(rows, length, lambda row, at: centred(*row, at) * centred(*row, at), SUM, lanes, "squares")
    factor = kept_stage(
        (*rows, 1),
        lambda *i: tirx.const(1, dtype) / tirx.sqrt(squares(*i) * share + tirx.const(epsilon, dtype)),
        "factor",
    )

    def element(*i: tirx.Var) -> tirx.Expr:
        result = centred(*i) * factor(*i[:-1], 0)
        if affine:
            result = result * affine[0](i[-1])
        return result + affine[1](i[-1]) if len(affine) > 1 else result

    return te.compute(x.shape, element, name="layer_norm")


def _normalized(
    emitter: Emitter, x: relax.Expr, axes: list[int], epsilon: float, affine: list[relax.Expr]
) -> relax.Expr:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias; the variance from the differences, not from squares."""
    mean = emit_mean(emitter, x, axes)
    variance = emit_mean(emitter, [x, mean], axes, lambda v, m: (v - m) * (v - m))

    def function(v: tirx.Expr, m: tirx.Expr, s: tirx.Expr, *rest: tirx.Expr) -> tirx.Expr:
        result = (v - m) / tirx.sqrt(s + tirx.const(epsilon, s.ty.dtype))
        if rest:
            result = result * rest[0]
        return result + rest[1] if len(rest) > 1 else result

    return combine(emitter, function, [x, mean, variance, *affine], "normalize")
