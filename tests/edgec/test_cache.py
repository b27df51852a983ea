"""Compiling with the cache of kernels: what is built, what is not, and that nobody can tell the bundles apart."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tvm")

import edgec
from edgec.compiler import plan_model
from edgec.targets import kernel_cache
from edgec.targets.kernel_object import build_kernel
from edgec.targets.object_store import ObjectStore
from edgec.targets.profile import load_profile
from edgec.targets.schedules.choice import Choice, Site
from tests.edgec.conftest import Result


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, empty."""
    folder = tmp_path / "kernels"
    monkeypatch.setenv("EDGEC_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Symbols of the kernels that were compiled and not taken from the cache."""
    symbols: list[str] = []

    def build(function: object, symbol: str, profile: object) -> object:
        symbols.append(symbol)
        return build_kernel(function, symbol, profile)

    monkeypatch.setattr(kernel_cache, "build_kernel", build)
    return symbols


def convolutions(channels: Sequence[int], before: str = "") -> onnx.ModelProto:
    """A chain of 3×3 convolutions x -> y with these channels; with an operator before it if that is named.

    Dilated, so that each is one kernel: Winograd's has two.
    """
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    if before:
        nodes.append(helper.make_node(before, ["x"], ["before"], name="before"))
        nodes.append(helper.make_node("MaxPool", ["before"], ["pooled"], name="pool", kernel_shape=[1, 1]))
        value = "pooled"
    for i in range(len(channels) - 1):
        shape = (channels[i + 1], channels[i], 3, 3)
        weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{i}"))
        attributes = {"pads": [2, 2, 2, 2], "dilations": [2, 2]}
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], name=f"conv{i}", **attributes))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [value := f"r{i}"], name=f"relu{i}"))
    nodes[-1].output[0] = "y"
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, count, 6, 6))
        for name, count in (("x", channels[0]), ("y", channels[-1]))
    ]
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def compiled(model: onnx.ModelProto | Path, path: Path, cache: bool = True) -> bytes:
    return edgec.compile(model, target="x86-64-v3", name="m", cache=cache).save(path).read_bytes()


def test_a_hit_gives_the_same_bundle(cache: Path, built: list[str], tiny_onnx: Path, tmp_path: Path) -> None:
    first = compiled(tiny_onnx, tmp_path / "1.edgec")
    kernels = len(built)
    assert kernels >= 2
    assert compiled(tiny_onnx, tmp_path / "2.edgec") == first
    assert len(built) == kernels
    assert compiled(tiny_onnx, tmp_path / "3.edgec", cache=False) == first
    assert len(built) == 2 * kernels
    for path in cache.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-3])
    assert compiled(tiny_onnx, tmp_path / "4.edgec") == first
    assert len(built) == 3 * kernels


def test_no_cache(
    cache: Path, built: list[str], tiny_onnx: Path, tmp_path: Path, run_edgec: Callable[..., Result]
) -> None:
    arguments = ("compile", tiny_onnx, "-t", "x86-64-v3", "-o", tmp_path / "m.edgec")
    assert run_edgec(*arguments, "--no-cache").code == 0
    kernels = len(built)
    assert not cache.exists()
    assert str(cache) in run_edgec("doctor").stdout
    for total in (2 * kernels, 2 * kernels):
        assert run_edgec(*arguments).code == 0
        assert len(built) == total
    size_mib = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 2**20
    assert f"{cache}, {size_mib:.1f} MiB" in run_edgec("doctor").stdout


