"""Operators that work on each element for itself, with one or more operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import onnx_ir as ir
from tvm import prim, relax, te, tirx
from tvm.ir import GenericConst
from tvm_ffi.structural import structural_map

from edgec.targets.intrinsics import rounded
from edgec.targets.lowering import layouts, scalars
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_name, lowers, shape_of, static_shape
from edgec.targets.lowering.scalars import Scalar

__all__ = ["combine", "emit_elementwise", "emit_map"]


def emit_map(emitter: Emitter, node: ir.Node, function: Scalar, *, safe: bool = True, name: str | None = None) -> None:
    """Emit a function of the first input alone; see `emit_elementwise`."""
    emit_elementwise(emitter, node, [node.inputs[0]], function, safe=safe, name=name)


def emit_elementwise(
    emitter: Emitter,
    node: ir.Node,
    values: Sequence[ir.Value | None],
    function: Scalar,
    *,
    safe: bool = True,
    name: str | None = None,
    fill: float = 0.0,
) -> None:
    """Emit one kernel that applies a scalar function to broadcast operands, blocked where one of them is.

    Args:
        emitter: The emission.
        node: The node whose first output is set.
        values: The operands.
        function: From one scalar expression per operand to the result.
        safe: Whether finite operands give a finite result: only then may it run over the padding lanes of a blocked
            tensor, which later meet zero weights (0 * inf would be NaN).
        name: The kernel's name.
        fill: What the padding lanes of constant operands hold.
    """
    if emitter.is_quantized and node.op_type in _EXACT:
        function = _uncontracted(function)
    operands = [value for value in values if value is not None]
    out = node.outputs[0]
    out_shape = static_shape(out)
    kernel = name or node.op_type.lower()
    lanes = _block_lanes(emitter, operands, out_shape, safe)
    if lanes is not None and _keeps_blocks(emitter, operands, out, lanes):
        exprs = [_blocked_operand(emitter, value, out_shape, fill, lanes) for value in operands]
        result = combine(emitter, function, exprs, kernel)
        emitter.set_blocked(out, result, layouts.image_shape(out_shape)[1])
        return
    exprs = [_plain_operand(emitter, value) for value in operands]
    if len(exprs) == 1:  # before a reshape the kernel can join the one that makes its operand
        exprs = [emitter.before_reshape(exprs[0])]
    result = combine(emitter, function, exprs, kernel)
    emitter.set_plain(out, emitter.reshape(result, out_shape))


_EXACT = frozenset({"Add", "Div", "HardSigmoid", "HardSwish", "LeakyRelu", "Mean", "Mul", "PRelu", "Sub", "Sum"})
"""What a quantized model may compute between integers: arithmetic that the engine does operation by operation."""


def _uncontracted(function: Scalar) -> Scalar:
    """The function with each of its products rounded before anything is added to it."""

    def product(node: prim.Mul) -> prim.Expr:
        return rounded(node) if str(node.ty.dtype) == "float32" else node

    return lambda *operands: structural_map(function(*operands), (prim.Mul, product))


def combine(emitter: Emitter, function: Scalar, operands: Sequence[relax.Expr], name: str) -> relax.Expr:
    """Emit a kernel that broadcasts the operands (tensors, or TIR immediates) and applies ``function``."""
    is_tensor = [hasattr(operand.ty, "shape") for operand in operands]
    tensors = [operand for operand, flag in zip(operands, is_tensor, strict=True) if flag]
    if not tensors:
        tensors = [emitter.const(np.array(operands[0].value, str(operands[0].ty.dtype)))]
        is_tensor[0] = True
    shape = list(np.broadcast_shapes(*(shape_of(t) for t in tensors)))

    def kernel(*inputs: te.Tensor) -> te.Tensor:
        def element(*indices: tirx.Var) -> tirx.Expr:
            remaining = iter(inputs)
            scalars_ = [
                _broadcast(next(remaining), shape, indices) if flag else operand
                for operand, flag in zip(operands, is_tensor, strict=True)
            ]
            return function(*scalars_)

        return te.compute(shape, element, name=name)

    # A computed operand that grows to the result's size must stay a tensor of its own: fused into the kernel that
    # makes it, every element of the result would wait for it, and a reduction's epilogue would have another shape.
    grows = any(not isinstance(t, GenericConst) and shape_of(t) != shape for t in tensors)
    return emitter.te(kernel, *tensors, name=name, fusion=Fusion.INJECTIVE if grows else None)


def _broadcast(tensor: te.Tensor, shape: list[int], indices: Sequence[tirx.Var]) -> tirx.Expr:
    offset = len(shape) - len(tensor.shape)
    picked = [
        index if int(size) == extent else 0
        for size, extent, index in zip(tensor.shape, shape[offset:], indices[offset:], strict=True)
    ]
    return tensor(*picked)


def _scalar_constant(emitter: Emitter, value: ir.Value) -> tirx.Expr | None:
    """A constant of one element as an immediate of the kernel."""
    constant = emitter.constant(value)
    if constant is None or constant.size != 1:
        return None
    return tirx.const(constant.reshape(()).item(), constant.dtype.name)


def _plain_operand(emitter: Emitter, value: ir.Value) -> relax.Expr:
    scalar = _scalar_constant(emitter, value)
    return emitter.plain(value) if scalar is None else scalar


_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
_OF_QUANTIZATION = {ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT8, ir.DataType.UINT8}


def _keeps_blocks(emitter: Emitter, operands: Sequence[ir.Value], out: ir.Value, lanes: int) -> bool:
    """Whether the result has the operands' blocks: among equal types, when quantized, or if its type has such."""
    types = {value.dtype for value in (*operands, out)}
    if len(types) == 1 or types <= _OF_QUANTIZATION:
        return True
    return types <= _FLOATS and lanes == emitter.profile.channel_block(dtype_name(out))


