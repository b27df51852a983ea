"""QuantizeLinear and DequantizeLinear as element-wise arithmetic, operation by operation as the engine has it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import tirx

from edgec.errors import UnsupportedError
from edgec.targets.intrinsics import SMALL, nearest_integer, rounded, rounded_to_ones, saturated
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.bounds import largest
from edgec.targets.lowering.dynamic_quantization import apply_along_columns
from edgec.targets.lowering.elementwise import emit_elementwise
from edgec.targets.lowering.emitter import Emitter, dtype_name, lowers, static_shape

__all__: list[str] = []


def _parameter(emitter: Emitter, node: ir.Node, index: int, dtype: type) -> ir.Value | None:
    """A scale or zero point as a value that broadcasts over the first input; None for one that is left out."""
    if index >= len(node.inputs) or node.inputs[index] is None:
        return None
    source = node.inputs[index]
    assert source is not None
    array = emitter.constant(source)
    full, shape = static_shape(node.inputs[0]), static_shape(source)
    rank, axis, block_size = len(full), integer(node, "axis", 1), integer(node, "block_size", 0)
    if block_size and (array is None or emitter.constant(node.inputs[0]) is None):
        raise UnsupportedError(f"{node.op_type} '{node.name}' is quantized in blocks")
    if block_size and array is not None:
        array = np.repeat(array, block_size, axis)[tuple(slice(size) for size in full)]
        shape = list(array.shape)
    elif len(shape) == 1 and shape != [1]:
        shape = [shape[0] if i == axis % rank else 1 for i in range(rank)]
    else:
        shape = []
    kind = source.type if array is None else ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    value = ir.Value(name=f"{source.name}/{node.name or node.outputs[0].name}", shape=ir.Shape(shape), type=kind)
    if array is None:
        emitter.set_plain(value, emitter.reshape(emitter.plain(source), shape))
    else:
        emitter.set_constant(value, array.reshape(shape).astype(dtype))
    return value


def _is_along_columns(emitter: Emitter, node: ir.Node) -> bool:
    """Whether a plain tensor has a scale, or one per column, that is known at run time only."""
    x, scale = node.inputs[:2]
    if emitter.constant(scale) is not None or emitter.constant(x) is not None or emitter.is_blocked(x):
        return False
    rank, count = len(static_shape(x)), math.prod(static_shape(scale))
    return rank > 0 and (count == 1 or integer(node, "axis", 1) % rank == rank - 1)


@lowers("DequantizeLinear")
def dequantize_linear(emitter: Emitter, node: ir.Node) -> None:
    """(x - zero point) * scale: an exact difference, and a product that is rounded before anything else happens."""
    scale, zero = _parameter(emitter, node, 1, np.float32), _parameter(emitter, node, 2, np.int32)
    if zero is not None and (array := emitter.constant(zero)) is not None and not array.any():
        zero = None
    known = [emitter.constant(value) for value in (node.inputs[0], scale, zero) if value is not None]
    if all(array is not None for array in known):  # the weights of an operator that stays in float
        steps, factor, *offset = (np.asarray(array) for array in known)
        difference = steps.astype(np.int32) - offset[0] if offset else steps.astype(np.int32)
        emitter.set_constant(node.outputs[0], difference.astype(np.float32) * factor)
        return

    def function(x: tirx.Expr, s: tirx.Expr, *z: tirx.Expr) -> tirx.Expr:
        steps = x.astype("int32") - z[0].astype("int32") if z else x.astype("int32")
        return rounded(steps.astype("float32") * s)

    if zero is None and _is_along_columns(emitter, node):
        x = emitter.plain(node.inputs[0])
        result = apply_along_columns(emitter, function, x, [emitter.plain(scale)], "dequantize")
        emitter.set_plain(node.outputs[0], emitter.reshape(result, static_shape(node.outputs[0])))
        return
    emit_elementwise(emitter, node, [node.inputs[0], scale, zero], function)


@lowers("QuantizeLinear")
def quantize_linear(emitter: Emitter, node: ir.Node) -> None:
    """saturate(round_half_to_even(x / scale) + zero point)."""
    out = dtype_name(node.outputs[0])
    if out not in ("uint8", "int8", "uint16", "int16"):
        raise UnsupportedError(f"QuantizeLinear '{node.name}' to {out} is not supported")
    scale, zero = _parameter(emitter, node, 1, np.float32), _parameter(emitter, node, 2, np.int32)
    constant = emitter.constant(scale)
    is_unit = constant is not None and bool((constant == 1).all())
    is_small = is_unit and bool((largest(emitter, node.inputs[0]) < SMALL).all())

    def function(x: tirx.Expr, s: tirx.Expr, *z: tirx.Expr) -> tirx.Expr:
        steps, zero_point = x if is_unit else x / s, z[0].astype("int32") if z else tirx.const(0, "int32")
        if out in ("int8", "uint8"):
            return saturated(steps, zero_point, out, is_small=is_small)
        return (nearest_integer(_bounded(steps, zero_point, out)) + zero_point).astype(out)

    back = _inverse(emitter, node)
    is_seen_by_none = back is not None and _is_quantized_again(back.outputs[0])

    def and_back(x: tirx.Expr, s: tirx.Expr, t: tirx.Expr, *z: tirx.Expr) -> tirx.Expr:
        zero_point = z[0].astype("int32") if z else tirx.const(0, "int32")
        steps = _bounded(x if is_unit else x / s, zero_point, out)
        if is_seen_by_none:  # nobody sees that zeros keep their sign
            return rounded(rounded_to_ones(steps) * t)
        return rounded(nearest_integer(steps).astype("float32") * t)

    if zero is not None and (array := emitter.constant(zero)) is not None and not array.any():
        zero = None
    if back is None:
        emit_elementwise(emitter, node, [node.inputs[0], scale, zero], function)
    else:
        emitter.take(back)
        values = [node.inputs[0], scale, _parameter(emitter, back, 1, np.float32), zero]
        emit_elementwise(emitter, back, values, and_back, name="round_trip")


def _bounded(steps: tirx.Expr, zero_point: tirx.Expr, dtype: str) -> tirx.Expr:
    """A float32 such that the type holds it with its zero point, which are integers: it may be rounded afterwards."""
    info, offset = np.iinfo(dtype), zero_point.astype("float32")
    low, high = (tirx.const(float(bound), "float32") - offset for bound in (info.min, info.max))
    return tirx.min(tirx.max(steps, low), high)


_BLIND_TO_SIGNS_OF_ZEROS = frozenset({"Add", "Clip", "Mul", "Relu", "Sub"})
"""What gives zeros for zeros of either sign, or the same number."""


def _is_quantized_again(value: ir.Value, most_nodes: int = 4) -> bool:
    """Whether all that is made of the value is quantized, so that integers, whose zero has no sign, come out."""
    if value.is_graph_output() or most_nodes == 0:
        return False
    readers = [usage.node for usage in value.uses()]
    return all(
        reader.op_type == "QuantizeLinear"
        or (reader.op_type in _BLIND_TO_SIGNS_OF_ZEROS and _is_quantized_again(reader.outputs[0], most_nodes - 1))
        for reader in readers
    )


def _inverse(emitter: Emitter, node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear that alone reads what QuantizeLinear gives out: no byte need be made of its numbers then."""
    out = node.outputs[0]
    readers = [usage.node for usage in out.uses()]
    if len(readers) != 1 or out.is_graph_output() or readers[0].op_type != "DequantizeLinear":
        return None
    zeros = [emitter.constant(each.inputs[2]) if len(each.inputs) > 2 else np.zeros(()) for each in (node, readers[0])]
    scales = [emitter.constant(each.inputs[1]) for each in (node, readers[0])]
    is_known = all(array is not None and array.size == 1 for array in (*zeros, *scales))
    return readers[0] if is_known and zeros[0] == zeros[1] else None
