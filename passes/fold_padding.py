"""Fold an explicit Pad into the padding that the operator after it has anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import attribute_ints

__all__ = ["FoldPadding"]


class _Padding(NamedTuple):
    """Spatial padding: zeros (or another value) before and after each spatial axis."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    value: float


@dataclass(frozen=True)
class FoldPadding(InPlacePass):
    """Folds Pad nodes of constant mode that pad spatial axes only.

    1. Zeros before a Conv: into its pads.
    2. Zeros before an AveragePool: into its pads if padding counts in the average, or if there is none yet.
    3. Before a MaxPool, which pads with -inf: such a Pad, or zeros where the values are known not to be negative.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            source = node.inputs[0] if node.inputs else None
            pad = None if source is None else source.producer()
            if pad is None or not is_default_op(pad, "Pad") or not is_default_op(node, *_RULES):
                continue
            why = _fold(pad, node)
            if why is None:
                tally.count(f"Pad into {node.op_type}")
            else:
                tally.refuse(pad, f"not folded into {node.op_type} '{node.name}': {why}")
        return tally.result(model)


def _fold(pad: ir.Node, node: ir.Node) -> str | None:
    """Fold ``pad`` into ``node``; returns why not, or None when done."""
    padding = _spatial_padding(pad)
    if padding is None:
        return "it is not constant, or pads more than the spatial axes"
    auto_pad = node.attributes.get("auto_pad")
    mode = "NOTSET" if auto_pad is None else auto_pad.as_string()
    if mode not in ("NOTSET", "VALID"):
        return f"auto_pad is {mode}"
    rank = len(padding.begins)
    old = attribute_ints(node, "pads", (0,) * (2 * rank)) if mode == "NOTSET" else (0,) * (2 * rank)
    why = _RULES[node.op_type](pad, node, padding, old)
    if why is not None:
        return why
    pads = [was + more for was, more in zip(old, (*padding.begins, *padding.ends), strict=True)]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    if node.op_type == "AveragePool":
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    node.replace_input_with(0, pad.inputs[0])
    graph = pad.graph
    assert isinstance(graph, ir.Graph)
    if not pad.outputs[0].uses() and not pad.outputs[0].is_graph_output():
        graph.remove(pad, safe=True)
    return None


def _spatial_padding(pad: ir.Node) -> _Padding | None:
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    source = pad.inputs[0]
    amounts = array_of(pad.inputs[1])
    if source is None or source.shape is None or amounts is None:
        return None
    rank = len(source.shape)
    value, axes = _optional(pad, 2, 0.0), _optional(pad, 3, np.arange(rank))
    if value is None or axes is None:
        return None
    begins, ends = [0] * rank, [0] * rank
    half = amounts.size // 2
    for position, axis in enumerate(np.asarray(axes).reshape(-1).tolist()):
        begins[axis] = int(amounts[position])
        ends[axis] = int(amounts[position + half])
    if any(begins[:2]) or any(ends[:2]) or min((*begins, *ends)) < 0:
        return None
    return _Padding(tuple(begins[2:]), tuple(ends[2:]), float(np.asarray(value).reshape(-1)[0]))


def _optional(node: ir.Node, index: int, default: object) -> object | None:
    """The constant input ``index``, ``default`` where it is omitted, None where it is computed."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return default
    return array_of(node.inputs[index])


def _into_conv(_: ir.Node, node: ir.Node, padding: _Padding, __: tuple[int, ...]) -> str | None:
    return None if padding.value == 0 else f"it pads with {padding.value:g}, {node.op_type} with 0"


def _into_average_pool(_: ir.Node, node: ir.Node, padding: _Padding, old: tuple[int, ...]) -> str | None:
    if padding.value != 0:
        return f"it pads with {padding.value:g}, {node.op_type} with 0"
    counts = node.attributes.get("count_include_pad")
    if any(old) and not (counts is not None and counts.as_int()):
        return "the average leaves the pool's own padding out, and must count this one"
    return _pool_refusal(node, padding, old)


def _into_max_pool(pad: ir.Node, node: ir.Node, padding: _Padding, old: tuple[int, ...]) -> str | None:
    is_lowest = padding.value <= float(np.finfo(np.float32).min)
    if not is_lowest and (padding.value != 0 or not _is_never_negative(pad.inputs[0])):
        return "a value that it pads with may be greater than the values beside it"
    if not is_lowest and any(old):
        return "the pool has padding of its own around it"
    return _pool_refusal(node, padding, old)


def _pool_refusal(node: ir.Node, padding: _Padding, old: tuple[int, ...]) -> str | None:
    """A window must never lie in the padding alone, and its count in the last place must not change."""
    kernel = attribute_ints(node, "kernel_shape")
    if any(dilation != 1 for dilation in attribute_ints(node, "dilations")):
        return "the window is dilated"
    ceil_mode = node.attributes.get("ceil_mode")
    if ceil_mode is not None and ceil_mode.as_int():
        return "ceil_mode is set"
    if len(node.outputs) > 1:
        return "its indices are used"
    added = zip(old, (*padding.begins, *padding.ends), (*kernel, *kernel), strict=True)
    return "the padding is as large as the window" if any(was + more >= size for was, more, size in added) else None


def _is_never_negative(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    if producer is None:
        return False
    if is_default_op(producer, "Clip"):
        low = array_of(producer.inputs[1]) if len(producer.inputs) > 1 else None
        return low is not None and bool(np.greater_equal(low.astype(np.float64), 0).all())
    if is_default_op(producer, "MaxPool", "AveragePool", "Transpose", "Reshape"):
        return _is_never_negative(producer.inputs[0]) and static_shape(producer.outputs[0]) is not None
    return is_default_op(producer, "Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt")


_RULES = {"Conv": _into_conv, "AveragePool": _into_average_pool, "MaxPool": _into_max_pool}