def _block_lanes(emitter: Emitter, operands: Sequence[ir.Value], out_shape: list[int], safe: bool) -> int | None:
    """Channels per block, if a blocked operand has the result's full size and all the others can be had to match it.

    Where such operands differ the larger blocks win: those are of integers, or were made of some in registers.
    """
    if len(out_shape) not in (3, 4):
        return None
    lanes: list[int] = []
    for value in operands:
        constant = emitter.constant(value)
        shape = static_shape(value) if constant is None else list(constant.shape)
        aligned = [1] * (len(out_shape) - len(shape)) + shape
        if aligned[1] not in (1, out_shape[1]) or len(aligned) > len(out_shape):
            return None
        if emitter.is_blocked(value) and shape == out_shape:
            blocked = emitter.blocked(value)
            if blocked.is_padded and not safe:
                return None
            lanes.append(shape_of(blocked.var)[4])
    return max(lanes, default=None)


def _blocked_operand(emitter: Emitter, value: ir.Value, out_shape: list[int], fill: float, lanes: int) -> relax.Expr:
    scalar = _scalar_constant(emitter, value)
    if scalar is not None:
        return scalar
    constant = emitter.constant(value)
    shape = static_shape(value) if constant is None else list(constant.shape)
    aligned = layouts.image_shape([1] * (len(out_shape) - len(shape)) + shape)
    if aligned[1] == 1 and out_shape[1] != 1:  # the same for all channels: only the lane axis is new
        return emitter.reshape(emitter.plain(value), [*aligned, 1])
    if constant is not None:
        return emitter.const(layouts.block_array(constant.reshape(aligned), lanes, fill))
    if len(shape) == len(out_shape):
        return emitter.blocked(value, lanes).var
    return emitter.te(layouts.block, emitter.reshape(emitter.plain(value), aligned), lanes)


# -- functions of one tensor -------------------------------------------------------------------------------------


def _is_float(x: tirx.Expr) -> bool:
    return str(x.ty.dtype).startswith(("float", "bfloat"))


