"""Merge layer normalizations that are written out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import array_of, is_default_op, only_consumer, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant, remove_unread, replace_node, scalar_of

__all__ = ["MergeLayerNorm"]


@dataclass(frozen=True)
class MergeLayerNorm(InPlacePass):
    """Merges the operators of a layer normalization over the last axes into LayerNormalization.

    (x - mean) / √(mean((x - mean)²) + epsilon), then a constant scale and a constant bias of the normalized axes, of
    which the scale may be missing.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if is_default_op(node, "Div"):
                _merge(node, tally)
        return tally.result(model)


def _merge(quotient: ir.Node, tally: Tally) -> None:
    centred, root = quotient.inputs
    source = _maker(centred, "Sub")
    found = None if source is None else _variance(_maker(root, "Sqrt"), centred)
    if source is None or found is None or source.inputs[0] is None:
        return
    x, (epsilon, axes) = source.inputs[0], found
    mean = _maker(source.inputs[1], "ReduceMean")
    shape = static_shape(x)
    if mean is None or mean.inputs[0] is not x or shape is None or _axes(mean, len(shape)) != axes:
        return
    if list(axes) != list(range(axes[0], len(shape))):
        tally.refuse(quotient, "it normalizes other axes than the last ones")
        return
    last, scale = _affine(quotient, "Mul", shape[axes[0] :])
    last, bias = _affine(last, "Add", shape[axes[0] :])
    graph = quotient.graph
    assert isinstance(graph, ir.Graph) and x.dtype is not None
    if scale is None:
        scale = new_constant(graph, np.ones(shape[axes[0] :], x.dtype.numpy()), f"{quotient.name}_scale")
    merged = ir.node(
        "LayerNormalization",
        [x, scale] if bias is None else [x, scale, bias],
        {"axis": axes[0], "epsilon": epsilon},
        name=f"{quotient.name}_layer_norm",
    )
    unread = list(last.inputs)
    replace_node(last, merged)
    remove_unread(unread)
    tally.count("LayerNormalization")


def _variance(root: ir.Node | None, centred: ir.Value | None) -> tuple[float, tuple[int, ...]] | None:
    """Epsilon and the axes, where ``root`` is that of the mean square of ``centred`` and a number."""
    add = None if root is None else _maker(root.inputs[0], "Add")
    if add is None or centred is None or centred.shape is None:
        return None
    for variance, number in (add.inputs, add.inputs[::-1]):
        epsilon, mean = scalar_of(number), _maker(variance, "ReduceMean")
        square = None if mean is None else _maker(mean.inputs[0], "Pow", "Mul")
        if epsilon is None or mean is None or square is None or square.inputs[0] is not centred:
            continue
        if square.inputs[1] is centred or (square.op_type == "Pow" and scalar_of(square.inputs[1]) == 2):
            axes = _axes(mean, len(centred.shape))
            return None if axes is None else (epsilon, axes)
    return None


def _axes(mean: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The sorted axes of a mean that keeps them as 1."""
    axes = array_of(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if axes is None or axes.size == 0 or not mean.attributes.get_int("keepdims", 1):
        return None
    return tuple(sorted(int(axis) % rank for axis in axes.reshape(-1)))


def _affine(node: ir.Node, op_type: str, shape: tuple[int, ...]) -> tuple[ir.Node, ir.Value | None]:
    """The next node and its constant, where it multiplies or adds one of ``shape``; else ``node`` and None."""
    consumer = only_consumer(node.outputs[0])
    if consumer is not None and is_default_op(consumer, op_type):
        for value in consumer.inputs:
            array = array_of(value)
            if array is not None and array.shape == shape:
                return consumer, value
    return node, None


def _maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of one of these types that makes ``value``."""
    node = None if value is None else value.producer()
    return node if node is not None and is_default_op(node, *op_types) else None
