"""From a device's name to a runner."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgec.bundle import Bundle
from edgec.devices.executable import ExecutableRunner, LocalTransport, SshTransport
from edgec.devices.inprocess import InProcessRunner
from edgec.errors import DeviceError, UsageError

__all__ = ["host_arch", "open_process", "open_runner"]


def host_arch() -> str:
    """This machine's architecture as target profiles call it."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def open_runner(
    bundle: Bundle, device: str | None = None, *, threads: int = 1, cpus: Sequence[int] = ()
) -> InProcessRunner | ExecutableRunner:
    """A runner for the bundle on the device.

    Args:
        bundle: The compiled model.
        device: ``inprocess``, ``local``, ``qemu`` or ``ssh://[user@]host``; None stands for this process where the
            bundle's CPU is of this machine's kind, else for QEMU.
        threads: Threads that share the work.
        cpus: Logical CPUs to pin the workers to.

    Raises:
        DeviceError: The device cannot run this bundle, or cannot be reached.
        UsageError: The device's name is not known, or the number of threads makes no sense.
    """
    if device == "inprocess" or (device is None and bundle.arch == host_arch()):
        _check_threads(threads)
        _check_arch(bundle)
        return InProcessRunner(bundle, threads, cpus)
    return open_process(bundle, device, threads=threads, cpus=cpus)


def open_process(
    bundle: Bundle, device: str | None = None, *, threads: int = 1, cpus: Sequence[int] = ()
) -> ExecutableRunner:
    """Like :func:`open_runner`, with a process of its own: ``local``, ``qemu`` or ``ssh://[user@]host``."""
    _check_threads(threads)
    if device is None:
        device = "local" if bundle.arch == host_arch() else "qemu"
    if device.startswith("ssh://"):
        return ExecutableRunner(bundle, SshTransport(device.removeprefix("ssh://")), threads, cpus)
    if device == "qemu":
        return ExecutableRunner(bundle, _qemu(bundle), threads, cpus)
    if device == "local":
        _check_arch(bundle)
        return ExecutableRunner(bundle, LocalTransport(), threads, cpus)
    if device == "inprocess":
        raise UsageError("timing needs a process of its own", fix="use --device local")
    raise UsageError(f"unknown device '{device}'", fix="devices: inprocess, local, qemu, ssh://[user@]host")


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise UsageError(f"cannot run on {threads} threads", fix="--threads takes a number of at least 1")


def _check_arch(bundle: Bundle) -> None:
    if bundle.arch != host_arch():
        raise DeviceError(
            f"bundle {bundle.name} is for {bundle.arch} CPUs; this machine is {host_arch()}",
            where=f"target {bundle.target}",
            fix="run it on the board with --device ssh://host, or emulated with --device qemu",
        )


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
    return LocalTransport([path, "-cpu", cpu, *_system_root(bundle)], f"QEMU {cpu}")


def _system_root(bundle: Bundle) -> list[str]:
    """Where QEMU finds the C library of a program that is not static: that of a GPU model opens the driver."""
    root = Path(f"/usr/{bundle.arch}-linux-gnu")
    if not bundle.is_for_gpu or bundle.arch == host_arch() or "QEMU_LD_PREFIX" in os.environ:
        return []
    if not (root / "lib").is_dir():
        raise DeviceError(
            f"running {bundle.target} code on this machine needs the C library of {bundle.arch}",
            where=f"looked in {root}",
            fix="install it (Debian, Ubuntu: apt-get install libc6-arm64-cross), or name a folder in QEMU_LD_PREFIX",
        )
    return ["-L", str(root)]
