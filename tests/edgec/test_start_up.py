"""Importing edgec is cheap, and the verbs that compile nothing load no compiler."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import edgec

HEAVY = {"onnx", "onnx_ir", "onnxruntime", "torch", "tvm", "tvm_ffi"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules after ``code`` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('MODULES', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_import_loads_nothing_heavy() -> None:
    modules = loaded_by("import edgec")
    assert "edgec" in modules
    assert modules & (HEAVY | {"numpy", "click", "rich"}) == set()


def test_import_is_quick() -> None:
    """Less than 0.3 s with the interpreter's own start; the best of several, since the machine may be busy."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import edgec"], check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["targets"], ["compile", "--help"], ["doctor"]])
def test_verbs_that_compile_nothing_load_no_compiler(arguments: list[str]) -> None:
    call = f"try:\n    main({arguments})\nexcept SystemExit as stop:\n    assert stop.code == 0"
    code = f"from edgec.cli import main\n{call}"
    assert loaded_by(code) & {"onnxruntime", "torch", "tvm", "tvm_ffi"} == set()


def test_running_a_bundle_loads_no_compiler(native: object) -> None:
    code = f"import edgec\nb = edgec.load({str(native)!r})\nb.run({{n: a[0] for n, a in b.golden('inputs').items()}})"
    assert loaded_by(code) & HEAVY == set()


def test_every_public_name_resolves() -> None:
    assert sorted(edgec.__all__) == dir(edgec)
    for name in edgec.__all__:
        assert getattr(edgec, name) is not None, name
    with pytest.raises(AttributeError, match="module 'edgec' has no attribute 'compyle'"):
        edgec.compyle  # noqa: B018
