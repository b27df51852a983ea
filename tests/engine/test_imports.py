"""What the engine may import, and what it must not load at start-up."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgec.engine

SOURCES = sorted(Path(edgec.engine.__file__).parent.rglob("*.py"))
ALLOWED = {"numpy", "ml_dtypes", "safetensors"} | set(sys.stdlib_module_names)


def imported_names(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_engine_knows_none_of_the_other_packages(source: Path) -> None:
    for name in imported_names(source):
        if name.split(".")[0] == "edgec":
            assert name == "edgec.errors" or name.startswith("edgec.engine"), f"{source} imports {name}"
        else:
            assert name.split(".")[0] in ALLOWED, f"{source} imports {name}"


def test_importing_the_engine_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgec.engine;"
        "print([m for m in ('onnx', 'onnx_ir', 'onnxruntime', 'tvm', 'ml_dtypes', 'safetensors', 'numpy.random')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
