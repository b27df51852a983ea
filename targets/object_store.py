"""Files kept by the hash of what they were made from, so that the same kernel is not compiled twice on a machine.

An entry is a file of its own, ``FOLDER/ab/abcd...``: 8 bytes that name the format, the SHA-256 of key and content,
the content. A store never fails: what it cannot read or write is made anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MAX_SIZE_BYTES", "ObjectStore", "open_store"]

MAX_SIZE_BYTES = 512 * 2**20
"""Size that a store is cut back to, the least recently used entries first: some 50,000 kernels."""

_MAGIC = b"edgecob1"
_HEADER_BYTES = len(_MAGIC) + hashlib.sha256().digest_size
_TEMPORARY = ".part"
_ABANDONED_AFTER_S = 3600
_LOGGER = logging.getLogger(__name__)


class ObjectStore:
    """Content by key, shared by all processes of a user.

    Args:
        folder: Where the entries lie; made when the first is written.
        max_size_bytes: What :meth:`trim` leaves at most.

    Attributes:
        has_grown: Whether anything was written.
    """

    def __init__(self, folder: Path, max_size_bytes: int = MAX_SIZE_BYTES) -> None:
        self.folder = folder
        self._max_size_bytes = max_size_bytes
        self._is_silent = False
        self.has_grown = False

    def read(self, key: str) -> bytes | None:
        """The content of an entry; None where there is none, or a damaged one, which is removed."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            self._note(err)
            return None
        content = data[_HEADER_BYTES:]
        if data[:_HEADER_BYTES] != _header(key, content):
            self._remove(path)
            return None
        try:
            os.utime(path)  # used now
        except OSError as err:
            self._note(err)
        return content

    def write(self, key: str, content: bytes) -> None:
        """Keep ``content``; other processes see all of it or nothing."""
        path = self._path(key)
        try:
            # What lies here is linked into programs: nobody else may write to it.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(suffix=_TEMPORARY, dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_header(key, content) + content)
                Path(name).replace(path)
                self.has_grown = True
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as err:
            self._note(err)

    def trim(self) -> None:
        """Remove the least recently used entries beyond the size allowed, and what interrupted writers left."""
        entries = []
        now = time.time()
        for entry, status in self._entries():
            if entry.suffix == _TEMPORARY:
                if now - status.st_mtime > _ABANDONED_AFTER_S:
                    self._remove(entry)
            else:
                entries.append((status.st_mtime_ns, status.st_size, entry))
        size = sum(entry[1] for entry in entries)
        if size <= self._max_size_bytes:
            return
        for _, size_bytes, path in sorted(entries):
            if size <= self._max_size_bytes * 9 // 10:  # room for a while
                break
            self._remove(path)
            size -= size_bytes

    def size_bytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(status.st_size for _, status in self._entries())

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        """The store's own files; those that vanish meanwhile, by another process, are left out."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            try:
                yield path, path.stat()
            except OSError:
                continue

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            self._note(err)

    def _note(self, err: OSError) -> None:
        """Say once why the store is of no use."""
        if not self._is_silent:
            self._is_silent = True
            _LOGGER.debug("the cache at %s is not usable: %s", self.folder, err)


def _header(key: str, content: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(key.encode() + content).digest()


def open_store() -> ObjectStore | None:
    """The store of this user; None without a home folder.

    It lies in ``EDGEC_CACHE_DIR``, else in ``XDG_CACHE_HOME/edgec``, else in ``~/.cache/edgec``.
    """
    if chosen := os.environ.get("EDGEC_CACHE_DIR"):
        return ObjectStore(Path(chosen).absolute())
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: relative paths are to be ignored
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return ObjectStore(base / "edgec")
