"""What must be there before, and what must hold while, a model is compiled; whatever is not is told at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgec.errors import EdgecError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgec.targets.lowering import Plan
    from edgec.targets.profile import Profile

__all__ = ["check_memory", "in_precision", "require_device_compiler", "require_toolchain"]


def require_toolchain() -> None:
    """Look for the packages that compiling needs.

    Raises:
        EdgecError: One is not installed.
    """
    from importlib.util import find_spec

    missing = [package for package in ("tvm", "ziglang") if find_spec(package) is None]
    if missing:
        raise EdgecError(
            f"compiling needs packages that are not installed: {', '.join(missing)}",
            fix="pip install 'edgec[compile]'",
        )


def require_device_compiler(profile: Profile) -> None:
    """Look for a compiler for each GPU of a target.

    Raises:
        UnsupportedError: There is none for one.
    """
    from edgec.targets.cuda.architectures import ARCHITECTURES
    from edgec.targets.cuda.nvrtc import find_compiler

    if profile.gpu is not None:
        for capability in (profile.gpu.capability, *profile.gpu.also):
            find_compiler(ARCHITECTURES[capability])


def _check_precision(precision: str | None, profile: Profile) -> None:
    """Refuse what there is not, or what the target does not compute with.

    Raises:
        UsageError: There is no such precision.
        UnsupportedError: The target does not have it.
    """
    from edgec.targets.profile import float16_targets

    if precision not in (None, "fp32", "tf32", "fp16"):
        raise UsageError(f"there is no precision '{precision}'", fix="choose fp32, tf32, fp16 or int8")
    if precision == "fp16" and not profile.has_float16:
        raise UnsupportedError(
            f"target '{profile.name}' does not compute in float16",
            where=f"instruction set {profile.instruction_set.name}",
            fix=f"choose one that does ({', '.join(float16_targets())}), or leave --precision out",
        )


def in_precision(precision: str | None, profile: Profile) -> Profile:
    """The target as it computes in a precision: in tf32, if that is asked for.

    Raises:
        UsageError: There is no such precision.
        UnsupportedError: The target does not have it.
    """
    from edgec.targets.cuda.architectures import ARCHITECTURES

    _check_precision(precision, profile)
    if precision != "tf32":
        return profile
    if profile.gpu is None or "tf32" not in ARCHITECTURES[profile.gpu.capability].tensor_core_types:
        raise UnsupportedError(
            f"target '{profile.name}' does not compute in tf32",
            where="instruction set " + profile.instruction_set.name
            if profile.gpu is None
            else ARCHITECTURES[profile.gpu.capability].target,
            fix="choose a GPU from sm_80 on, e.g. jetson-orin, or leave --precision out",
        )
    return replace(profile, gpu=replace(profile.gpu, in_tf32=True))


def check_memory(plan: Plan, profile: Profile) -> None:
    """Find out here, not on the board, what its memory does not hold.

    Raises:
        UnsupportedError: The model needs more than there is.
    """
    if profile.gpu is None or not profile.gpu.memory_mib:
        return
    tensors = sum(spec.size_bytes for spec in (*plan.inputs, *plan.outputs))
    needed_mib = (len(plan.params) + plan.arena_size_bytes + tensors) / 2**20
    if needed_mib > profile.gpu.memory_mib:
        raise UnsupportedError(
            f"the model needs {needed_mib:.0f} MiB, and {profile.name} has {profile.gpu.memory_mib} MiB of memory",
            where=f"parameters {len(plan.params) / 2**20:.0f}, working memory {plan.arena_size_bytes / 2**20:.0f} MiB",
            fix="take a smaller batch or input, --precision fp16 or int8, or a board with more memory",
        )
