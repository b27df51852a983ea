"""Merge consecutive operators that limit values to a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant, replace_node

__all__ = ["MergeClamps"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class _Clamp(NamedTuple):
    """A node seen as min(max(x, low), high)."""

    source: ir.Value
    low: float
    high: float


@dataclass(frozen=True)
class MergeClamps(InPlacePass):
    """Merges Relu, Clip, and Min and Max with a scalar; a Relu before Min 6 becomes Clip to 0..6.

    1. Two in a row, the first read by nothing else: one Clip, or a Relu where that is what they are.
    2. A Clip, or a Max, that does what a Relu does: a Relu. A Min or Max with a scalar otherwise: a Clip.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            outer = _clamp_of(node)
            if outer is None:
                continue
            inner_node = outer.source.producer()
            inner = None if inner_node is None else _clamp_of(inner_node)
            if inner is not None and inner_node is not None:
                if len(outer.source.uses()) != 1 or outer.source.is_graph_output():
                    tally.refuse(node, f"the result of {inner_node.op_type} '{inner_node.name}' is used elsewhere too")
                elif inner.low > inner.high or outer.low > outer.high:
                    tally.refuse(node, "a lower bound lies above the upper one")
                else:
                    low, high = np.clip((inner.low, inner.high), outer.low, outer.high)
                    _write(node, _Clamp(inner.source, float(low), float(high)))
                    assert isinstance(inner_node.graph, ir.Graph)
                    inner_node.graph.remove(inner_node, safe=True)
                    tally.count(f"{node.op_type} of {inner_node.op_type}")
            elif _wants_plainer(node, outer):
                _write(node, outer)
                tally.count(f"{node.op_type} made plainer")
        return tally.result(model)


def _clamp_of(node: ir.Node) -> _Clamp | None:
    source = node.inputs[0] if node.inputs else None
    if source is None or source.dtype not in _FLOATS:
        return None
    if is_default_op(node, "Relu"):
        return _Clamp(source, 0.0, np.inf)
    if is_default_op(node, "Clip"):
        bounds = [-np.inf, np.inf]
        for index, value in enumerate(node.inputs[1:]):
            bound = array_of(value)
            if value is not None and bound is None:
                return None
            if bound is not None:
                bounds[index] = float(bound.reshape(-1)[0])
        return _Clamp(source, *bounds)
    if is_default_op(node, "Min", "Max") and len(node.inputs) == 2:
        for index in (0, 1):
            value, bound = node.inputs[index], array_of(node.inputs[1 - index])
            if value is None or bound is None or bound.size != 1 or np.isnan(bound).any():
                continue
            if static_shape(value) is None or static_shape(value) != static_shape(node.outputs[0]):
                continue
            number = float(bound.reshape(-1)[0])
            return _Clamp(value, number, np.inf) if node.op_type == "Max" else _Clamp(value, -np.inf, number)
    return None


def _wants_plainer(node: ir.Node, clamp: _Clamp) -> bool:
    is_relu = clamp.low == 0 and clamp.high == np.inf
    return node.op_type != "Relu" and (is_relu or node.op_type in ("Min", "Max"))


def _write(node: ir.Node, clamp: _Clamp) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph) and clamp.source.dtype is not None
    if clamp.low == 0 and clamp.high == np.inf:
        replace_node(node, ir.node("Relu", [clamp.source], name=f"{node.name}_relu"))
        return
    dtype = clamp.source.dtype.numpy()
    inputs: list[ir.Value | None] = [clamp.source]
    for bound, suffix in ((clamp.low, "min"), (clamp.high, "max")):
        is_free = np.isinf(bound)
        inputs.append(None if is_free else new_constant(graph, np.array(bound, dtype), f"{node.name}_{suffix}"))
    while inputs[-1] is None:
        inputs.pop()
    replace_node(node, ir.node("Clip", inputs, name=f"{node.name}_clip"))
