"""Where results are written: not at all, or whole. Full disks, folders that are none, interrupts."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgec
from edgec.errors import EdgecError
from edgec.files import atomic_write, temporary_folder
from tests.edgec.conftest import Result

Edgec = Callable[..., Result]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs must find out before they begin."""

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    for name in ("compile", "load", "bench"):
        monkeypatch.setattr(edgec, name, begun)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", ["compile", "run", "bench"])
def test_a_place_that_cannot_be_written(verb: str, tmp_path: Path, run_edgec: Edgec) -> None:
    more = ["-t", "native"] if verb == "compile" else []
    (tmp_path / "file").touch()
    for output, where in (
        (tmp_path / "missing" / "m.edgec", f"no such folder: {tmp_path / 'missing'}"),
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "m.edgec", f"no such folder: {tmp_path / 'file'}"),
    ):
        result = run_edgec(verb, "model", "-o", output, *more)
        assert (result.code, result.stdout) == (1, "")
        assert f"edgec: error: {verb}: cannot write {output}\n  where: {where}" in result.stderr


@pytest.mark.usefixtures("no_work")
def test_a_folder_without_permission(tmp_path: Path, run_edgec: Edgec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the question itself is answered for it."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.chdir(tmp_path)
    result = run_edgec("compile", "model.onnx", "-t", "native", "-o", tmp_path / "m.edgec")
    assert result.code == 1
    assert f"where: no permission in {tmp_path}" in result.stderr
    # The default place, the working directory, is looked at as well.
    result = run_edgec("compile", "model.onnx", "-t", "native")
    assert result.code == 1
    assert "cannot write model.edgec" in result.stderr


def test_the_default_place(tiny_onnx: Path, tmp_path: Path, run_edgec: Edgec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_edgec("compile", tiny_onnx, "-t", "native", "--name", "my net")
    assert result.code == 0
    assert result.stdout.startswith("my_net.edgec: my_net for native, ")
    assert [path.name for path in tmp_path.iterdir()] == ["my_net.edgec"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root can make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(native: Path, small_disk: Path) -> None:
    target = small_disk / "m.edgec"
    target.write_bytes(b"what was there before")
    with pytest.raises(EdgecError) as error:
        edgec.load(native).save(target)
    assert error.value.exit_code == 1
    assert error.value.what == f"cannot write {target}: No space left on device"
    assert error.value.fix == "free some space or choose another place with -o"
    assert target.read_bytes() == b"what was there before"
    assert [path.name for path in small_disk.iterdir()] == ["m.edgec"]


def test_a_full_disk_for_temporary_files(
    native: Path, tiny_onnx: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading and compiling both say what to do."""
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(EdgecError) as error:
        edgec.load(native)
    assert error.value.what == f"cannot unpack {native}: No space left on device"
    assert error.value.fix == "free some space, or set TMPDIR to a folder on another disk"
    with pytest.raises(EdgecError) as error:
        edgec.compile(tiny_onnx)
    assert "zig" in error.value.what or "cannot write temporary files" in error.value.what
    assert "space" in str(error.value).replace("disk is not full", "space")
    assert list(small_disk.iterdir()) == []


def test_every_way_that_writing_can_fail(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bundle = edgec.load(native)
    for owner, name in ((zipfile.ZipFile, "writestr"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(EdgecError, match="No space left on device"):
                bundle.save(tmp_path / "m.edgec")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_atomic_write_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "m") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_making_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.mkdir

    def interrupted(path: str, *args: object, **options: object) -> None:
        original(path, *args, **options)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "mkdir", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        temporary_folder()
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("scratch")
def test_an_interrupt_while_saving(
    tiny_onnx: Path, tmp_path: Path, run_edgec: Edgec, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = zipfile.ZipFile.writestr
    written = []

    def interrupted(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        original(archive, info, data)
        written.append(info.filename)
        if info.filename.startswith("lib/"):
            raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupted)
    out = tmp_path / "out"
    out.mkdir()
    result = run_edgec("compile", tiny_onnx, "-t", "native", "-o", out / "m.edgec")
    assert written
    assert (result.code, result.stdout) == (130, "")
    assert result.stderr.strip() == "edgec: interrupted; nothing was written"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("everyone", [False, True], ids=["kill", "ctrl-c"])
@pytest.mark.parametrize("wait_for", ["graph", "build"])
def test_an_interrupt_while_building(wait_for: str, everyone: bool, tiny_onnx: Path, tmp_path: Path) -> None:
    """A terminal sends the signal to zig too; `kill` only to edgec. Either way it ends, with nothing left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgec", "compile", str(tiny_onnx), "-t", "native", "-o", str(tmp_path / "m.edgec")],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    patterns = {"graph": "edgec-*", "build": "edgec-*/lib/build/*"}
    deadline = time.monotonic() + 60
    while not list(scratch.glob(patterns[wait_for])) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "edgec: interrupted; nothing was written")
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert list(scratch.iterdir()) == []