def _sign(x: tirx.Expr) -> tirx.Expr:
    zero, one = tirx.const(0, x.ty.dtype), tirx.const(1, x.ty.dtype)
    return tirx.Select(x > zero, one, tirx.Select(x < zero, zero - one, zero))


def _reciprocal(x: tirx.Expr) -> tirx.Expr:
    return tirx.const(1, x.ty.dtype) / x


# Kernel names are C symbols: "map_" keeps them apart from libm's.
_SAFE: dict[str, Scalar] = {
    "Abs": tirx.abs,
    "Neg": lambda x: tirx.const(0, x.ty.dtype) - x if not _is_float(x) else x * tirx.const(-1.0, x.ty.dtype),
    "Floor": tirx.floor,
    "Ceil": tirx.ceil,
    "Round": tirx.nearbyint,  # half to even, as ONNX has it
    "Sign": _sign,
    "Sin": tirx.sin,
    "Cos": tirx.cos,
    "Erf": scalars.erf,
    "Not": tirx.Not,
}
_UNSAFE: dict[str, Scalar] = {
    "Sqrt": tirx.sqrt,
    "Reciprocal": _reciprocal,
    "Exp": scalars.exp,
    "Log": tirx.log,
}


@lowers(*_SAFE)
def safe_map(emitter: Emitter, node: ir.Node) -> None:
    emit_map(emitter, node, _SAFE[node.op_type], name=f"map_{node.op_type.lower()}")


@lowers(*_UNSAFE)
def unsafe_map(emitter: Emitter, node: ir.Node) -> None:
    emit_map(emitter, node, _UNSAFE[node.op_type], safe=False, name=f"map_{node.op_type.lower()}")


@lowers("IsNaN")
def is_nan(emitter: Emitter, node: ir.Node) -> None:
    emit_map(emitter, node, lambda x: tirx.isnan(x.astype("float32")), name="map_isnan")


@lowers("IsInf")
def is_inf(emitter: Emitter, node: ir.Node) -> None:
    signs = [sign for sign, name in ((1, "detect_positive"), (-1, "detect_negative")) if integer(node, name, 1)]

    def is_one_of(x: tirx.Expr) -> tirx.Expr:
        return reduce(tirx.any, [x == tirx.const(sign * math.inf, x.ty.dtype) for sign in signs], tirx.const(0, "bool"))

    emit_map(emitter, node, is_one_of, name="map_isinf")


@lowers("Identity", "Dropout")
def identity(emitter: Emitter, node: ir.Node) -> None:
    """Dropout does nothing at inference; its mask is all ones."""
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        emitter.set_constant(node.outputs[1], np.ones(static_shape(node.inputs[0]), np.bool_))
    emitter.alias(node.outputs[0], node.inputs[0])


@lowers("Cast", "CastLike")
def cast(emitter: Emitter, node: ir.Node) -> None:
    """Conversion to another type: towards zero for integers, unequal to zero for bool."""
    out = node.outputs[0]
    if node.op_type == "Cast":
        dtype = ir.DataType(integer(node, "to", 1)).numpy().name
    else:
        dtype = dtype_name(node.inputs[1])
    constant = emitter.constant(node.inputs[0])
    if constant is not None:
        emitter.set_constant(out, constant.astype(dtype))
    elif dtype_name(node.inputs[0]) == dtype:
        emitter.alias(out, node.inputs[0])
    elif dtype == "bool":
        emit_map(emitter, node, lambda x: x != tirx.const(0, x.ty.dtype))
    else:
        emit_map(emitter, node, lambda x: x.astype(dtype))


# -- functions of several tensors --------------------------------------------------------------------------------


