"""Every other kernel: sums over much that the threads of a block share, by TVM's rules for them (dlight)."""

from __future__ import annotations

from tvm.s_tir import Schedule, dlight
from tvm.target import Target

from edgec.targets.cuda.architectures import Architecture
from edgec.targets.schedules.choice import Chooser

__all__ = ["schedule"]

_RULES = (dlight.gpu.Reduction, dlight.gpu.GeneralReduction, dlight.gpu.Fallback)


def schedule(sch: Schedule, row: Architecture, _choose: Chooser) -> Schedule | None:
    """Schedule any kernel; the last rule of the list."""
    target = Target({"kind": "cuda", "arch": row.target, "max_threads_per_block": 1024, "thread_warp_size": 32})
    function = sch.mod["main"].with_attr("target", target)
    with target:
        for rule in _RULES:
            made = rule().apply(function, target, False)
            if made is not None:
                return made[0] if isinstance(made, list) else made
    return None
