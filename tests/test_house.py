"""The rules of the house: who imports whom, what is loaded when, what the wheel holds, that types are checked."""

from __future__ import annotations

import ast
import configparser
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edgec", "engine", "frontend", "models", "passes", "targets")

# Each package and the others it may import. edgec.errors and edgec.files, which imports only that, may be used by all.
ALLOWED = {
    "engine": set(),
    "models": {"engine"},
    "frontend": {"engine"},
    "passes": {"engine", "frontend"},
    "targets": set(),
    "edgec": {"engine", "frontend", "models", "passes", "targets"},
}


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    for path in python_files(package):
        for name in imported_modules(path):
            top, _, rest = name.partition(".")
            assert top not in PACKAGES[1:], f"{path}: imports {name}; write edgec.{name}"
            member = rest.partition(".")[0]
            if top != "edgec" or not member or package == "edgec":
                continue
            if member in ("errors", "files", package):
                continue
            assert member in ALLOWED[package], f"{path}: {package} must not import edgec.{member}"


def test_leaf_imports_nothing() -> None:
    names = imported_modules(ROOT / "edgec" / "errors.py")
    assert not {name for name in names if name.partition(".")[0] == "edgec"}


def test_wheel_has_every_file(tmp_path: Path) -> None:
    """A subpackage missing from setup.cfg works in a checkout and is silently absent from the wheel."""
    source = tmp_path / "source"  # a copy: an old build/ folder in the checkout would put its files into the wheel
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    result = subprocess.run([*command, "-w", str(tmp_path), str(source)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix in {".py", ".toml", ".c", ".h", ".cuh", ".json", ".npz", ".typed"}:
                relative = path.relative_to(ROOT).as_posix()
                if relative != "edgec/py.typed" and path.name == "py.typed" and path.parent != ROOT / package:
                    continue
                expected.add(relative if package == "edgec" else f"edgec/{relative}")
    assert "edgec/py.typed" in expected
    assert inside == expected


def test_every_package_is_listed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            name = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            found.add(name if package == "edgec" else f"edgec.{name}")
    assert listed == found


def test_checkout_imports_without_installation(tmp_path: Path) -> None:
    """The packages beside edgec/ are found through its __path__."""
    code = "import edgec.engine as e, edgec.models.digits as d; print(e.__file__); print(len(d.load_digits()[1]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-c", f"import sys; sys.path += {site_packages()!r}\n{code}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    file, count = result.stdout.split()
    assert Path(file) == ROOT / "engine" / "__init__.py"
    assert count == "599"


def site_packages() -> list[str]:
    return [entry for entry in sys.path if entry.endswith("site-packages")]


def test_start_up_is_light() -> None:
    """``import edgec`` loads no compiler and no peer."""
    code = "import sys, json, edgec; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(result.stdout))
    assert not loaded & {"tvm", "onnxruntime", "torch", "onnx", "onnx_ir", "numpy", "rich", "edgec.engine"}


def test_exports_resolve() -> None:
    import edgec

    for name in edgec.__all__:
        assert getattr(edgec, name) is not None
    assert set(edgec._EXPORTS) | set(edgec._PACKAGES) | {"__version__"} == set(edgec.__all__)
    assert edgec.__all__ == sorted(edgec.__all__)


@pytest.mark.skipif(sys.platform == "win32", reason="the tree of types is made of links")
def test_type_check_finds_a_planted_error(tmp_path: Path) -> None:
    """A wrong set-up of the type checker reports no error at all: plant one that it must find."""
    pytest.importorskip("mypy", reason="mypy is not installed: make lint installs it")
    tree = tmp_path / "edgec"
    tree.mkdir()
    for entry in (ROOT / "edgec").iterdir():
        (tree / entry.name).symlink_to(entry)
    for package in PACKAGES[1:]:
        (tree / package).symlink_to(ROOT / package)
    (tree / "planted.py").write_text(
        "from edgec.targets.instruction_sets import InstructionSet\n\n"
        "def width(of: InstructionSet) -> str:\n    return of.vector_bits\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-m", "edgec.planted"]
    env = {**os.environ, "MYPYPATH": str(tmp_path)}
    result = subprocess.run(
        [*command, "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"],
        capture_output=True, text=True, check=False, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert 'planted.py:4: error: Incompatible return value type (got "int"' in result.stdout
    assert "Found 1 error" in result.stdout, result.stdout
