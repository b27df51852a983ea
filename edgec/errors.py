"""Every error that edgec raises on purpose. A leaf: it imports nothing of the project, so every package may use it.

::

    EdgecError                    exit 1   the user's input is at fault
    ├── UsageError                exit 2   options that contradict each other or make no sense
    ├── UnsupportedError          exit 3   an operator, type or target that edgec does not have
    ├── ParityError               exit 4   the artifact does not compute what the reference computes
    ├── PerformanceError          exit 5   slower than the caller allowed
    └── DeviceError               exit 6   the device, its driver or its emulator failed

Programmer errors (a wrong argument type in a Python call) stay ``TypeError`` and ``ValueError``.
"""

from __future__ import annotations

__all__ = [
    "DeviceError",
    "EdgecError",
    "ParityError",
    "PerformanceError",
    "UnsupportedError",
    "UsageError",
]


class EdgecError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        what: One sentence naming the thing that failed.
        where: File, node, tensor or source line, with dtype and shape where they help.
        fix: What the user can do next, as an instruction.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.fix is not None:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class UsageError(EdgecError):
    """Options that contradict each other or make no sense (exit code 2)."""

    exit_code = 2


class UnsupportedError(EdgecError):
    """An operator, data type or target that edgec does not have (exit code 3)."""

    exit_code = 3


class ParityError(EdgecError):
    """The artifact does not compute what the reference computes (exit code 4)."""

    exit_code = 4


class PerformanceError(EdgecError):
    """The artifact is slower than the caller allowed (exit code 5)."""

    exit_code = 5


class DeviceError(EdgecError):
    """The device, its driver or its emulator failed (exit code 6)."""

    exit_code = 6
