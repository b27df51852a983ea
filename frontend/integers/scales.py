"""Fold the scale of a quantizer into what it quantizes, so that it only rounds, shifts and saturates.

    Q(Relu(DQ(sum, m)), s, z)  ->  Q(Relu(DQ(sum, float32(m / s))), 1, z)

The float32 product that turns the sum into real numbers then turns it into steps of the output at once, which is
the one product of the integer contract. Homogeneous operators pass the division on, to the scales of DequantizeLinear
and to constants. The same conversion makes clamps needless that saturation makes anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.products import is_normal, without_subnormals
from edgec.frontend.integers.reading import Scaled, read_dequantize, read_quantize
from edgec.frontend.values import Array, array_of, is_default_op, only_consumer

__all__ = ["drop_needless_clamp", "fold_scale"]

# f(x / s) = f(x) / s for s > 0, with all inputs divided ...
_OF_ALL = frozenset({"Add", "Clip", "Concat", "Max", "Min", "Sub", "Sum"})
# ... or only the first.
_OF_FIRST = frozenset(
    {
        "Abs", "AveragePool", "DepthToSpace", "Div", "Expand", "Flatten", "Gather", "GlobalAveragePool",
        "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Neg", "PRelu", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceSum", "Relu", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip

_Edit = Callable[[], None]


def fold_scale(editor: Editor, node: ir.Node) -> bool:
    """Divides what a QuantizeLinear reads by its scale, and sets the scale to 1.

    Every value on the way to the DequantizeLinear nodes and constants must have no other reader. A Mul is divided on
    one side. HardSwish is not homogeneous; of a dequantized value it is written as x · HardSigmoid(x).
    """
    quantize = read_quantize(node)
    if quantize is None or not quantize.is_per_tensor or quantize.scale == 1:
        return False
    edits = _plan(editor, node, 0, quantize.scale)
    if edits is None:
        return False
    name = node.outputs[0].name
    for edit in edits:
        edit()
    editor.redirect(node, 1, editor.constant(np.ones((), np.float32), f"{name}_unit"))
    return True


def _plan(editor: Editor, node: ir.Node, index: int, divisor: NDArray[np.float32]) -> list[_Edit] | None:
    """What divides an input of ``node``, or None where that cannot be done."""
    value = node.inputs[index]
    if value is None:
        return []
    constant, quantized = array_of(value), read_dequantize(value)
    if constant is not None:
        return _plan_constant(editor, node, index, constant, divisor)
    if quantized is not None:
        divided = without_subnormals(_divided(quantized.scale, divisor))
        if not is_normal(divided):
            return None
        return [lambda: _read_scaled(editor, node, index, quantized, divided)]
    producer = value.producer()
    if producer is None or producer.domain or only_consumer(value) is None or value.dtype != ir.DataType.FLOAT:
        return None
    edits = _plan_operator(editor, producer, divisor)
    return None if edits is None else [*edits, lambda: editor.rename(value, f"{value.name}_steps")]


def _plan_operator(editor: Editor, producer: ir.Node, divisor: NDArray[np.float32]) -> list[_Edit] | None:
    if len([output for output in producer.outputs if output.uses()]) != 1:
        return None
    if producer.op_type in _OF_ALL:
        plans = [_plan(editor, producer, index, divisor) for index in range(len(producer.inputs))]
        return None if any(plan is None for plan in plans) else [edit for plan in plans for edit in plan or ()]
    if producer.op_type in _OF_FIRST:
        return _plan(editor, producer, 0, divisor)
    if producer.op_type == "Mul":
        sides = sorted((0, 1), key=lambda index: _distance(producer.inputs[index]))
        plans = [_plan(editor, producer, index, divisor) for index in sides]
        return next((plan for plan in plans if plan is not None), None)
    if producer.op_type == "Resize" and not _is_extrapolating(producer):
        return _plan(editor, producer, 0, divisor)
    if producer.op_type == "HardSwish" and read_dequantize(producer.inputs[0]) is not None:
        plan = _plan(editor, producer, 0, divisor)
        return None if plan is None else [lambda: _write_out(editor, producer, divisor)]
    return None


def _plan_constant(
    editor: Editor, node: ir.Node, index: int, constant: Array, divisor: NDArray[np.float32]
) -> list[_Edit] | None:
    if constant.dtype != np.float32:
        return None
    divided = _divided(constant.astype(np.float32), divisor)
    # A bound may become infinite: then it binds nothing.
    if not (is_default_op(node, "Clip") or bool(np.isfinite(divided).all())):
        return None
    value = node.inputs[index]
    assert value is not None
    return [lambda: editor.redirect(node, index, editor.constant(divided, f"{value.name}_steps"))]


def _distance(value: ir.Value | None) -> int:
    if array_of(value) is not None:
        return 0
    return 1 if read_dequantize(value) is not None else 2


def _is_extrapolating(node: ir.Node) -> bool:
    mode = node.attributes.get("coordinate_transformation_mode")
    return mode is not None and mode.as_string() == "tf_crop_and_resize"


def _read_scaled(editor: Editor, node: ir.Node, index: int, quantized: Scaled, scale: NDArray[np.float32]) -> None:
    """Let ``node`` read the integers with another scale; those who share the DequantizeLinear keep the old one."""
    value = quantized.node.outputs[0]
    inputs = list(quantized.node.inputs)
    inputs[1] = editor.constant(scale, f"{value.name}_scale")
    divided = editor.emit(
        quantized.node,
        "DequantizeLinear",
        inputs,
        quantized.node.attributes,
        name=f"{value.name}_steps",
        dtype=ir.DataType.FLOAT,
        shape=value.shape,
    )
    editor.redirect(node, index, divided)


def _write_out(editor: Editor, node: ir.Node, divisor: NDArray[np.float32]) -> None:
    """HardSwish(x) / s as (x / s) · HardSigmoid(x)."""
    output = node.outputs[0]
    slope = editor.emit(
        node,
        "HardSigmoid",
        [node.inputs[0]],
        {"alpha": 1 / 6, "beta": 0.5},
        name=f"{output.name}_gate",
        dtype=output.dtype,
        shape=output.shape,
    )
    product = editor.insert(
        node, "Mul", [node.inputs[0], slope], name=f"{output.name}_product", dtype=output.dtype, shapes=[output.shape]
    )
    quantized = read_dequantize(node.inputs[0])
    assert quantized is not None
    _read_scaled(editor, product, 0, quantized, _divided(quantized.scale, divisor))
    editor.replace(output, product.outputs[0])


def _divided(array: NDArray[np.float32], divisor: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):  # the caller refuses what does not fit
        return np.asarray(array / divisor, np.float32)


def drop_needless_clamp(editor: Editor, node: ir.Node) -> bool:
    """Removes a Relu or Clip before a QuantizeLinear, or one bound of it, where saturation gives the same integers."""
    value = node.inputs[0] if is_default_op(node, "QuantizeLinear") else None
    clamp = None if value is None else value.producer()
    if value is None or clamp is None or not is_default_op(clamp, "Relu", "Clip") or only_consumer(value) is None:
        return False
    quantize = read_quantize(node)
    if quantize is None or not quantize.is_per_tensor:
        return False
    source = clamp.inputs[0]
    assert source is not None
    if is_default_op(clamp, "Relu"):
        if not _is_beyond(np.zeros((), np.float32), quantize, low=True):
            return False
        editor.redirect(node, 0, source)
        return True
    needless = [
        index
        for index, bound in enumerate(clamp.inputs)
        if index and bound is not None and _is_beyond(array_of(bound), quantize, low=index == 1)
    ]
    for index in needless:
        editor.redirect(clamp, index, None)
    if not any(clamp.inputs[1:]):
        editor.redirect(node, 0, source)
        return True
    return bool(needless)


def _is_beyond(bound: Array | None, quantize: Scaled, *, low: bool) -> bool:
    """Whether a constant bound quantizes to the end of the range of the integers, or beyond it."""
    if bound is None or bound.size != 1 or bound.dtype != np.float32 or np.isnan(bound).any():
        return False
    with np.errstate(over="ignore"):
        step = np.rint(np.asarray(bound.reshape(()), np.float32) / quantize.scale) + quantize.zero_point.astype(
            np.float32
        )
    return bool(step <= quantize.limits[0] if low else step >= quantize.limits[1])
