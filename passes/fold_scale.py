"""Fold arithmetic with a constant per channel into the convolution or matrix product before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, array_of, is_default_op, static_shape
from edgec.passes.affine import ABSORBERS, absorb_affine, channel_count, refusal
from edgec.passes.report import CountedResult, Tally

__all__ = ["FoldScale"]

_FOLDED = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class FoldScale(InPlacePass):
    """Folds Add, Sub, Mul and Div by a constant scalar or vector of channels into Conv, ConvTranspose or Gemm.

    The constant must be the second operand of Sub and Div. Add and Sub change the bias only, so the weights may be
    computed (as in a quantized model); Mul and Div need constant weights.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if is_default_op(node, *_FOLDED):
                _fold(node, tally)
        return tally.result(model)


def _fold(node: ir.Node, tally: Tally) -> None:
    for index in (0, 1):
        value, constant = node.inputs[index], array_of(node.inputs[1 - index])
        producer = None if value is None else value.producer()
        if constant is None or producer is None or not is_default_op(producer, *ABSORBERS):
            continue
        if index == 1 and node.op_type in ("Sub", "Div"):
            tally.refuse(node, "the constant is its first operand")
            return
        scales = node.op_type in ("Mul", "Div")
        why = refusal(producer, scales=scales)
        if why is not None:
            tally.refuse(node, why)
            return
        vector = _per_channel(node, producer, constant)
        if vector is None:
            tally.refuse(node, f"a constant of shape {constant.shape} is not one number per channel")
            return
        with np.errstate(divide="ignore"):
            scale = {"Mul": vector, "Div": 1.0 / vector}.get(node.op_type)
        shift = {"Add": vector, "Sub": -vector}.get(node.op_type, np.zeros_like(vector))
        why = absorb_affine(producer, scale, shift, node)
        if why is None:
            tally.count(f"{node.op_type} into {producer.op_type}")
        else:
            tally.refuse(node, why)
        return


def _per_channel(node: ir.Node, producer: ir.Node, constant: Array) -> NDArray[np.float64] | None:
    """``constant`` as one number per channel, if that is how it is broadcast over the result of ``producer``."""
    shape = static_shape(producer.outputs[0])
    channels = channel_count(producer)
    if shape is None or channels is None or static_shape(node.outputs[0]) != shape:
        return None
    axis = len(shape) - 1 if producer.op_type == "Gemm" else 1
    if constant.size != 1:
        aligned = (1,) * (len(shape) - constant.ndim) + constant.shape
        if any(size != 1 for position, size in enumerate(aligned) if position != axis):
            return None
    return np.array(np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,)))
