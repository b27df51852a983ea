"""Running programs against the CUDA driver without a GPU that `stub/libcuda.c` is."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgec.devices.selection import host_arch
from tests.targets.runtime_build import ZIG, missing

__all__ = ["AARCH64_LIBRARIES", "Call", "Outcome", "build_stub", "compile_library", "run_program"]

STUB = Path(__file__).parent / "stub"
AARCH64_LIBRARIES = Path("/usr/aarch64-linux-gnu")
_FLAGS = ["-std=gnu11", "-O1", "-g0", "-fno-sanitize=all", "-ffp-contract=off", "-fvisibility=hidden"]
_FLAGS += ["-Wall", "-Wextra", "-Werror"]


def compile_library(sources: list[Path], target: Path, arch: str, *flags: str) -> Path:
    """A shared library for x86_64 or aarch64."""
    command = [*ZIG, "-target", f"{arch}-linux-gnu.2.27", *_FLAGS, *flags, "-fPIC", "-shared", *map(str, sources)]
    done = subprocess.run([*command, "-ldl", "-lm", "-o", str(target)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return target


def build_stub(folder: Path, arch: str, *flags: str) -> Path:
    """Make ``libcuda.so.1`` in a folder, which is returned."""
    folder.mkdir(exist_ok=True)
    compile_library(sorted(STUB.glob("*.c")), folder / "libcuda.so.1", arch, "-Wl,-soname,libcuda.so.1", *flags)
    return folder


@dataclass(frozen=True)
class Call:
    """A line of the log: a function of the driver, as exported, its arguments and its result."""

    name: str
    arguments: str
    result: int


@dataclass(frozen=True)
class Outcome:
    """How a program ended and what it asked of the driver."""

    code: int
    out: bytes
    err: str
    log: str

    @property
    def calls(self) -> list[Call]:
        found = []
        for line in self.log.splitlines():
            head, arrow, result = line.rpartition(" -> ")
            if arrow:
                name, _, arguments = head.strip().partition(" ")
                found.append(Call(name, arguments.strip(), int(result)))
        return found

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.calls]

    def assert_clean(self) -> None:
        """The program ended by itself, broke no rule of the driver's, and left nothing behind."""
        assert self.log.rstrip().endswith("exit leaks=0 violations=0"), f"{self.err}\n{self.log}"


def run_program(command: list[object], arch: str, stub: Path | None, log: Path, **environment: object) -> Outcome:
    """Run a program, under QEMU where need be.

    Args:
        command: The program and its arguments.
        arch: What it was compiled for.
        stub: Folder of ``libcuda.so.1``; None for a machine without a driver.
        log: File for the calls, overwritten.
        environment: Settings of the stub, by name without ``EDGEC_STUB_``, in lower case.
    """
    prefix = [] if arch == host_arch() else emulator(arch)
    settings = {f"EDGEC_STUB_{name.upper()}": str(value) for name, value in environment.items()}
    if stub is not None:
        settings["LD_LIBRARY_PATH"] = str(stub)
    log.unlink(missing_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEC_STUB_", "LD_"))}
    done = subprocess.run(
        [*prefix, *map(str, command)],
        capture_output=True,
        timeout=120,
        env={**kept, **settings, "EDGEC_STUB_LOG": str(log)},
    )
    text = log.read_text() if log.exists() else ""
    return Outcome(done.returncode, done.stdout, done.stderr.decode(), text)


def emulator(arch: str) -> list[str]:
    """QEMU with the C library of a foreign architecture; only aarch64's is a package of its own."""
    program = shutil.which(f"qemu-{arch}")
    if arch != "aarch64" or program is None or not AARCH64_LIBRARIES.exists():
        missing(f"no {arch} machine: apt-get install qemu-user libc6-arm64-cross")
    return [program, "-L", str(AARCH64_LIBRARIES)]
