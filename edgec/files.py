"""Files and folders that are whole or not there, also when the user interrupts."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgec.errors import EdgecError

__all__ = ["atomic_write", "check_writable", "folder_unless_failed", "temporary_folder"]


def temporary_folder(prefix: str = "edgec-") -> tempfile.TemporaryDirectory[str]:
    """A new folder that vanishes with the object.

    Between making a folder and noting that it has to go, ``tempfile`` has a moment in which an interrupt leaves it
    behind; here the interrupt waits.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return tempfile.TemporaryDirectory(prefix=prefix)  # nothing interrupts this thread
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix)
    finally:
        signal.signal(signal.SIGINT, before)
    if arrived:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            folder.cleanup()
            raise
    return folder


@contextmanager
def folder_unless_failed() -> Iterator[tempfile.TemporaryDirectory[str]]:
    """A temporary folder, which goes away when the block fails; else whoever has it then keeps it.

    Raises:
        EdgecError: It, or something in it, cannot be written.
    """
    folder = temporary_folder()
    try:
        yield folder
    except OSError as err:
        folder.cleanup()
        raise EdgecError(
            f"cannot write temporary files: {err.strerror}",
            where=err.filename or folder.name,
            fix="free some space, or set TMPDIR to a folder on another disk",
        ) from err
    except BaseException:
        folder.cleanup()
        raise


def check_writable(target: Path) -> None:
    """Find out before the work begins that its result cannot be written.

    Raises:
        EdgecError: The folder is missing, or is no place to write to.
    """
    if target.is_dir():
        raise EdgecError(f"cannot write {target}", where="it is a folder", fix="give the name of a file")
    if not target.parent.is_dir():
        raise EdgecError(f"cannot write {target}", where=f"no such folder: {target.parent}", fix="create it first")
    if not os.access(target.parent, os.W_OK):
        raise EdgecError(f"cannot write {target}", where=f"no permission in {target.parent}")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its name when the block succeeds and vanishes when it does not.

    Raises:
        EdgecError: The folder is missing or not writable, or the disk is full.
    """
    check_writable(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as err:
        raise EdgecError(
            f"cannot write {target}: {err.strerror}", fix="free some space or choose another place with -o"
        ) from err
    finally:
        temporary.unlink(missing_ok=True)
