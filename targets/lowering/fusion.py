"""Relax to Relax: operators become kernels, and element-wise kernels join the one that feeds them."""

from __future__ import annotations

import tvm
from tvm import relax

__all__ = ["fuse"]


def fuse(module: tvm.IRModule) -> tvm.IRModule:
    """A module whose ``main`` only calls kernels (``call_tir``) and reshapes, each kernel a TensorIR function."""
    phases = [
        # A reshape of a contiguous tensor is a second name for the same bytes: the plan aliases it.
        relax.transform.DeadCodeElimination(),
        relax.transform.LegalizeOps(skip_ops=["relax.reshape"]),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(phases)(module)
