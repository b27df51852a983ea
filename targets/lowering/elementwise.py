"""Operators that work on each element for itself, with one or more operands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from tvm import relax

from edgec.targets.lowering.emitter import Emitter, dtype_of, lowers, shape_of, static_shape

__all__ = ["emit_unary"]


def emit_unary(emitter: Emitter, node: ir.Node, function: Callable[[relax.Expr], relax.Expr], *, safe: bool) -> None:
    """Emit a function of one tensor in the layout that the tensor has.

    ``safe`` says that a finite lane stays finite: only then may it run over the padding lanes of a blocked tensor,
    which later meet zero weights (0 * inf would be NaN).
    """
    x = node.inputs[0]
    if emitter.is_blocked(x):
        blocked = emitter.blocked(x)
        if safe or not blocked.is_padded:
            emitter.set_blocked(node.outputs[0], emitter.emit(function(blocked.var)), blocked.channels)
            return
    emitter.set_plain(node.outputs[0], emitter.emit(function(emitter.plain(x))))


_BINARY: dict[str, Callable[[relax.Expr, relax.Expr], relax.Expr]] = {
    "Add": relax.op.add,
    "Sub": relax.op.subtract,
    "Mul": relax.op.multiply,
    "Max": relax.op.maximum,
    "Min": relax.op.minimum,
}


@lowers(*_BINARY)
def binary(emitter: Emitter, node: ir.Node) -> None:
    """Element-wise with broadcasting; more than two operands (Max, Min) are combined from the left."""
    function = _BINARY[node.op_type]
    out_shape = static_shape(node.outputs[0])
    if _stays_blocked(emitter, node, out_shape):
        operands = [_blocked_operand(emitter, value, out_shape) for value in node.inputs if value is not None]
        result = operands[0]
        for operand in operands[1:]:
            result = emitter.emit(function(result, operand))
        emitter.set_blocked(node.outputs[0], result, out_shape[1])
        return
    exprs = [emitter.plain(value) for value in node.inputs if value is not None]
    result = exprs[0]
    for expr in exprs[1:]:
        result = emitter.emit(function(result, expr))
    emitter.set_plain(node.outputs[0], result)


def _stays_blocked(emitter: Emitter, node: ir.Node, out_shape: list[int]) -> bool:
    """Whether all operands can be had blocked, and at least one of full size already is."""
    if len(out_shape) != 4:
        return False
    has_blocked = False
    for value in node.inputs:
        constant = emitter.constant(value)
        if constant is not None:
            aligned = (1,) * (4 - constant.ndim) + constant.shape
            if constant.size != 1 and (constant.ndim > 4 or aligned[1] not in (1, out_shape[1])):
                return False
        elif value is None or len(static_shape(value)) != 4 or static_shape(value)[1] != out_shape[1]:
            return False
        elif emitter.is_blocked(value):
            has_blocked = True
    return has_blocked


def _blocked_operand(emitter: Emitter, value: ir.Value, out_shape: list[int]) -> relax.Expr:
    constant = emitter.constant(value)
    if constant is None:
        return emitter.blocked(value).var
    if constant.size == 1:
        return relax.const(constant.reshape(()))
    from edgec.targets.lowering import layouts

    aligned = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    if aligned.shape[1] == 1:  # the same for all channels: only the block axis is new
        return relax.const(np.ascontiguousarray(aligned[..., None]))
    return relax.const(layouts.block_array(aligned, emitter.profile.lanes(constant.dtype.name)))
