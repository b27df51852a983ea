"""Every other kernel: sums over much that the threads of a block share, by TVM's rules for them (dlight)."""

from __future__ import annotations

from tvm.s_tir import Schedule, dlight

from edgec.targets.cuda.architectures import ARCHITECTURES, cuda_target
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser

__all__ = ["schedule"]

_RULES = (dlight.gpu.Reduction, dlight.gpu.GeneralReduction, dlight.gpu.Fallback)


def schedule(sch: Schedule, profile: Profile, _choose: Chooser) -> Schedule | None:
    """Schedule any kernel; the last rule of the list."""
    assert profile.gpu is not None
    target = cuda_target(ARCHITECTURES[profile.gpu.capability])
    function = sch.mod["main"].with_attr("target", target)
    with target:
        for rule in _RULES:
            made = rule().apply(function, target, False)
            if made is not None:
                return made[0] if isinstance(made, list) else made
    return None
