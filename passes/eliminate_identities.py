"""Remove nodes whose result is one of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import attribute_ints, bypass

__all__ = ["EliminateIdentities"]


@dataclass(frozen=True)
class EliminateIdentities(InPlacePass):
    """Removes nodes that compute nothing; the table at the end of this file has one rule per operator.

    A node stays where it gives an input, a constant or another output of the model its name as an output.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            rule = _RULES.get(node.op_type) if not node.domain else None
            source = rule(node) if rule is not None and node.inputs else None
            if source is None or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
                continue
            if bypass(node, source):
                tally.count(node.op_type)
            elif node.op_type != "Identity":
                tally.refuse(node, f"it names the output '{node.outputs[0].name}'")
        return tally.result(model)


def _always(node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _if_single(node: ir.Node) -> ir.Value | None:
    """Concat, Sum, Max ... of one input; Split into one output."""
    return node.inputs[0] if len(node.inputs) == 1 else None


def _if_same_shape(node: ir.Node) -> ir.Value | None:
    """For operators that move no element: the same shape in and out."""
    shape = static_shape(node.inputs[0])
    return node.inputs[0] if shape is not None and shape == static_shape(node.outputs[0]) else None


def _dropout(node: ir.Node) -> ir.Value | None:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        training = array_of(node.inputs[2])
        if training is None or bool(training.any()):
            return None
    return node.inputs[0]


def _cast(node: ir.Node) -> ir.Value | None:
    source = node.inputs[0]
    return source if source is not None and source.dtype == ir.DataType(node.attributes["to"].as_int()) else None


def _cast_like(node: ir.Node) -> ir.Value | None:
    source, like = node.inputs[:2]
    is_same = source is not None and like is not None and source.dtype is not None and source.dtype == like.dtype
    return source if is_same else None


def _transpose(node: ir.Node) -> ir.Value | None:
    source = node.inputs[0]
    rank = -1 if source is None or source.shape is None else len(source.shape)
    perm = attribute_ints(node, "perm", tuple(reversed(range(max(rank, 0)))))
    return source if perm == tuple(range(len(perm))) and rank >= 0 else None


def _neutral(number: float, *, either: bool) -> Callable[[ir.Node], ir.Value | None]:
    """For operators with a neutral element: Add 0, Mul 1 ... where broadcasting does not widen the result."""

    def rule(node: ir.Node) -> ir.Value | None:
        for index in (0, 1) if either else (0,):
            source, constant = node.inputs[index], array_of(node.inputs[1 - index])
            if constant is None or not bool((constant == number).all()):
                continue
            shape = static_shape(source)
            if source is not None and shape is not None and shape == static_shape(node.outputs[0]):
                return source
        return None

    return rule


def _slice(node: ir.Node) -> ir.Value | None:
    steps = array_of(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(1)
    return _if_same_shape(node) if steps is not None and bool(np.greater(steps.astype(np.float64), 0).all()) else None


def _pad(node: ir.Node) -> ir.Value | None:
    amounts = array_of(node.inputs[1])
    return node.inputs[0] if amounts is not None and not amounts.any() else None


def _clip(node: ir.Node) -> ir.Value | None:
    for value, free in zip(node.inputs[1:], (-np.inf, np.inf), strict=False):
        bound = array_of(value)
        if value is not None and (bound is None or not bool((bound == free).all())):
            return None
    return node.inputs[0]


def _resize(node: ir.Node) -> ir.Value | None:
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_crop_and_resize":
        return None
    scales = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and scales.size and not bool((scales == 1).all()):
        return None
    return _if_same_shape(node)


def _pool(node: ir.Node) -> ir.Value | None:
    """A window of one element with stride one."""
    ones = (*attribute_ints(node, "kernel_shape"), *attribute_ints(node, "strides"))
    is_plain = all(size == 1 for size in ones) and not any(attribute_ints(node, "pads"))
    return _if_same_shape(node) if is_plain else None


def _reduce(node: ir.Node) -> ir.Value | None:
    noop = node.attributes.get("noop_with_empty_axes")
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else np.zeros(0)
    is_noop = noop is not None and bool(noop.as_int()) and axes is not None and axes.size == 0
    return node.inputs[0] if is_noop else None


_RULES: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Reshape": _if_same_shape,
    "Flatten": _if_same_shape,
    "Squeeze": _if_same_shape,
    "Unsqueeze": _if_same_shape,
    "Expand": _if_same_shape,
    "Tile": _if_same_shape,
    "DepthToSpace": _if_same_shape,
    "SpaceToDepth": _if_same_shape,
    "GlobalAveragePool": _if_same_shape,
    "GlobalMaxPool": _if_same_shape,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Add": _neutral(0, either=True),
    "Sub": _neutral(0, either=False),
    "Mul": _neutral(1, either=True),
    "Div": _neutral(1, either=False),
    "Pow": _neutral(1, either=False),
    "Slice": _slice,
    "Pad": _pad,
    "Clip": _clip,
    "Resize": _resize,
    "Concat": _if_single,
    "Sum": _if_single,
    "Mean": _if_single,
    "Max": _if_single,
    "Min": _if_single,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
}
