"""GPU schedules: loops of a kernel bound to blocks and threads, one file per family."""

from edgec.targets.cuda.schedules.rules import RULES, schedule_kernel

__all__ = ["RULES", "schedule_kernel"]
