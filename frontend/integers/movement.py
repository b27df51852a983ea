"""Move bytes instead of floats: DequantizeLinear goes behind what only moves elements, QuantizeLinear before it.

DequantizeLinear is pushed down first, as far as it goes; QuantizeLinear goes up only where the value that is moved
is no dequantized one. So no operator is passed twice, and the rules come to an end.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.engine import to_tensor
from edgec.frontend.executor import run_node
from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.reading import Scaled, read_dequantize, read_quantize
from edgec.frontend.values import array_of, is_default_op, only_consumer, pads_with_zeros_or_elements

__all__ = ["cancel_pair", "fold_constant_integers", "push_dequantize_down", "push_quantize_up"]

# Their first input is what moves. (A maximum of integers is where the maximum of the real numbers is.)
_MOVEMENTS = (
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


def cancel_pair(editor: Editor, node: ir.Node) -> bool:
    """Q(DQ(x)) of one scale, zero point and type is x."""
    dequantize = read_dequantize(node.inputs[0]) if is_default_op(node, "QuantizeLinear") else None
    quantize = None if dequantize is None else read_quantize(node)
    if quantize is None or dequantize is None or not quantize.is_like(dequantize):
        return False
    output, source = node.outputs[0], dequantize.source
    if not editor.can_replace(output, source):
        source = editor.emit(
            node, "Identity", [source], name=f"{output.name}_integers", dtype=dequantize.dtype, shape=output.shape
        )
    editor.replace(output, source)
    return True


def fold_constant_integers(editor: Editor, node: ir.Node) -> bool:
    """Computes a QuantizeLinear of a constant, and what moves constant integers."""
    if not is_default_op(node, "Concat", "QuantizeLinear", *_MOVEMENTS) or array_of(node.inputs[0]) is None:
        return False
    output = node.outputs[0]
    if len(node.outputs) != 1 or output.dtype not in _BYTES or output.is_graph_output():
        return False
    arrays = [array_of(value) for value in node.inputs]
    if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
        return False
    (result,) = run_node(node, [None if array is None else to_tensor(array) for array in arrays])
    name = output.name or node.op_type
    editor.replace(output, editor.constant(result.data, f"{name}_integers"))
    return True


def push_dequantize_down(editor: Editor, node: ir.Node) -> bool:
    """op(DQ(x)) is DQ(op(x)) for an operator that moves elements, and for Concat where all inputs are scaled alike."""
    if is_default_op(node, "Concat"):
        every = [read_dequantize(value) for value in node.inputs]
        first = every[0]
        if first is None or not all(_is_activation(one) and one is not None and one.is_like(first) for one in every):
            return False
        inputs: list[ir.Value | None] = [one.source for one in every if one is not None]
        return _replace_by_integers(editor, node, inputs, first, None)
    scaled = read_dequantize(node.inputs[0]) if is_default_op(node, *_MOVEMENTS) else None
    if scaled is None or not scaled.is_byte or not _moves_only(node):
        return False
    if is_default_op(node, "Identity", "Dropout"):
        if not editor.can_replace(node.outputs[0], scaled.node.outputs[0]):
            return False
        editor.replace(node.outputs[0], scaled.node.outputs[0])
        return True
    axis = None
    if not scaled.is_per_tensor:
        # Weights only: activations have one scale.
        axis = _axis_after(node, scaled)
        if axis is None:
            return False
    inputs = [scaled.source, *node.inputs[1:]]
    if is_default_op(node, "Pad"):
        inputs = _padding(editor, node, inputs, scaled)
    return _replace_by_integers(editor, node, inputs, scaled, axis)


def _is_activation(scaled: Scaled | None) -> bool:
    return scaled is not None and scaled.is_activation


def _axis_after(node: ir.Node, scaled: Scaled) -> int | None:
    """Where a Transpose puts the axis of the scales."""
    permutation = node.attributes.get("perm")
    if not is_default_op(node, "Transpose") or permutation is None:
        return None
    axes = list(permutation.as_ints())
    return axes.index(scaled.axis % len(axes))


def _replace_by_integers(
    editor: Editor, node: ir.Node, inputs: list[ir.Value | None], scaled: Scaled, axis: int | None
) -> bool:
    name = node.outputs[0].name or node.op_type
    moved = editor.insert(
        node,
        node.op_type,
        inputs,
        node.attributes,
        name=f"{name}_integers",
        dtype=scaled.dtype,
        shapes=[output.shape for output in node.outputs],
    )
    attributes = dict(scaled.node.attributes) if axis is None else {"axis": axis}
    for old, new in zip(list(node.outputs), moved.outputs, strict=True):
        real = editor.emit(
            node,
            "DequantizeLinear",
            [new, *scaled.node.inputs[1:]],
            attributes,
            name=f"{name}_real",
            dtype=ir.DataType.FLOAT,
            shape=old.shape,
        )
        editor.replace(old, real)
    return True


def push_quantize_up(editor: Editor, node: ir.Node) -> bool:
    """Q(op(x)) is op(Q(x)) for an operator that moves elements and has no other reader, and for Concat."""
    changed = False
    while (raised := _raise_once(editor, node)) is not None:
        changed, node = True, raised
    return changed


def _raise_once(editor: Editor, node: ir.Node) -> ir.Node | None:
    """Put a QuantizeLinear before the operator that feeds it; returns the (last) one that stands there now."""
    moved_value = node.inputs[0] if is_default_op(node, "QuantizeLinear") else None
    moving = None if moved_value is None else moved_value.producer()
    if moved_value is None or moving is None or only_consumer(moved_value) is None:
        return None
    is_concat = is_default_op(moving, "Concat")
    if not is_concat and (
        not is_default_op(moving, *_MOVEMENTS) or is_default_op(moving, "Split") or not _moves_only(moving)
    ):
        return None
    scaled = read_quantize(node)
    if scaled is None or not scaled.is_activation:
        return None
    name = node.outputs[0].name or node.op_type
    inputs = list(moving.inputs)
    last = None
    for index in range(len(inputs)) if is_concat else (0,):
        source = inputs[index]
        assert source is not None
        last = editor.insert(
            moving,
            "QuantizeLinear",
            [source, *node.inputs[1:]],
            node.attributes,
            name=f"{source.name}_integers",
            dtype=scaled.dtype,
            shapes=[source.shape],
        )
        inputs[index] = last.outputs[0]
    if is_default_op(moving, "Dropout", "Identity"):
        assert last is not None
        editor.replace(node.outputs[0], last.outputs[0])
        return last
    if is_default_op(moving, "Pad"):
        inputs = _padding(editor, moving, inputs, scaled)
    moved = editor.emit(
        moving, moving.op_type, inputs, moving.attributes, name=name, dtype=scaled.dtype, shape=scaled.source.shape
    )
    editor.replace(node.outputs[0], moved)
    return last


def _moves_only(node: ir.Node) -> bool:
    """Whether ``node`` takes elements of its first input as they are, or zeros."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]) and not is_default_op(
        node, "Split"
    ):
        return False
    if len(node.outputs) > 1 and not is_default_op(node, "Split", "Dropout"):
        return False
    if is_default_op(node, "Resize"):
        mode, coordinates = (node.attributes.get(key) for key in ("mode", "coordinate_transformation_mode"))
        is_nearest = mode is None or mode.as_string() == "nearest"
        return is_nearest and (coordinates is None or coordinates.as_string() != "tf_crop_and_resize")
    if is_default_op(node, "Dropout"):
        training = node.inputs[2] if len(node.inputs) > 2 else None
        array = array_of(training)
        return training is None or (array is not None and not array.any())
    if is_default_op(node, "Pad"):
        return pads_with_zeros_or_elements(node)
    return True


def _padding(editor: Editor, node: ir.Node, inputs: list[ir.Value | None], scaled: Scaled) -> list[ir.Value | None]:
    """The inputs of a Pad of integers: zero is the zero point."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return inputs
    zero = editor.constant(np.asarray(scaled.zero_point), f"{node.outputs[0].name}_zero")
    return [*inputs[:2], zero, *inputs[3:]]
