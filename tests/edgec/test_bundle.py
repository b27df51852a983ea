"""The bundle as a file: what is in it, that it survives a round trip, and that it is always the same."""

from __future__ import annotations

import gc
import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.bundle import SCHEMA_VERSION
from edgec.errors import EdgecError
from tests.edgec.tiny import save_tiny, tiny_inputs


def read_manifest(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read("manifest.json")))


def test_manifest_says_what_the_bundle_is(native: Path) -> None:
    manifest = read_manifest(native)
    assert manifest["schema_version"] == SCHEMA_VERSION == 1
    assert (manifest["name"], manifest["edgec"]) == ("tiny", edgec.__version__)
    assert manifest["recipe"] == {"precision": "float32"}
    assert manifest["inputs"] == [
        {"name": "image", "shape": [1, 3, 8, 8], "dtype": "float32"},
        {"name": "shift", "shape": [1, 4, 8, 8], "dtype": "float32"},
    ]
    assert [row["name"] for row in manifest["outputs"]] == ["logits", "net/features"]
    assert {"name", "arch", "llvm_cpu", "cpu_features_required", "qemu_cpu"} <= manifest["target"].keys()
    assert {"apache-tvm", "ziglang", "onnx", "python"} <= manifest["toolchain"].keys()
    assert manifest["memory"]["arena_bytes"] >= manifest["memory"]["arena_bound_bytes"] > 0


def test_every_file_is_listed_with_its_hash(native: Path) -> None:
    files = read_manifest(native)["files"]
    with zipfile.ZipFile(native) as archive:
        assert set(archive.namelist()) == {"manifest.json", *files}
        for name, entry in files.items():
            data = archive.read(name)
            assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}, name
    assert set(files) == {
        "golden/inputs.npz", "golden/outputs.npz", "graph/model.onnx", "lib/edgec.h", "lib/libtiny.a",
        "lib/libtiny.so", "lib/model.c", "lib/tiny.h", "lib/tiny_runner", "params/params.bin", "reports/compile.json",
    }  # fmt: skip


def test_load_gives_what_was_saved(native: Path, tmp_path: Path) -> None:
    bundle = edgec.load(native)
    again = edgec.load(bundle.save(tmp_path / "again.edgec"))
    assert again.manifest == bundle.manifest
    assert (tmp_path / "again.edgec").read_bytes() == native.read_bytes()
    assert again.runner.stat().st_mode & stat.S_IXUSR
    assert again.deployed_bytes == again.runner.stat().st_size
    assert again.source == str(tmp_path / "again.edgec")
    inputs = tiny_inputs()
    for name, array in bundle.run(inputs).items():
        np.testing.assert_array_equal(again.run(inputs)[name], array)
    assert repr(again) == f"<Bundle tiny for native, float32, {tmp_path / 'again.edgec'}>"


def test_golden_outputs_are_the_engines(native: Path) -> None:
    bundle = edgec.load(native)
    inputs, outputs = bundle.golden("inputs"), bundle.golden("outputs")
    assert {name: array.shape for name, array in inputs.items()} == {"image": (3, 1, 3, 8, 8), "shift": (3, 1, 4, 8, 8)}
    model = edgec.frontend.import_model(bundle.graph)
    for i in range(3):
        reference = edgec.frontend.execute(model, {name: array[i] for name, array in inputs.items()})
        for name, array in outputs.items():
            np.testing.assert_array_equal(array[i], reference[name])


@pytest.mark.parametrize("target", ["native", "rk3588"])
def test_the_same_model_gives_the_same_bytes(
    target: str, tiny_bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another folder, another temporary folder with a longer name: no path may reach the artifact.
    scratch = tmp_path / "quite_another_temporary_folder_with_a_long_name"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    bundle = edgec.compile(save_tiny(tmp_path / "tiny.onnx"), target=target)
    again = bundle.save(tmp_path / "again.edgec")
    first = read_manifest(tiny_bundle(target))["files"]
    differing = [name for name, entry in read_manifest(again)["files"].items() if entry != first[name]]
    assert differing == []
    assert again.read_bytes() == tiny_bundle(target).read_bytes()
    assert bundle.phases_s.keys() >= {"build kernels", "link"}


def test_bundle_needs_neither_model_nor_file_nor_saving(tmp_path: Path) -> None:
    bundle = edgec.compile(save_tiny(tmp_path / "gone.onnx"))
    (tmp_path / "gone.onnx").unlink()
    assert bundle.name == "gone"
    assert bundle.source == "in memory"
    path = bundle.save(tmp_path / "gone.edgec")
    del bundle
    loaded = edgec.load(path)
    path.unlink()
    assert edgec.check(loaded)


@pytest.mark.usefixtures("scratch")
def test_a_dropped_bundle_leaves_nothing_behind(native: Path) -> None:
    bundle = edgec.load(native)
    folder = bundle.folder
    assert folder.is_dir()
    del bundle
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["default", "edgec", "int", "8 bits", "naïve-net"])
def test_any_model_name_makes_an_artifact(name: str, tmp_path: Path) -> None:
    """Also one that is a C keyword, or that the runtime uses itself."""
    bundle = edgec.compile(save_tiny(tmp_path / "tiny.onnx"), name=name)
    assert bundle.name.isidentifier()
    assert bundle.name.isascii()
    assert edgec.check(bundle)


@pytest.mark.parametrize("name", ["../escape", "/absolute", "lib/../../escape"])
def test_files_outside_the_folder_are_refused(name: str, native: Path, tmp_path: Path) -> None:
    from tests.edgec.tiny import rewrite

    path = rewrite(native, tmp_path / "evil.edgec", {name: b"evil"})
    with pytest.raises(EdgecError, match="is not an edgec bundle") as error:
        edgec.load(path)
    assert error.value.where == f"file name {name!r}"
    assert not list(tmp_path.parent.rglob("escape"))
