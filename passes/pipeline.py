"""The graph simplifier as one list of phases."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes import InPlacePass
from onnx_ir.passes.common import ShapeInferencePass

from edgec.passes.eliminate_identities import EliminateIdentities
from edgec.passes.fix_names import FixNames
from edgec.passes.fold_batch_norm import FoldBatchNorm
from edgec.passes.fold_branches import FoldBranches
from edgec.passes.fold_constants import FoldConstants
from edgec.passes.fold_padding import FoldPadding
from edgec.passes.fold_scale import FoldScale
from edgec.passes.fold_shapes import FoldShapes
from edgec.passes.merge_activations import MergeActivations
from edgec.passes.merge_clamps import MergeClamps
from edgec.passes.merge_duplicates import MergeDuplicates
from edgec.passes.merge_gemm import MergeGemm
from edgec.passes.merge_layer_norm import MergeLayerNorm
from edgec.passes.merge_movements import MergeMovements
from edgec.passes.merge_reshapes import MergeReshapes
from edgec.passes.remove_dead_code import RemoveDeadCode
from edgec.passes.report import CountedResult, PassReport
from edgec.passes.resolve_padding import ResolvePadding

__all__ = ["PHASES", "Dump", "simplify"]

Dump: TypeAlias = Callable[[int, str, ir.Model], None]

PHASES: tuple[InPlacePass, ...] = (
    # What is known before the first input arrives
    FoldConstants(),
    FoldShapes(),
    FoldBranches(),
    EliminateIdentities(),
    # Functions that are written out
    MergeActivations(),
    MergeLayerNorm(),
    # Arithmetic that weights can take in
    MergeGemm(),
    ResolvePadding(),
    FoldPadding(),
    FoldBatchNorm(),
    FoldScale(),
    # Fewer of the rest
    MergeReshapes(),
    MergeMovements(),
    MergeClamps(),
    MergeDuplicates(),
    RemoveDeadCode(),
    FixNames(),
)

# Every round removes nodes or merges constants, so it ends by itself; the limit is a guard against a defect.
_MAX_ROUNDS = 12


def simplify(model: ir.Model, *, dump: Dump | None = None) -> tuple[ir.Model, tuple[PassReport, ...]]:
    """Returns a smaller model that computes the same, and what each phase did to it.

    The phases run in order, again and again until a whole round changes nothing. Names, shapes and types of inputs
    and outputs stay. ``model`` itself is not changed.

    Args:
        model: A model at opset 22 with static input shapes, as `edgec.frontend.import_model` and `trace` give it.
        dump: Called with an index, the name of the phase and the model after every phase; it must not change the
            model.

    Example:
        >>> smaller, reports = simplify(import_model("model.onnx"))  # doctest: +SKIP
    """
    model = _copy(model)
    reports: list[PassReport] = []
    for _ in range(_MAX_ROUNDS):
        modified = False
        for phase in PHASES:
            report = _run(phase, model)
            reports.append(report)
            modified = modified or report.changed > 0
            if dump is not None:
                dump(len(reports) - 1, report.name, model)
        if not modified:
            break
    return model, tuple(reports)


def _run(phase: InPlacePass, model: ir.Model) -> PassReport:
    before, start = _node_count(model), time.perf_counter()
    result = phase(model)
    assert isinstance(result, CountedResult)
    if result.modified and _has_open_shapes(model):
        # A constant that was computed before may be the shape of something now.
        ShapeInferencePass()(model)
    return PassReport(
        name=type(phase).__name__,
        changed=result.changes.total(),
        details=tuple(result.changes.most_common()),
        refused=result.refused,
        nodes_before=before,
        nodes_after=_node_count(model),
        seconds=time.perf_counter() - start,
    )


def _copy(model: ir.Model) -> ir.Model:
    """A copy whose constants are tensors of their own: renaming a value renames its tensor, and clones share them."""
    copied = model.clone()
    for graph in copied.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _own(value.const_value)
    for node in ir.traversal.RecursiveGraphIterator(copied.graph):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _own(attribute.as_tensor()))
    return copied


def _own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype == ir.DataType.STRING:
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def _has_open_shapes(model: ir.Model) -> bool:
    return any(
        value.shape is None or not value.shape.is_static() or value.dtype is None
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        for value in node.outputs
        if value.name
    )


def _node_count(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
