"""Files that are there whole or not at all, and the safetensors inside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.errors import StateDictError

__all__ = ["read_safetensors", "write_safetensors", "write_whole"]


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write to a temporary name beside `path` and rename it, so that an interrupted call leaves the old file."""
    import tempfile

    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the name must not arrive on the disk before the content
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_safetensors(
    path: str | os.PathLike[str], arrays: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    from safetensors.numpy import save

    # ascontiguousarray would give an array without axes one.
    content = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(path, save(content, None if metadata is None else dict(metadata)))


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata of a file.

    Raises:
        StateDictError: It is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as err:
        raise StateDictError(
            f"cannot read the state: {err}", where=str(path), fix="pass a file that edgec saved"
        ) from err
