"""The verbs that run a bundle: their results, their JSON, and input that does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgec
from tests.edgec.conftest import Result
from tests.edgec.tiny import tiny_inputs

Edgec = Callable[..., Result]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.npz"
    np.savez(path, **tiny_inputs())
    return path


def test_run_writes_the_outputs(native: Path, inputs: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    output = tmp_path / "outputs.npz"
    result = run_edgec("run", native, "--inputs", inputs, "-o", output)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == f"1 sample(s) on this process, outputs in {output}"
    expected = edgec.load(native).run(tiny_inputs())
    with np.load(output) as written:
        assert set(written.files) == {"logits", "net/features"}
        for name, array in expected.items():
            np.testing.assert_array_equal(written[name][0], array)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imag": 0, "image": None}, "the model has no input 'imag'; did you mean 'image'?"),
        ({"image": None}, "input 'image' is missing"),
        ({"image": np.zeros((1, 3, 8, 9), np.float32)}, "given float32 (1, 3, 8, 9), expected float32 (1, 3, 8, 8)"),
        ({"image": np.zeros((1, 3, 8, 8))}, "given float64 (1, 3, 8, 8), expected float32 (1, 3, 8, 8)"),
        ({"image": np.zeros((2, 1, 3, 8, 8), np.float32)}, "no or different numbers of samples"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_inputs_that_do_not_fit(
    verb: str, change: dict[str, np.ndarray | None], said: str, native: Path, tmp_path: Path, run_edgec: Edgec
) -> None:
    arrays = {name: array for name, array in {**tiny_inputs(), **change}.items() if array is not None}
    np.savez(tmp_path / "wrong.npz", **arrays)
    result = run_edgec(verb, native, "--inputs", tmp_path / "wrong.npz")
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"edgec: error: {verb}: ")
    assert said in result.stderr
    assert "fix:" in result.stderr


def test_files_that_hold_no_inputs(native: Path, inputs: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    missing, single, text, cut = (tmp_path / name for name in ("missing.npz", "one.npz", "text.npz", "cut.npz"))
    with single.open("wb") as file:
        np.save(file, np.zeros(3))
    text.write_text("image\n")
    cut.write_bytes(inputs.read_bytes()[:-100])
    archive = tmp_path / "archive.npz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("image.npy", b"no array")
    objects = tmp_path / "objects.npz"
    np.savez(objects, image=np.array([{}], object))
    result = run_edgec("run", native, "--inputs", missing)
    assert result.code == 1
    assert f"no such file: {missing}" in result.stderr
    for path in (single, text, cut, archive, objects):
        result = run_edgec("run", native, "--inputs", path)
        assert (result.code, result.stdout) == (1, ""), path
        assert f"{path} is not an .npz file" in result.stderr
        assert "write it with numpy.savez, keyed by input name" in result.stderr


def test_a_bundle_of_another_cpu(rk3588: Path, run_edgec: Edgec) -> None:
    for verb in ("run", "check", "bench"):
        result = run_edgec(verb, rk3588, "--device", "local")
        assert (result.code, result.stdout) == (6, "")
        assert "bundle tiny is for aarch64 CPUs; this machine is " in result.stderr
        assert "--device ssh://host, or emulated with --device qemu" in result.stderr


def test_no_emulator(rk3588: Path, run_edgec: Edgec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run_edgec("check", rk3588)
    assert result.code == 6
    assert "running rk3588 code on this machine needs qemu-aarch64" in result.stderr
    assert "apt-get install qemu-user" in result.stderr


def test_nonsense_devices_and_threads(native: Path, run_edgec: Edgec) -> None:
    for arguments, said in (
        (["--device", "moon"], "unknown device 'moon'\n  fix:   devices: inprocess, local, qemu, ssh://[user@]host"),
        (["--device", "ssh://"], "'' is no host"),
        (["--device", "ssh://-oProxyCommand=touch x"], "'-oProxyCommand=touch x' is no host"),
        (["--threads", "0"], "cannot run on 0 threads"),
        (["--threads", "-3", "--device", "local"], "cannot run on -3 threads"),
    ):
        result = run_edgec("run", native, *arguments)
        assert (result.code, result.stdout) == (2, "")
        assert said in result.stderr


def test_json_of_every_verb(tiny_onnx: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    def read(*arguments: object) -> dict[str, object]:
        result = run_edgec(*arguments, "--json")
        assert (result.code, result.stderr) == (0, "")
        return dict(json.loads(result.stdout))

    output = tmp_path / "tiny.edgec"
    compiled = read("compile", tiny_onnx, "-t", "native", "-o", output)
    assert (compiled["bundle"], compiled["name"]) == (str(output), "tiny")
    assert compiled["size_bytes"] == output.stat().st_size
    assert compiled["seconds"] == pytest.approx(sum(compiled["phases_s"].values()), abs=0.3)
    inspected = read("inspect", output)
    assert inspected["schema_version"] == 1
    assert inspected["compile"]["kernels"] >= 1
    ran = read("run", output)
    assert (ran["device"], ran["samples"]) == ("this process", 3)
    assert [row["name"] for row in ran["outputs"]] == ["logits", "net/features"]
    assert ran["outputs"][0]["shape"] == [3, 1, 5]
    checked = read("check", output)
    assert checked["passed"] is True
    assert all(row["elements"] > 0 for row in checked["outputs"])
    benched = read("bench", output, "--warmup-ms", 1, "--min-time-ms", 1)
    assert benched["runs"] == len(benched["latencies_ms"]) > 0
    listed = read("targets")
    assert {"native", "rk3588", "x86-64-v3", "jetson-orin", "jetson"} <= listed["supported"].keys()
    assert "riscv64" in listed["planned"]
    names = {row["name"]: row["ok"] for row in read("doctor")["checks"]}
    assert names["apache-tvm"] is names["ziglang"] is True
    assert "qemu-aarch64" in names


def test_a_failed_check_in_json_says_so_twice(native: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    from tests.edgec.tiny import rewrite

    bundle = edgec.load(native)
    path = rewrite(native, tmp_path / "zeros.edgec", {"params/params.bin": bytes(bundle.params.stat().st_size)})
    result = run_edgec("check", path, "--json")
    assert result.code == 4
    assert json.loads(result.stdout)["passed"] is False


def test_texts_for_people(native: Path, run_edgec: Edgec) -> None:
    inspected = run_edgec("inspect", native).stdout
    assert inspected.startswith("tiny: float32, schema 1\n")
    for part in ("image: float32 1x3x8x8", "net/features: float32 1x4x8x8", "lib/tiny_runner", "arena"):
        assert part in inspected
    listed = run_edgec("targets").stdout
    assert [line.split()[0] for line in listed.splitlines()[1:3]] == ["native", "aarch64"]
    assert "not yet" in listed
    assert "qemu-aarch64" in run_edgec("doctor").stdout
    for verb in ("compile", "run", "check", "bench", "inspect", "targets", "doctor"):
        assert f"Usage: edgec {verb}" in run_edgec(verb, "--help").stdout


def test_doctor_says_how_to_get_what_is_missing(run_edgec: Edgec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.cli.doctor._PACKAGES", (("nosuch", "nosuch", "testing", "pip install 'edgec[peers]'"),))
    (line,) = (line for line in run_edgec("doctor").stdout.splitlines() if line.startswith("nosuch"))
    assert "pip install 'edgec[peers]'" in line
    assert line.endswith("missing")


def test_a_reader_that_goes_away(native: Path) -> None:
    """`edgec inspect m.edgec | head -1`"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "edgec", "inspect", str(native)], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout(native: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgec", "inspect", str(native)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "edgec: error: No space left on device\n"
