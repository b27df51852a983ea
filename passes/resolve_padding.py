"""Write padding that is asked for by name ("SAME_UPPER") as the numbers that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import attribute_ints

__all__ = ["ResolvePadding"]

_WINDOWED = ("AveragePool", "Conv", "MaxPool")


@dataclass(frozen=True)
class ResolvePadding(InPlacePass):
    """Replaces auto_pad of Conv, MaxPool and AveragePool by pads, so that what follows knows one form only.

    With SAME the output has ceil(size / stride) elements per axis; the padding that takes is shared out evenly, and
    an odd element goes to the end (SAME_UPPER) or the start (SAME_LOWER). Source: ONNX, Conv.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if not is_default_op(node, *_WINDOWED) or "auto_pad" not in node.attributes:
                continue
            mode = node.attributes["auto_pad"].as_string()
            pads = _pads(node, mode)
            if pads is None:
                tally.refuse(node, "its shapes are not static, or ceil_mode is set")
                continue
            del node.attributes["auto_pad"]
            if mode != "NOTSET":
                node.attributes["pads"] = ir.AttrInt64s("pads", pads)
            tally.count(f"{mode} of {node.op_type}")
        return tally.result(model)


def _pads(node: ir.Node, mode: str) -> tuple[int, ...] | None:
    shape = static_shape(node.inputs[0])
    kernel = _kernel(node)
    if shape is None or kernel is None:
        return None
    rank = len(kernel)
    if mode == "NOTSET":
        return ()
    if mode == "VALID":
        return (0,) * (2 * rank)
    ceil_mode = node.attributes.get("ceil_mode")
    if ceil_mode is not None and ceil_mode.as_int():
        return None
    strides = attribute_ints(node, "strides", (1,) * rank)
    dilations = attribute_ints(node, "dilations", (1,) * rank)
    begins, ends = [], []
    for size, window, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return (*begins, *ends)


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    if "kernel_shape" in node.attributes:
        return attribute_ints(node, "kernel_shape")
    weight = static_shape(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if weight is None else weight[2:]
