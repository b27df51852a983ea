"""A bundle that is damaged, or none at all, is refused with a reason; it never runs with other content."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgec
from edgec.errors import EdgecError
from tests.edgec.conftest import Result
from tests.edgec.tiny import rewrite

CORRUPTED = "is corrupted"


def assert_refused_or_unharmed(data: bytes, folder: Path, original: dict[str, bytes]) -> str:
    """Loads ``data`` as a bundle; returns the message if it is refused. Otherwise its files must be the original's."""
    path = folder / "damaged.edgec"
    path.write_bytes(data)
    try:
        bundle = edgec.load(path)
    except EdgecError as err:
        assert err.exit_code == 1
        assert CORRUPTED in err.what or "is not an edgec bundle" in err.what
        return err.what
    assert {name: (bundle.folder / name).read_bytes() for name in original} == original
    return ""


@pytest.fixture(scope="module")
def content(native: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(native) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("name", ["manifest.json", "lib/tiny_runner", "params/params.bin", "graph/model.onnx"])
def test_a_flipped_bit_in_a_stored_file_is_found(
    name: str, native: Path, tmp_path: Path, run_edgec: Callable[..., Result]
) -> None:
    data = bytearray(native.read_bytes())
    with zipfile.ZipFile(native) as archive:
        info = archive.getinfo(name)
    data[info.header_offset + 30 + len(name) + info.file_size // 2] ^= 1
    path = tmp_path / "damaged.edgec"
    path.write_bytes(data)
    for verb in ("inspect", "run", "check", "bench"):
        result = run_edgec(verb, path)
        assert result.code == 1
        assert result.stdout == ""
        assert f"edgec: error: {verb}: bundle damaged.edgec is corrupted" in result.stderr
        assert "fix:   the file is damaged: copy it again, or compile it again" in result.stderr


def test_a_wrong_hash_is_found(native: Path, tmp_path: Path) -> None:
    """The archive's own checksums are right here: only the manifest knows better."""
    other = rewrite(native, tmp_path / "other.edgec", {"lib/model.c": b"int main;"})
    with zipfile.ZipFile(native) as archive:
        original = archive.read("manifest.json")
    with zipfile.ZipFile(other) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "mixed.edgec", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, original if name == "manifest.json" else data)
    with pytest.raises(EdgecError, match=r"mixed\.edgec is corrupted: 'lib/model\.c' does not match its SHA-256"):
        edgec.load(tmp_path / "mixed.edgec")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere(
    position: float, bit: int, native: Path, content: dict[str, bytes], folder: Path
) -> None:
    data = bytearray(native.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    assert_refused_or_unharmed(bytes(data), folder, content)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_in_the_directory(
    data: st.DataObject, native: Path, content: dict[str, bytes], folder: Path
) -> None:
    """The last bytes hold the archive's directory: offsets, flags, methods, names. All of it may be wrong."""
    raw = bytearray(native.read_bytes())
    start = raw.index(b"PK\x01\x02")
    offset = data.draw(st.integers(start, len(raw) - 1))
    raw[offset] = data.draw(st.integers(0, 255).filter(lambda value: value != raw[offset]))
    assert_refused_or_unharmed(bytes(raw), folder, content)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(share: float, native: Path, content: dict[str, bytes], folder: Path) -> None:
    data = native.read_bytes()
    assert CORRUPTED in assert_refused_or_unharmed(data[: int(len(data) * share)], folder, content)


def test_a_file_without_its_end_or_beginning(native: Path, content: dict[str, bytes], folder: Path) -> None:
    data = native.read_bytes()
    for damaged in (data[:-1], data[1:], data[100:], data + b"more", data[:-22]):
        message = assert_refused_or_unharmed(damaged, folder, content)
        assert message == "" or CORRUPTED in message


def other_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    return buffer.getvalue()


STRANGERS = {
    "empty": b"",
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)) * 4,
    "text": b"edgec\n",
    "random": np.random.default_rng(0).bytes(5000),
    "archive": other_archive(),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_something_else(kind: str, tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    path = tmp_path / f"{kind}.edgec"
    path.write_bytes(STRANGERS[kind])
    result = run_edgec("inspect", path)
    assert result.code == 1
    assert result.stderr.startswith(f"edgec: error: inspect: {path} is not an edgec bundle\n")
    assert result.stdout == ""


def test_missing_file_and_folder(tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    for path in (tmp_path / "missing.edgec", tmp_path):
        result = run_edgec("check", path)
        assert result.code == 1
        assert f"no such bundle: {path}" in result.stderr
        assert "make one with `edgec compile MODEL --target T -o OUT.edgec`" in result.stderr


def test_a_newer_schema(native: Path, tmp_path: Path) -> None:
    path = rewrite(native, tmp_path / "new.edgec", {}, {"schema_version": 2, "edgec": "9.0"})
    with pytest.raises(EdgecError) as error:
        edgec.load(path)
    assert error.value.what == "bundle new.edgec has schema version 2; this edgec reads version 1"
    assert error.value.where == f"{path}, written by edgec 9.0"
    assert error.value.fix == "install the edgec that wrote it, or compile the model again"


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", "7", '{"schema_version": 1}', "{", '{"schema_version": 1, "files": 3}']
)
def test_a_manifest_that_says_something_else(manifest: str, tmp_path: Path) -> None:
    path = tmp_path / "other.edgec"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)
    with pytest.raises(EdgecError, match="is not an edgec bundle") as error:
        edgec.load(path)
    assert str(error.value.where).startswith("manifest.json: ")


def test_a_manifest_that_lists_files_without_hash(native: Path, tmp_path: Path) -> None:
    path = rewrite(native, tmp_path / "other.edgec", {}, {"files": {"lib/model.c": json.loads("{}")}})
    with pytest.raises(EdgecError, match="is not an edgec bundle") as error:
        edgec.load(path)
    assert "without their SHA-256" in str(error.value.where)
