"""Where data sets lie, and what to say when they do not."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgec.errors import EdgecError

__all__ = ["damaged", "data_file", "data_root", "read_npz"]

VARIABLE = "EDGEC_DATA"
_DEFAULT = Path("../shared/data")


def data_root(folder: Path | None = None) -> Path:
    """The given folder, else the one that EDGEC_DATA names, else ../shared/data."""
    if folder is not None:
        return folder
    named = os.environ.get(VARIABLE)
    return Path(named) if named else _DEFAULT


def data_file(folder: Path | None, name: str, *, title: str, source: str) -> Path:
    """The path of a data file that must be there; nothing is ever downloaded.

    Args:
        folder: What the user named, None for the default.
        name: Path inside the folder, as ``fashion_mnist/train-images-idx3-ubyte.gz``.
        title: The data set's name, for the message.
        source: Where a user gets it, for the message.

    Raises:
        EdgecError: The file is not there.
    """
    root = data_root(folder)
    # A user may name the folder of the set itself.
    for path in (root / name, root / Path(name).name):
        if path.is_file():
            return path
    raise EdgecError(
        f"the data set {title} is not there",
        where=str(root / name),
        fix=f"get it ({source}) and name the folder that holds it with --data DIR or {VARIABLE}=DIR",
    )


def damaged(path: Path, reason: object) -> EdgecError:
    """The error for a file that is there and cannot be used."""
    return EdgecError(f"the data file {path.name} is damaged: {reason}", where=str(path), fix="fetch the file again")


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """The named arrays of an .npz file.

    Raises:
        EdgecError: It is no such file, or lacks one of them.
    """
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return [file[name] for name in names]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as err:
        raise damaged(path, err) from err
