"""Transformations of the IR: model in, model out."""

from __future__ import annotations

from edgec.passes.convert_precision import ConvertPrecision
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
from edgec.passes.pipeline import simplify
from edgec.passes.remove_dead_code import RemoveDeadCode
from edgec.passes.report import CountedResult, PassReport
from edgec.passes.resolve_padding import ResolvePadding
from edgec.passes.unify_signedness import UnifySignedness

__all__ = [
    "ConvertPrecision",
    "CountedResult",
    "EliminateIdentities",
    "FixNames",
    "FoldBatchNorm",
    "FoldBranches",
    "FoldConstants",
    "FoldPadding",
    "FoldScale",
    "FoldShapes",
    "MergeActivations",
    "MergeClamps",
    "MergeDuplicates",
    "MergeGemm",
    "MergeLayerNorm",
    "MergeMovements",
    "MergeReshapes",
    "PassReport",
    "RemoveDeadCode",
    "ResolvePadding",
    "UnifySignedness",
    "simplify",
]