def _divide(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return a / b if _is_float(a) else tirx.truncdiv(a, b)


def _power(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """a**b; small constant exponents become products, which is faster and right for negative a."""
    if isinstance(b, tirx.FloatImm | tirx.IntImm) and float(b.value) in _POWERS:
        return _POWERS[float(b.value)](a)
    if not _is_float(a):
        return tirx.pow(a.astype("float32"), b.astype("float32")).astype(str(a.ty.dtype))
    return tirx.pow(a, b.astype(str(a.ty.dtype)))


_POWERS: dict[float, Callable[[tirx.Expr], tirx.Expr]] = {
    0.5: tirx.sqrt,
    1.0: lambda a: a,
    2.0: lambda a: a * a,
    3.0: lambda a: a * a * a,
    4.0: lambda a: (a * a) * (a * a),
    -1.0: _reciprocal,
    -0.5: lambda a: _reciprocal(tirx.sqrt(a)),
}


def _equal(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    if str(a.ty.dtype) == "bool":  # TVM 0.27 compares booleans as floats, which LLVM rejects
        a, b = a.astype("int8"), b.astype("int8")
    return a == b


_BINARY: dict[str, Scalar] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Max": tirx.max,
    "Min": tirx.min,
    "Sum": lambda a, b: a + b,
    "Equal": _equal,
    "Greater": lambda a, b: a > b,
    "Less": lambda a, b: a < b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "LessOrEqual": lambda a, b: a <= b,
    "And": tirx.all,
    "Or": tirx.any,
    "Xor": lambda a, b: tirx.any(tirx.all(a, tirx.Not(b)), tirx.all(tirx.Not(a), b)),
}


@lowers(*_BINARY)
def binary(emitter: Emitter, node: ir.Node) -> None:
    """Element-wise with broadcasting; more than two operands (Max, Min, Sum) are combined from the left."""
    emit_elementwise(emitter, node, node.inputs, lambda *xs: reduce(_BINARY[node.op_type], xs))


@lowers("Mean")
def mean(emitter: Emitter, node: ir.Node) -> None:
    count = len(node.inputs)
    emit_elementwise(
        emitter, node, node.inputs, lambda *xs: reduce(lambda a, b: a + b, xs) * tirx.const(1 / count, xs[0].ty.dtype)
    )


@lowers("Div")
def div(emitter: Emitter, node: ir.Node) -> None:
    """A product with the reciprocal where that is a constant: one rounding more in a tenth of the time.

    Padding lanes of a constant divisor hold 1; those of a computed one may hold 0.
    """
    dividend, divisor = node.inputs
    constant = emitter.constant(divisor)
    with np.errstate(all="ignore"):
        reciprocal = None if constant is None or constant.dtype.kind != "f" else (1 / constant).astype(constant.dtype)
    if reciprocal is None or not (np.isfinite(reciprocal) & (abs(reciprocal) >= np.finfo(reciprocal.dtype).tiny)).all():
        emit_elementwise(emitter, node, node.inputs, _divide, safe=constant is not None, fill=1.0)
        return
    factor = ir.Value(
        name=f"{node.outputs[0].name}/reciprocal", type=ir.TensorType(ir.DataType.from_numpy(reciprocal.dtype))
    )
    emitter.set_constant(factor, reciprocal)
    emit_elementwise(emitter, node, [dividend, factor], _BINARY["Mul"], fill=1.0)


@lowers("Pow")
def pow(emitter: Emitter, node: ir.Node) -> None:
    emit_elementwise(emitter, node, node.inputs, _power, safe=False, name="map_pow")


@lowers("Mod")
def mod(emitter: Emitter, node: ir.Node) -> None:
    """The sign of the divisor for integers, that of the dividend with fmod=1 (the only choice for floats)."""
    if dtype_name(node.inputs[0]).startswith("float"):
        function: Scalar = _float_mod
    else:
        function = tirx.truncmod if integer(node, "fmod", 0) else tirx.floormod
    emit_elementwise(emitter, node, node.inputs, function, safe=False, name="map_mod")


def _float_mod(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The function of libm by name: TVM 0.27 cannot lower its own fmod to LLVM."""
    result = tirx.call_pure_extern("float32", "fmodf", a.astype("float32"), b.astype("float32"))
    return result.astype(str(a.ty.dtype))


@lowers("Where")
def where(emitter: Emitter, node: ir.Node) -> None:
    emit_elementwise(emitter, node, node.inputs, lambda c, a, b: tirx.Select(c, a, b))
