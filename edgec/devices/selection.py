"""From a device's name to a runner."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence

from edgec.bundle import Bundle
from edgec.devices.executable import ExecutableRunner, LocalTransport, SshTransport
from edgec.devices.inprocess import InProcessRunner
from edgec.devices.protocol import Runner
from edgec.errors import DeviceError, UsageError

__all__ = ["default_device", "open_runner"]

_DEVICES = "inprocess, local, qemu, ssh://[user@]host"


def default_device(bundle: Bundle, *, own_process: bool = False) -> str:
    """Where the bundle runs if nothing is said: here if the CPU is of its kind, else under QEMU."""
    if bundle.arch != host_arch():
        return "qemu"
    return "local" if own_process else "inprocess"


def host_arch() -> str:
    """This machine's architecture as target profiles call it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def open_runner(
    bundle: Bundle, device: str | None = None, *, threads: int = 1, cpus: Sequence[int] = (), own_process: bool = False
) -> Runner:
    """A runner for the bundle on the device.

    Args:
        bundle: The compiled model.
        device: ``inprocess``, ``local``, ``qemu`` or ``ssh://[user@]host``; None chooses by the bundle's CPU.
        threads: Threads that share the work.
        cpus: Logical CPUs to pin the workers to.
        own_process: Prefer a process of its own over this one (for benchmarks).

    Raises:
        DeviceError: The device cannot run this bundle, or cannot be reached.
        UsageError: The device's name is not known, or the number of threads makes no sense.
    """
    if threads < 1:
        raise UsageError(f"cannot run on {threads} threads", fix="--threads takes a number of at least 1")
    name = device or default_device(bundle, own_process=own_process)
    if name.startswith("ssh://"):
        return ExecutableRunner(bundle, SshTransport(name.removeprefix("ssh://")), threads, cpus)
    if name == "qemu":
        return ExecutableRunner(bundle, _qemu(bundle), threads, cpus)
    if name not in ("inprocess", "local"):
        raise UsageError(f"unknown device '{name}'", fix=f"devices: {_DEVICES}")
    if bundle.arch != host_arch():
        raise DeviceError(
            f"bundle {bundle.name} is for {bundle.arch} CPUs; this machine is {host_arch()}",
            where=f"target {bundle.target}",
            fix="run it on the board with --device ssh://host, or emulated with --device qemu",
        )
    if name == "inprocess":
        return InProcessRunner(bundle, threads, cpus)
    return ExecutableRunner(bundle, LocalTransport(), threads, cpus)


def _qemu(bundle: Bundle) -> LocalTransport:
    program = f"qemu-{bundle.arch}"
    path = shutil.which(program) or shutil.which(f"{program}-static")
    if path is None:
        raise DeviceError(
            f"running {bundle.target} code on this machine needs {program}",
            fix="install it (Debian, Ubuntu: apt-get install qemu-user), or use --device ssh://host",
        )
    target = bundle.manifest["target"]
    assert isinstance(target, dict)
    cpu = str(target["qemu_cpu"])
    return LocalTransport([path, "-cpu", cpu], f"QEMU {cpu}")
