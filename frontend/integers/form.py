"""The integer form of a quantized model: what it computes in standard integer operators of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from edgec.frontend.integers.casts import scale_sums
from edgec.frontend.integers.duplicates import merge_conversions
from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.linear_operators import write_out_linear_operator
from edgec.frontend.integers.movement import (
    cancel_pair,
    fold_constant_integers,
    push_dequantize_down,
    push_quantize_up,
)
from edgec.frontend.integers.pools import make_mean_integer
from edgec.frontend.integers.products import make_products_integer
from edgec.frontend.integers.scales import drop_needless_clamp, fold_scale
from edgec.frontend.integers.tables import tabulate_function, tabulate_quantized

__all__ = ["RULES", "Rule", "integer_form"]

Rule: TypeAlias = Callable[[Editor, ir.Node], bool]

RULES: tuple[Rule, ...] = (
    # Bring the integers to where they are used
    fold_constant_integers,
    merge_conversions,
    push_dequantize_down,
    push_quantize_up,
    cancel_pair,
    # Compute with them
    write_out_linear_operator,
    make_products_integer,
    make_mean_integer,
    scale_sums,
    tabulate_quantized,
    tabulate_function,
    # Bring the results back to integers
    fold_scale,
    drop_needless_clamp,
)

_QUANTIZED = frozenset(
    {"DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
)

# Every rule removes nodes, moves a conversion in its one direction, or makes a scale 1; the limit is a guard against
# a defect.
_MAX_ROUNDS = 32


def integer_form(model: ir.Model, *, keep: Collection[str] = ()) -> ir.Model:
    """Returns a model that computes the quantized parts of ``model`` with integers, by edgec's integer contract.

    The result has standard operators at the same opset: ConvInteger, MatMulInteger, integer Add, ReduceSum and Gather
    of tables, DequantizeLinear of int32 sums, and QuantizeLinear, of scale 1 wherever its scale could be folded. What
    no rule takes stays in float. Inputs, outputs and the integers that a QuantizeLinear of the model made keep their
    names; subgraphs of If, Loop and Scan are left as they are. A second run changes nothing.

    Args:
        model: A model at opset 22. It is not changed; one that has nothing quantized is returned as it is.
        keep: Names of inner values that the result has, too, with the meaning that they have in ``model``.

    Example:
        >>> form = integer_form(import_model("quantized.onnx"))  # doctest: +SKIP
    """
    if not any(node.op_type in _QUANTIZED and not node.domain for node in model.graph):
        return model
    model = model.clone()
    graph = model.graph
    _keep(graph, keep)
    if _has_open_shapes(graph):
        ShapeInferencePass()(model)
    RemoveUnusedNodesPass()(model)
    editor = Editor(graph)
    for _ in range(_MAX_ROUNDS):
        if not sum(_apply(editor, rule) for rule in RULES):
            break
    RemoveUnusedNodesPass()(model)
    return model


def _apply(editor: Editor, rule: Rule) -> int:
    """How many nodes the rule has rewritten."""
    return sum(node.graph is editor.graph and rule(editor, node) for node in list(editor.graph))


def _keep(graph: ir.Graph, names: Collection[str]) -> None:
    """Make inner values outputs, which no rule changes."""
    if not names:
        return
    known = ir.convenience.create_value_mapping(graph, include_subgraphs=False)
    for name in names:
        value = known.get(name)
        if value is not None and not value.is_graph_output():
            graph.outputs.append(value)


def _has_open_shapes(graph: ir.Graph) -> bool:
    return any(value.shape is None or value.dtype is None for node in graph for value in node.outputs if value.name)
