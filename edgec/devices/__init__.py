"""Where an artifact runs: this process, this machine, QEMU, or a board over SSH, behind one protocol."""

from edgec.devices.protocol import KernelTime, Peak, ProcessRunner, Runner, Timing
from edgec.devices.selection import open_process, open_runner

__all__ = ["KernelTime", "Peak", "ProcessRunner", "Runner", "Timing", "open_process", "open_runner"]
