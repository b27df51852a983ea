"""Compiled bundles, shared by all tests of the session, and the command line as a function."""

from __future__ import annotations

import functools
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgec
from edgec.cli import main
from tests.conftest import REAL_MODELS
from tests.edgec.tiny import save_tiny


@dataclass(frozen=True)
class Result:
    """What one call of the command line left behind."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_edgec(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs ``edgec ARGUMENTS`` in this process. A traceback would come out as an exception and fail the test."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return Result(code, out, err)

    return run


def need_program(name: str, package: str) -> str:
    """Path of a program; without it the test is skipped, except on CI, where it must be there."""
    path = shutil.which(name)
    if path is not None:
        return path
    message = f"no {name} on PATH (Debian, Ubuntu: apt-get install {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def qemu_aarch64() -> str:
    return need_program("qemu-aarch64", "qemu-user")


@pytest.fixture(scope="session")
def qemu_x86_64() -> str:
    return need_program("qemu-x86_64", "qemu-user")


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two inputs and two outputs that compiles in two seconds."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny network compiled for a target, as a file."""
    folder = tmp_path_factory.mktemp("tiny_bundles")

    @functools.cache
    def build(target: str) -> Path:
        return edgec.compile(tiny_onnx, target=target).save(folder / f"{target}.edgec")

    return build


@pytest.fixture(scope="session")
def native(tiny_bundle: Callable[[str], Path]) -> Path:
    return tiny_bundle("native")


@pytest.fixture(scope="session")
def rk3588(tiny_bundle: Callable[[str], Path]) -> Path:
    return tiny_bundle("rk3588")


@pytest.fixture(scope="session")
def real_bundle(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A real model compiled for a target, as a file."""
    folder = tmp_path_factory.mktemp("real_bundles")

    @functools.cache
    def build(name: str, target: str) -> Path:
        path, shapes = REAL_MODELS[name]
        bundle = edgec.compile(data_dir / "models" / path, target=target, inputs=shapes or None, name=name)
        return bundle.save(folder / f"{name}-{target}.edgec")

    return build


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that temporary files go to; nothing may be left in it."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield folder
    gc.collect()  # a caught exception keeps the bundles of its frames
    assert [path.name for path in folder.iterdir()] == []
