"""What benchmarks share: contenders that take turns, each in a process of its own that works when it is told to.

A conductor starts a `Contender`, which speaks first; each line on its stdin is a number of seconds to work for, and is
answered with what it measured in them. In the contender's process `answer` is the other end.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Contender", "answer", "resident_mib"]

_MARK = "\x02"
"""Begins an answer, because a library may print lines of its own."""


class Contender:
    """The conductor's end.

    Attributes:
        start: What the process said when it was ready.

    Raises:
        RuntimeError: The process ended; the message has its last words.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the process
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, env=environment)
        self.start = self._read()

    def work(self, seconds: float) -> dict[str, Any]:
        """Have it work for so long."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.communicate()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return dict(json.loads(line.removeprefix(_MARK)))
        self._log.seek(0)
        said = self._log.read()[-2000:].strip()
        self.close()
        raise RuntimeError(f"the process ended: {said}")


def answer(message: Mapping[str, object]) -> None:
    print(_MARK + json.dumps(message), flush=True)


def resident_mib(field: str) -> float:
    """Memory of this process in MiB: ``VmRSS`` now, ``VmHWM`` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status; memory is measured on Linux only")
