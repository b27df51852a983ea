"""Where an artifact runs: this process, this machine, QEMU, or a board over SSH, behind one protocol."""

from edgec.devices.protocol import KernelTime, Runner, Timing
from edgec.devices.selection import open_runner

__all__ = ["KernelTime", "Runner", "Timing", "open_runner"]
