"""Fold BatchNormalization, which is a fixed scale and shift at inference, into the operator before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, array_of, is_default_op, static_shape
from edgec.passes.affine import ABSORBERS, absorb_affine, refusal
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant, replace_node, rounded_to

__all__ = ["FoldBatchNorm"]

_EPSILON = 1e-5  # ONNX's default


class _Affine(NamedTuple):
    """A scale and a shift per channel, in double precision."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True)
class FoldBatchNorm(InPlacePass):
    """Folds inference-mode BatchNormalization.

    1. After a Conv, ConvTranspose or Gemm with constant weights that has no other consumer: into weights and bias.
    2. Elsewhere: into a Mul and an Add per channel, which later passes may merge further.

    Attributes:
        decompose: Whether to apply rule 2.
    """

    decompose: bool = True

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if is_default_op(node, "BatchNormalization"):
                self._fold(node, tally)
        return tally.result(model)

    def _fold(self, node: ir.Node, tally: Tally) -> None:
        affine = _affine_of(node)
        if affine is None:
            tally.refuse(node, "it is in training mode, has further outputs, or statistics that are not constant")
            return
        source = node.inputs[0]
        producer = None if source is None else source.producer()
        if producer is not None and is_default_op(producer, *ABSORBERS):
            why = refusal(producer, scales=True) or absorb_affine(producer, affine.scale, affine.shift, node)
            if why is None:
                tally.count(f"into {producer.op_type}")
                return
            tally.refuse(node, why)
        if self.decompose and _decompose(node, affine):
            tally.count("into Mul and Add")


def _affine_of(node: ir.Node) -> _Affine | None:
    training = node.attributes.get("training_mode")
    if (training is not None and training.as_int()) or any(value.uses() for value in node.outputs[1:]):
        return None
    parameters: list[Array] = []
    for value in node.inputs[1:5]:
        array = array_of(value)
        if array is None:
            return None
        parameters.append(array)
    gamma, beta, mean, variance = (array.astype(np.float64) for array in parameters)
    epsilon = node.attributes.get("epsilon")
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + (_EPSILON if epsilon is None else epsilon.as_float()))
        shift = beta - mean * scale
    return _Affine(scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None


def _decompose(node: ir.Node, affine: _Affine) -> bool:
    source = node.inputs[0]
    shape = static_shape(source)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    if source is None or source.dtype is None or shape is None or len(node.outputs) != 1:
        return False
    dtype = source.dtype.numpy()
    scale, shift = rounded_to(affine.scale, dtype), rounded_to(affine.shift, dtype)
    if scale is None or shift is None:
        return False
    per_channel = (-1, *[1] * (len(shape) - 2))
    product = ir.node(
        "Mul", [source, new_constant(graph, scale.reshape(per_channel), f"{node.name}_scale")], name=f"{node.name}_mul"
    )
    product.outputs[0].name = f"{node.name}_scaled"
    product.outputs[0].shape, product.outputs[0].type = source.shape, source.type
    graph.insert_before(node, product)
    offset = new_constant(graph, shift.reshape(per_channel), f"{node.name}_shift")
    replace_node(node, ir.node("Add", [product.outputs[0], offset], name=f"{node.name}_add"))
    return True
