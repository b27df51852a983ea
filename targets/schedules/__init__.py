"""How each family of kernels is scheduled, one file per family."""

from edgec.targets.schedules.rules import schedule_kernel

__all__ = ["schedule_kernel"]
