"""Replace nodes whose inputs are all constant by their results."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes.common import LiftConstantsToInitializersPass, LiftSubgraphInitializersToMainGraphPass

from edgec.engine import to_tensor
from edgec.engine.registry import PRIMITIVES
from edgec.errors import EdgecError
from edgec.frontend.executor import run_node
from edgec.frontend.values import Array, array_of, is_default_op, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant

__all__ = ["FoldConstants"]

_NON_DETERMINISTIC = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
# Folding it would turn an integer weight of a quantized model back into a float one.
_KEPT = frozenset({"DequantizeLinear"})
_SUBGRAPH = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True)
class FoldConstants(InPlacePass):
    """Evaluates constant nodes with the engine's primitives and lifts Constant nodes to initializers.

    Left alone are non-deterministic operators, DequantizeLinear, operators that hold subgraphs, and results that would
    blow the file up.

    Attributes:
        size_limit: Results of more elements than this are kept as a node when they are also larger than all
            inputs of the node together; a Transpose of a weight is folded at any size.
    """

    size_limit: int = 16384

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        if LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified:
            tally.count("Constant lifted")
        LiftSubgraphInitializersToMainGraphPass()(model)
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            arrays = _constant_inputs(node)
            if arrays is not None:
                self._fold(node, arrays, tally)
        return tally.result(model)

    def _fold(self, node: ir.Node, arrays: list[Array | None], tally: Tally) -> None:
        if node.op_type in _NON_DETERMINISTIC or node.op_type in _KEPT:
            tally.refuse(node, "not deterministic" if node.op_type in _NON_DETERMINISTIC else "keeps weights quantized")
            return
        if node.domain or node.op_type not in PRIMITIVES:
            tally.refuse(node, "the engine has no such primitive")
            return
        if is_default_op(node, "Identity") and node.outputs[0].is_graph_output():
            return  # how a constant is named as an output
        limit = max(self.size_limit, sum(0 if array is None else array.size for array in arrays))
        if _expected_size(node, arrays) > limit:
            tally.refuse(node, f"the result has {_expected_size(node, arrays)} elements")
            return
        try:
            results = run_node(node, [None if array is None else to_tensor(array) for array in arrays])
        except EdgecError as err:
            tally.refuse(node, err.what)
            return
        outputs = [result.data for result in results]
        if sum(array.size for array in outputs) > limit:
            tally.refuse(node, f"the result has {sum(array.size for array in outputs)} elements")
        elif not all(_is_sound(array) for array in outputs):
            tally.refuse(node, "the result is not finite")
        elif any(_contradicts(value, array) for value, array in zip(node.outputs, outputs, strict=False)):
            tally.refuse(node, "the result has another type or shape than the model says")
        else:
            _replace(node, outputs)
            tally.count(node.op_type)


def _constant_inputs(node: ir.Node) -> list[Array | None] | None:
    """The arrays of the inputs if all are constant; None if one is not, or the node has no input at all."""
    if any(attribute.type in _SUBGRAPH for attribute in node.attributes.values()):
        return None
    arrays = [array_of(value) for value in node.inputs]
    if any(array is None and value is not None for array, value in zip(arrays, node.inputs, strict=True)):
        return None
    return arrays if any(array is not None for array in arrays) else None


def _expected_size(node: ir.Node, arrays: list[Array | None]) -> int:
    """The number of elements of the first output, known before it is computed where it can be a large one."""
    shape = static_shape(node.outputs[0])
    first, second = (*arrays, None, None)[:2]
    if node.op_type == "ConstantOfShape" and first is not None:
        return int(np.prod(first.astype(np.int64)))
    if node.op_type == "Expand" and first is not None and second is not None:
        return int(np.prod(np.broadcast_shapes(first.shape, tuple(second.tolist()))))
    if node.op_type == "Tile" and first is not None and second is not None:
        return int(first.size * np.prod(second.astype(np.int64)))
    return 0 if shape is None else int(np.prod(shape, dtype=np.int64))


def _is_sound(array: Array) -> bool:
    return array.dtype.kind != "f" or not bool(np.isnan(array).any())


def _contradicts(value: ir.Value, array: Array) -> bool:
    shape = static_shape(value)
    wrong_type = value.dtype is not None and value.dtype != ir.DataType.from_numpy(array.dtype)
    return wrong_type or (shape is not None and shape != array.shape)


def _replace(node: ir.Node, arrays: list[Array]) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for value, array in zip(node.outputs, arrays, strict=False):
        name = value.name or f"{node.name}_folded"
        if value.is_graph_output():
            constant = new_constant(graph, array, f"{name}_constant")
            named = ir.node("Identity", [constant], outputs=[ir.Value(name=name, shape=value.shape, type=value.type)])
            graph.insert_before(node, named)
            value.replace_all_uses_with(named.outputs[0], replace_graph_outputs=True)
            value.name = None
        elif value.uses():
            value.name = None
            value.replace_all_uses_with(new_constant(graph, array, name))
    graph.remove(node, safe=True)
