"""The model after every phase, as files to look into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from edgec.errors import EdgecError

__all__ = ["Dump"]


class Dump:
    """Writes the model after every phase where the user wants to see it; does nothing without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                raise EdgecError(f"cannot write the IR to {folder}", where=err.strerror) from err

    def graph(self, phase: str, model: ir.Model) -> None:
        if self._folder is not None:
            ir.save(model, self._next(phase, "onnx"))

    def text(self, phase: str, suffix: str, content: Callable[[], str]) -> None:
        if self._folder is not None:
            self._next(phase, suffix).write_text(content())

    def _next(self, phase: str, suffix: str) -> Path:
        assert self._folder is not None
        self._count += 1
        return self._folder / f"{self._count:02d}-{phase.replace(' ', '-')}.{suffix}"