def test_a_cache_that_cannot_be_written_does_not_matter(cache: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    first = compiled(tiny_onnx, tmp_path / "1.edgec", cache=False)
    cache.write_bytes(b"a file in its place")
    assert compiled(tiny_onnx, tmp_path / "2.edgec") == first


def test_models_share_kernels(cache: Path, built: list[str], tmp_path: Path) -> None:  # noqa: ARG001
    """The same convolutions later in another model are neither built nor different, whatever their arguments' names."""
    compiled(convolutions([16, 16, 32]), tmp_path / "1.edgec")
    own = compiled(convolutions([16, 16, 32], before="Sqrt"), tmp_path / "2.edgec", cache=False)
    built.clear()
    assert compiled(convolutions([16, 16, 32], before="Sqrt"), tmp_path / "3.edgec") == own
    kernels = edgec.load(tmp_path / "3.edgec")
    driver = (kernels.folder / "lib" / "model.c").read_text()
    convolved = [line for line in driver.splitlines() if "/* " in line and "conv" in line]
    assert len(convolved) >= 2
    assert [symbol for symbol in built if any(symbol in line for line in convolved)] == []
    assert built, "the other kernels are new"


PROGRAM = """
#include <stdio.h>
#include "first.h"
#include "second.h"
int main(int argc, char **argv) {
    const edgec_model *const models[] = {&edgec_model_first, &edgec_model_second};
    for (int i = 0; i < 2; ++i) {
        const edgec_options options = {.struct_size = sizeof options, .params_path = argv[i + 1]};
        edgec_session *session;
        if (argc != 3 || edgec_create(models[i], &options, &session)) return 1;
        edgec_destroy(session);
        puts(models[i]->name);
    }
}
"""


def test_two_models_with_the_same_kernels_in_one_program(tiny_onnx: Path, tmp_path: Path) -> None:
    """Static libraries may hold the same function twice: the linker takes the first."""
    bundles = [edgec.compile(tiny_onnx, target="native", name=name) for name in ("first", "second")]
    (tmp_path / "main.c").write_text(PROGRAM)
    program = tmp_path / "main"
    files = [part for b in bundles for part in ("-I", b.library.parent, b.library.with_suffix(".a"))]
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.2.27"]
    command = [*zig, tmp_path / "main.c", *files, "-lm", "-lpthread", "-o", program]
    done = subprocess.run([str(part) for part in command], cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ran = subprocess.run([program, *(b.params for b in bundles)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "first\nsecond\n")


def test_work_grows_with_distinct_kernels(cache: Path, built: list[str], tmp_path: Path) -> None:
    """Twice the distinct kernels are twice the work, and repeated ones none."""
    channels = [16 * i for i in range(1, 10)]
    counts = []
    for model in (convolutions(channels[:5]), convolutions(channels), convolutions([16] * 20)):
        built.clear()
        shutil.rmtree(cache, ignore_errors=True)
        compiled(model, tmp_path / "m.edgec")
        assert len(set(built)) == len(built)
        counts.append(len(built))
    base, doubled, repeated = counts
    extra = base - 4  # layout changes at both ends
    assert 0 <= extra <= 2
    assert doubled == 8 + extra
    assert repeated <= 1 + extra


def a_kernel() -> object:
    plan, _ = plan_model(convolutions([16, 16]), "x86-64-v3", None, "m")
    return next(function for name, function in plan.kernels.items() if "conv" in name)


def test_what_a_key_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, profile = a_kernel(), load_profile("x86-64-v3")
    key = kernel_cache.kernel_key(kernel, profile)
    assert key == kernel_cache.kernel_key(kernel.with_attr("global_symbol", "renamed"), replace(profile, name="other"))
    others = [
        replace(profile, llvm_cpu="znver3"),
        replace(profile, llvm_attributes=("+sse4a",)),
        replace(profile, instruction_set=replace(profile.instruction_set, vector_registers=8)),
        load_profile("x86-64-v4"),
    ]
    keys = {kernel_cache.kernel_key(kernel, other) for other in others}
    keys.add(kernel_cache.kernel_key(kernel.with_attr("hint", 1), profile))
    sources = tmp_path / "targets"
    shutil.copytree(Path(str(resources.files("edgec.targets"))), sources)
    monkeypatch.setattr(kernel_cache.resources, "files", lambda _: sources)
    kernel_cache._compiler_version.cache_clear()
    assert kernel_cache.kernel_key(kernel, profile) == key
    for name in ("schedules/conv2d.py", "kernel_object.py"):
        source = sources / name
        source.write_text(source.read_text() + "\n# edited\n")
        kernel_cache._compiler_version.cache_clear()
        keys.add(kernel_cache.kernel_key(kernel, profile))
    kernel_cache._compiler_version.cache_clear()
    assert len(keys - {key}) == len(others) + 3


def test_another_choice_is_another_kernel(tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit asks for the choice again, about the same site, and schedules nothing."""
    kernel, profile, store = a_kernel(), load_profile("x86-64-v3"), ObjectStore(tmp_path)
    key = kernel_cache.kernel_key(kernel, profile)
    asked: list[Site] = []

    def last(site: Site) -> Choice:
        asked.append(site)
        return site.candidates[-1]

    default = kernel_cache.build(kernel, key, profile, store=store)
    tuned = kernel_cache.build(kernel, key, profile, last, store)
    assert tuned.symbol != default.symbol
    assert tuned.content != default.content
    assert built == [default.symbol, tuned.symbol]
    monkeypatch.setattr(kernel_cache, "schedules", None)
    assert kernel_cache.build(kernel, key, profile, store=store) == default
    assert kernel_cache.build(kernel, key, profile, last, store) == tuned
    assert len(set(map(repr, asked))) == 1
