"""The places where an artifact runs give the same results, and say what is wrong when they cannot."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.devices import executable, open_process, open_runner
from edgec.devices.executable import LocalTransport
from edgec.errors import DeviceError, EdgecError
from tests.edgec.conftest import Result
from tests.edgec.tiny import rewrite, tiny_inputs, tiny_model

FAKE_SSH = """#!/bin/sh
# A board that is this machine: options, host, command.
while [ "$1" = -o ]; do shift 2; done
[ "$1" = pi@board ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
TMPDIR="$BOARD" exec sh -c "$*"
"""
FAKE_SCP = """#!/bin/sh
while [ "$1" = -q ] || [ "$1" = -o ]; do [ "$1" = -q ] && shift || shift 2; done
[ -z "$SCP_FAILS" ] || { echo "scp: write remote: No space left on device" >&2; exit 1; }
exec cp "${1#pi@board:}" "${2#pi@board:}"
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the board that `ssh` reaches keeps its temporary files; here every path has a space."""
    programs, folder = tmp_path / "my programs", tmp_path / "board"
    programs.mkdir()
    folder.mkdir()
    for name, script in (("ssh", FAKE_SSH), ("scp", FAKE_SCP)):
        (programs / name).write_text(script)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BOARD", str(folder))
    local = tmp_path / "my temporary files"
    local.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(local))
    return folder


def test_a_board_over_ssh(board: Path, native: Path) -> None:
    bundle = edgec.load(native)
    here = bundle.run(tiny_inputs(), device="local")
    there = bundle.run(tiny_inputs(), device="ssh://pi@board")
    for name, array in here.items():
        np.testing.assert_array_equal(there[name], array)
    assert list(board.iterdir()) == []
    report = edgec.check(bundle, device="ssh://pi@board")
    assert report
    assert report.device == "ssh://pi@board"
    timing = edgec.bench(bundle, device="ssh://pi@board", warmup_ms=1, min_time_ms=1)
    assert (timing.device, timing.machine, timing.is_emulated) == ("ssh://pi@board", "ssh://pi@board", False)
    assert list(board.iterdir()) == []


def test_tuning_on_a_board(board: Path, tmp_path: Path) -> None:
    """Kernels are timed there, and their records do not tell the board's name."""
    pytest.importorskip("tvm")
    records = tmp_path / "records.json"
    report = edgec.tune(tiny_model(), records=records, device="ssh://pi@board", threads=2)
    assert report.device == "ssh://pi@board"
    assert (len(report.kernels), report.untried, report.wrong) == (1, 0, ())
    assert "board over SSH" in records.read_text()
    assert "pi@board" not in records.read_text()
    assert list(board.iterdir()) == []


@pytest.mark.usefixtures("board")
def test_a_host_that_cannot_be_reached(native: Path, run_edgec: Callable[..., Result]) -> None:
    result = run_edgec("check", native, "--device", "ssh://elsewhere")
    assert (result.code, result.stdout) == (6, "")
    assert result.stderr == (
        "edgec: error: check: cannot reach elsewhere over SSH\n"
        "  where: ssh: Could not resolve hostname elsewhere\n"
        "  fix:   `ssh elsewhere true` must work without a password\n"
    )


def test_a_copy_that_fails_leaves_nothing_on_the_board(
    board: Path, native: Path, run_edgec: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCP_FAILS", "1")
    result = run_edgec("run", native, "--device", "ssh://pi@board")
    assert result.code == 6
    assert "cannot copy " in result.stderr
    assert "where: scp: write remote: No space left on device" in result.stderr
    assert list(board.iterdir()) == []


def test_no_ssh_at_all(native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="no `ssh` on this machine") as error:
        edgec.load(native).run(tiny_inputs(), device="ssh://pi@board")
    assert "openssh-client" in str(error.value.fix)


def test_no_scp(board: Path, native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (board.parent / "my programs" / "scp").unlink()
    real = executable.subprocess.run

    def run(argv: list[str], **options: object) -> object:
        if argv[0] == "scp":
            raise FileNotFoundError(2, "No such file or directory", "scp")
        return real(argv, **options)

    monkeypatch.setattr(executable.subprocess, "run", run)
    with pytest.raises(DeviceError, match="no `scp` on this machine"):
        edgec.load(native).run(tiny_inputs(), device="ssh://pi@board")
    assert list(board.iterdir()) == []


@pytest.mark.parametrize("device", ["inprocess", "local"])
def test_threads_do_not_change_the_result(device: str, native: Path) -> None:
    bundle = edgec.load(native)
    one, two, three = (bundle.run(tiny_inputs(), device=device, threads=n) for n in (1, 2, 3))
    for name, array in one.items():
        np.testing.assert_array_equal(two[name], array)
        np.testing.assert_array_equal(three[name], array)


def test_devices_agree(native: Path) -> None:
    """The shared library and the runner are linked with other C libraries; their kernels are the same."""
    bundle = edgec.load(native)
    inprocess, local = (bundle.run(tiny_inputs(), device=device) for device in ("inprocess", "local"))
    for name, array in inprocess.items():
        np.testing.assert_allclose(local[name], array, rtol=1e-6, atol=1e-6)


def test_many_samples_in_one_process(native: Path) -> None:
    bundle = edgec.load(native)
    samples = [[tiny_inputs(seed)[info.name] for info in bundle.inputs] for seed in range(20)]
    with open_process(bundle) as runner:
        results = runner.run(samples)
    for sample, result in zip(samples, results, strict=True):
        for array, expected in zip(result, bundle.run(sample, device="local").values(), strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.usefixtures("qemu_aarch64")
def test_qemu_runs_what_this_machine_cannot(rk3588: Path, native: Path) -> None:
    bundle = edgec.load(rk3588)
    with open_runner(bundle) as runner:
        assert runner.description == "QEMU cortex-a76"
        assert runner.is_emulated
    emulated = bundle.run(tiny_inputs(), threads=2)
    for name, array in edgec.load(native).run(tiny_inputs()).items():
        np.testing.assert_allclose(emulated[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("qemu_aarch64")
def test_a_cpu_that_is_too_old(rk3588: Path, tmp_path: Path) -> None:
    """Code for the A76 on an A53, which has no dot product: a sentence, not SIGILL."""
    bundle = edgec.load(rk3588)
    target = {**dict(bundle.manifest["target"]), "qemu_cpu": "cortex-a53"}
    with pytest.raises(DeviceError) as error:
        edgec.load(rewrite(rk3588, tmp_path / "old.edgec", {}, {"target": target})).run(tiny_inputs())
    assert error.value.exit_code == 6
    assert "model 'tiny' requires CPU feature 'asimd" in str(error.value.where)
    assert "which this CPU or its operating system lacks" in str(error.value.where)


def test_an_x86_cpu_that_is_too_old(
    qemu_x86_64: str, tiny_bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = edgec.load(tiny_bundle("x86-64-v4"))
    transport = LocalTransport([qemu_x86_64, "-cpu", "Nehalem"], "QEMU Nehalem")
    monkeypatch.setattr("edgec.devices.selection.LocalTransport", lambda: transport)
    with pytest.raises(DeviceError) as error:
        bundle.run(tiny_inputs(), device="local")
    assert error.value.what == "the runner of tiny failed on QEMU Nehalem"
    assert "model 'tiny' requires CPU feature '" in str(error.value.where)
    assert "compile the model for an older target" in str(error.value.where)


@pytest.mark.parametrize(
    ("instruction", "cpu", "is_legal"),
    [
        ("vaddps %ymm0, %ymm0, %ymm0", "Nehalem", False),
        ("vaddps %ymm0, %ymm0, %ymm0", "Haswell", True),
        ("vaddps %zmm0, %zmm0, %zmm0", "Haswell", False),
    ],
)
def test_the_emulator_refuses_what_a_cpu_lacks(
    instruction: str, cpu: str, is_legal: bool, qemu_x86_64: str, tmp_path: Path
) -> None:
    """Otherwise code for x86-64-v2 and -v3 that passes there could still need more."""
    leave = "mov $60, %eax; xor %edi, %edi; syscall"
    (tmp_path / "main.c").write_text(f'void _start(void) {{ __asm__ volatile("{instruction}; {leave}"); }}')
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-none", "-nostdlib", "-static"]
    subprocess.run([*zig, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    command = [qemu_x86_64, "-cpu", cpu, str(tmp_path / "main")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == (0 if is_legal else -signal.SIGILL)


def test_a_library_of_another_cpu_or_none(native: Path, rk3588: Path, tmp_path: Path) -> None:
    """A manifest that lies about its library is found out when the library is loaded."""
    foreign = edgec.load(rk3588).library
    broken = rewrite(native, tmp_path / "broken.edgec", {"lib/libtiny.so": b"\x7fELF no library"})
    assert foreign.name == "libtiny.so"
    with pytest.raises(DeviceError, match="this machine cannot load the library of tiny"):
        edgec.load(broken).run(tiny_inputs())
    text = rewrite(native, tmp_path / "text.edgec", {"lib/tiny_runner": b"no program"})
    with pytest.raises(DeviceError, match=r"cannot execute .*tiny_runner: Exec format error"):
        edgec.load(text).run(tiny_inputs(), device="local")


def test_run_takes_names_or_an_order(native: Path) -> None:
    bundle = edgec.load(native)
    by_name = bundle.run(tiny_inputs())
    by_order = bundle.run([tiny_inputs()[info.name] for info in bundle.inputs])
    assert list(by_name) == ["logits", "net/features"]
    for name, array in by_name.items():
        np.testing.assert_array_equal(by_order[name], array)
    with pytest.raises(EdgecError, match="the model has no input 'imagee'; did you mean 'image'"):
        bundle.run({"imagee": tiny_inputs()["image"]})
