"""The store of object files: whole entries or none, bounded, and never an error."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgec.targets import object_store
from edgec.targets.object_store import ObjectStore, open_store

KEYS = [f"{i:02x}" * 32 for i in range(10)]


def entry(store: ObjectStore, key: str) -> Path:
    return store.folder / key[:2] / key


def test_gives_back_what_it_got(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "deep" / "cache")
    assert store.read(KEYS[0]) is None
    assert (store.size_bytes(), store.has_grown) == (0, False)
    for key, content in zip(KEYS, (b"", b"\x7fELF", bytes(100_000)), strict=False):
        store.write(key, content)
        assert store.read(key) == content
        assert ObjectStore(store.folder).read(key) == content
    assert store.has_grown
    assert store.size_bytes() == sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"\0" + data[1:],
    ],
    ids=["empty", "header cut", "truncated", "longer", "bit flipped", "other format"],
)
def test_a_damaged_entry_is_none(damage: object, tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    store.write(KEYS[0], b"object file")
    path = entry(store, KEYS[0])
    path.write_bytes(damage(path.read_bytes()))
    assert store.read(KEYS[0]) is None
    assert not path.exists()
    store.write(KEYS[0], b"object file")
    assert store.read(KEYS[0]) == b"object file"


def test_an_entry_under_the_key_of_another_is_none(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    store.write(KEYS[0], b"first")
    store.write(KEYS[1], b"second")
    entry(store, KEYS[0]).replace(entry(store, KEYS[1]))
    assert store.read(KEYS[1]) is None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path, max_size_bytes=6000)
    for age, key in enumerate(KEYS):
        store.write(key, bytes(1000))
        os.utime(entry(store, key), (1000 + age, 1000 + age))
    assert store.read(KEYS[0]) is not None  # used now: the youngest
    store.trim()
    assert [key for key in KEYS if entry(store, key).exists()] == [KEYS[0], *KEYS[-4:]]
    assert store.size_bytes() <= 6000
    store.trim()
    assert store.size_bytes() > 5000, "a store that is small enough is left alone"


def test_what_interrupted_writers_left_is_removed(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    store.write(KEYS[0], b"content")
    old, new = (entry(store, KEYS[0]).with_name(f"{name}.part") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    store.trim()
    assert (old.exists(), new.exists()) == (False, True)  # the new one may be another process's, at work


@pytest.mark.parametrize("place", ["file", "inside a file", "read-only"])
def test_a_place_that_cannot_be_written_is_no_error(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    if place == "read-only":
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        folder.mkdir(mode=0o500)
    else:
        folder.write_bytes(b"")
    caplog.set_level(logging.DEBUG)
    store = ObjectStore(folder / "sub" if place == "inside a file" else folder)
    for key in KEYS:
        store.write(key, b"content")
        assert store.read(key) is None
    store.trim()
    assert (store.size_bytes(), store.has_grown) == (0, False)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert str(store.folder) in record.message


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(tmp_path)
    store.write(KEYS[0], b"content")

    def full(handle: int, mode: str) -> object:  # noqa: ARG001  as os.fdopen
        os.close(handle)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(object_store.os, "fdopen", full)
    store.write(KEYS[1], b"content")
    assert store.read(KEYS[1]) is None
    assert store.read(KEYS[0]) == b"content"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [KEYS[0]]


WORKER = """
import sys
from pathlib import Path
from edgec.targets.object_store import ObjectStore
store = ObjectStore(Path(sys.argv[1]), max_size_bytes=60_000)
found = 0
for turn in range(40):
    for i in range(10):
        key, content = f"{i:02x}" * 32, bytes([i]) * 20_000
        kept = store.read(key)
        assert kept in (None, content), key
        found += kept is not None
        store.write(key, content)
    store.trim()
print(found)
"""


def test_processes_share_it(tmp_path: Path) -> None:
    """Readers, writers and removers at once never see half an entry."""
    command = [sys.executable, "-W", "error", "-c", WORKER, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    found = 0
    for process in running:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        found += int(out)
    assert found > 0
    assert list(tmp_path.rglob("*.part")) == []
    assert ObjectStore(tmp_path).size_bytes() <= 60_000 + 10 * 20_100


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder() -> Path:
        store = open_store()
        assert store is not None
        return store.folder

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(tmp_path / "chosen"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder() == tmp_path / "chosen"
    monkeypatch.delenv("EDGEC_CACHE_DIR")
    assert folder() == tmp_path / "xdg" / "edgec"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folder() == tmp_path / ".cache" / "edgec"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder() == tmp_path / ".cache" / "edgec"

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(object_store.Path, "home", no_home)
    assert open_store() is None
