"""Run the self-contained runner executable: here, under QEMU, or on a board over SSH."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from edgec.bundle import Bundle
from edgec.devices.protocol import KernelTime, Peak, Timing, advice
from edgec.errors import DeviceError, UsageError
from edgec.files import temporary_folder

__all__ = ["ExecutableRunner", "LocalTransport", "SshTransport", "Transport"]


class Transport(Protocol):
    """How files and commands reach the device."""

    description: str
    is_emulated: bool

    def put(self, file: Path) -> str:
        """Bring a file there; returns its path there."""

    def scratch(self, name: str) -> str:
        """A path there for a file to be written."""

    def get(self, remote: str, file: Path) -> None:
        """Fetch a file from there."""

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command there."""

    def close(self) -> None:
        """Remove what was brought there."""


class LocalTransport:
    """This machine, with a prefix for an emulator."""

    def __init__(self, prefix: Sequence[str] = (), description: str = "this machine") -> None:
        self.description = description
        self.is_emulated = bool(prefix)
        self._prefix = tuple(prefix)
        self._folder = temporary_folder("edgec-run-")

    def put(self, file: Path) -> str:
        return str(file)

    def scratch(self, name: str) -> str:
        return str(Path(self._folder.name) / name)

    def get(self, remote: str, file: Path) -> None:
        if Path(remote) != file:
            shutil.copyfile(remote, file)

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run([*self._prefix, *command], capture_output=True, text=True, check=False)
        except OSError as err:
            raise DeviceError(
                f"cannot execute {command[0]}: {err.strerror}", fix="set TMPDIR to a folder that may hold programs"
            ) from err

    def close(self) -> None:
        self._folder.cleanup()


# No question that nobody would answer, and no minutes of waiting for a board that is off.
_SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


class SshTransport:
    """A board reached with the user's own ``ssh`` and ``scp``; no daemon is needed there."""

    is_emulated = False

    def __init__(self, host: str) -> None:
        if not host or host.startswith("-"):  # ssh would take it for an option
            raise UsageError(f"'{host}' is no host", fix="write the device as ssh://[user@]host")
        self.description = f"ssh://{host}"
        self._host = host
        result = self._ssh(["mktemp", "-d"])
        self._remote = result.stdout.strip()
        if result.returncode != 0 or not self._remote:
            raise DeviceError(
                f"cannot reach {host} over SSH",
                where=result.stderr.strip() or f"exit code {result.returncode}",
                fix=f"`ssh {host} true` must work without a password",
            )

    def put(self, file: Path) -> str:
        remote = f"{self._remote}/{file.name}"
        self._copy(str(file), f"{self._host}:{remote}")
        return remote

    def scratch(self, name: str) -> str:
        return f"{self._remote}/{name}"

    def get(self, remote: str, file: Path) -> None:
        self._copy(f"{self._host}:{remote}", str(file))

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self._ssh(command)

    def close(self) -> None:
        self._ssh(["rm", "-r", self._remote])

    def _ssh(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return self._client(["ssh", *_SSH_OPTIONS, self._host, shlex.join(command)])

    def _copy(self, source: str, target: str) -> None:
        result = self._client(["scp", "-q", *_SSH_OPTIONS, source, target])
        if result.returncode != 0:
            raise DeviceError(
                f"cannot copy {source} to {target}",
                where=result.stderr.strip() or f"exit code {result.returncode}",
                fix="see that the board has space in its temporary folder and an SFTP server",
            )

    @staticmethod
    def _client(argv: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError as err:
            fix = "install an OpenSSH client (Debian, Ubuntu: apt-get install openssh-client)"
            raise DeviceError(f"no `{argv[0]}` on this machine", fix=fix) from err


_FALLBACK = re.compile(r"edgec-runner: note: the CPU runs it: (.*)")


class ExecutableRunner:
    """The bundle's runner, driven through files and JSON.

    Attributes:
        fallback_reason: Why a GPU model ran on the CPU, once it did.
    """

    def __init__(self, bundle: Bundle, transport: Transport, threads: int, cpus: Sequence[int] = ()) -> None:
        self.description = transport.description
        self.fallback_reason: str | None = None
        self.is_emulated = transport.is_emulated
        self._bundle = bundle
        self._transport = transport
        try:
            self._runner = transport.put(bundle.runner)
        except BaseException:
            transport.close()
            raise
        self._common = ["--threads", str(threads)]
        if cpus:
            self._common += ["--cpus", ",".join(map(str, cpus))]

    def run(self, samples: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        with temporary_folder("edgec-run-") as name:
            local_input, local_output = Path(name) / "inputs.bin", Path(name) / "outputs.bin"
            with local_input.open("wb") as file:
                for sample in samples:
                    for array in sample:
                        file.write(np.ascontiguousarray(array).tobytes())
            remote_output = self._transport.scratch(local_output.name)
            remote_input = self._transport.put(local_input)
            self._execute("run", "--input", remote_input, "--output", remote_output, "--samples", str(len(samples)))
            self._transport.get(remote_output, local_output)
            return self._split(local_output.read_bytes(), len(samples))

    def _split(self, data: bytes, samples: int) -> list[list[np.ndarray]]:
        results, offset = [], 0
        for _ in range(samples):
            arrays = []
            for info in self._bundle.outputs:
                count = int(np.prod(info.shape, dtype=np.int64))
                array = np.frombuffer(data, info.dtype, count, offset).reshape(info.shape)
                offset += array.nbytes
                arrays.append(array)
            results.append(arrays)
        return results

    def bench(self, *, warmup_ms: int, min_time_ms: int, max_runs: int) -> Timing:
        report = self._execute(
            "bench",
            "--warmup-ms",
            str(warmup_ms),
            "--min-time-ms",
            str(min_time_ms),
            "--min-runs",
            str(min(10, max_runs)),
            "--max-runs",
            str(max_runs),
        )
        return Timing(
            latencies_ms=tuple(report["latencies_ms"]),
            first_inference_ms=report["first_inference_ms"],
            load_ms=report["load_ms"],
            peak_rss_bytes=report["peak_rss_bytes"],
            threads=report["threads"],
            cpus=tuple(report["cpus"]),
        )

    def profile(self, runs: int) -> list[KernelTime]:
        return _kernel_times(self._execute("profile", "--runs", str(runs)))

    def profile_with_peak(self, runs: int, peak_ms: int) -> tuple[list[KernelTime], Peak]:
        report = self._execute("profile", "--runs", str(runs), "--peak-ms", str(peak_ms))
        return _kernel_times(report), Peak(**report["peak"])

    def _execute(self, verb: str, *arguments: str) -> dict[str, Any]:
        result = self._transport.execute([self._runner, verb, *arguments, *self._common])
        if result.returncode != 0:
            message = result.stderr.strip() or f"exit code {result.returncode}"
            raise DeviceError(
                f"the runner of {self._bundle.name} failed on {self.description}",
                where=message,
                fix=advice(self._bundle, message),
            )
        if (note := _FALLBACK.search(result.stderr)) is not None:
            self.description, self.fallback_reason = f"{self._transport.description}, on its CPU", note[1]
        return dict(json.loads(result.stdout)) if result.stdout.strip() else {}

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> ExecutableRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kernel_times(report: dict[str, Any]) -> list[KernelTime]:
    return [
        KernelTime(row["index"], row["name"], row["median_ns"] / 1e3, row["min_ns"] / 1e3) for row in report["kernels"]
    ]
