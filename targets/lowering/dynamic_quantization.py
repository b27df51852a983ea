"""DynamicQuantizeLinear, and what is done with scales and zero points that are known at run time only.

They are a few numbers, which kernels of their own compute; what reads them may join the kernel of a large tensor.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.targets.intrinsics import saturated
from edgec.targets.lowering.elementwise import combine
from edgec.targets.lowering.emitter import Emitter, lowers, shape_of, static_shape
from edgec.targets.lowering.reduction import emit_reduction
from edgec.targets.lowering.rows import MAXIMUM, MINIMUM
from edgec.targets.lowering.scalars import Scalar

__all__ = ["apply_along_columns"]

STEPS = 255
"""Between the least and the largest uint8."""


def apply_along_columns(
    emitter: Emitter, function: Scalar, tensor: relax.Expr, operands: list[relax.Expr], name: str
) -> relax.Expr:
    """``function`` of each element of a tensor and of an operand's number for all of them, or for the element's column.

    Args:
        emitter: The emission.
        function: From an element and a number of each operand to the result.
        tensor: At least one axis; columns are along the last.
        operands: Each of one number, or of one per column.
        name: The kernel's name.
    """
    # As matrices they are reshapes of something, and the kernel that makes that does not join this one.
    rows = [emitter.reshape(operand, [1, math.prod(shape_of(operand))]) for operand in operands]

    def kernel(x: te.Tensor, *numbers: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            return function(x(*i), *(row[0, i[-1] if int(row.shape[1]) > 1 else 0] for row in numbers))

        return te.compute(x.shape, element, name=name)

    return emitter.te(kernel, tensor, *rows, name=name)


@lowers("DynamicQuantizeLinear")
def dynamic_quantize_linear(emitter: Emitter, node: ir.Node) -> None:
    """uint8 over the range of the values and zero, operation by operation as the engine has it."""
    x = emitter.plain(node.inputs[0])
    shape = shape_of(x)
    flat = emitter.reshape(x, [math.prod(shape)])
    zero = tirx.const(0, "float32")
    lowest = emit_reduction(emitter, flat, [0], MINIMUM, lambda v: tirx.min(v, zero), "lowest")
    highest = emit_reduction(emitter, flat, [0], MAXIMUM, lambda v: tirx.max(v, zero), "highest")
    scale = combine(
        emitter, lambda high, low: (high - low) / tirx.const(STEPS, "float32"), [highest, lowest], "dynamic_scale"
    )

    def divided(value: tirx.Expr, by: tirx.Expr) -> tirx.Expr:
        """A scale of 0 has steps of 0 only."""
        return value / tirx.Select(by == zero, tirx.const(np.inf, "float32"), by)

    def zero_point(low: tirx.Expr, by: tirx.Expr) -> tirx.Expr:
        return saturated(divided(zero - low, by), tirx.const(0, "int32"), "uint8")

    middle = combine(emitter, zero_point, [lowest, scale], "dynamic_zero_point")

    def steps(value: tirx.Expr, by: tirx.Expr, offset: tirx.Expr) -> tirx.Expr:
        return saturated(divided(value, by), offset.astype("int32"), "uint8")

    data = apply_along_columns(emitter, steps, emitter.reshape(x, shape or [1]), [scale, middle], "dynamic_quantize")
    for value, expr in zip(node.outputs, (data, scale, middle), strict=False):
        if value.name:
            emitter.set_plain(value, emitter.reshape(expr, static_shape(value)))
