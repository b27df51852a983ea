"""The runner executable: its commands, its messages and its exit codes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.targets.runtime_build import (
    LIBRARY,
    MODEL,
    PARAMS,
    RUNNER,
    SHA256,
    SIZE,
    ZIG,
    X,
    cc,
    embed,
    expected,
    missing,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runtime is for Linux")

SAMPLE = X.tobytes() + bytes(4)
OUTPUT_BYTES = 4 * SIZE + 64 + 77


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    (folder / "params").write_bytes(PARAMS)
    return folder


@pytest.fixture(scope="module")
def runner(build: Path) -> Path:
    path = build / "runner"
    cc(*MODEL, *LIBRARY, *RUNNER, *embed(build / "params"), "-o", path)
    return path


@pytest.fixture(scope="module")
def bare_runner(build: Path) -> Path:
    """Without parameters."""
    path = build / "bare_runner"
    cc(*MODEL, *LIBRARY, *RUNNER, "-o", path)
    return path


def call(
    runner: Path, *arguments: object, stdin: bytes = b"", limit: Callable[[], None] | None = None
) -> tuple[int, bytes, str]:
    done = subprocess.run(
        [runner, *map(str, arguments)], input=stdin, capture_output=True, timeout=60, preexec_fn=limit
    )
    return done.returncode, done.stdout, done.stderr.decode()


def y_of(output: bytes, sample: int) -> np.ndarray:
    return np.frombuffer(output, np.float32, SIZE, sample * OUTPUT_BYTES)


def test_info(runner: Path) -> None:
    code, out, err = call(runner, "info")
    assert (code, err) == (0, "")
    info = json.loads(out)
    assert info["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [17, 59], "size_bytes": 4012},
        {"name": "mode", "dtype": "int32", "shape": [], "size_bytes": 4},
    ]
    assert [o["name"] for o in info["outputs"]] == ["y", 'counts "16"', "bytes"]
    assert (info["model"], info["abi_version"], info["params_sha256"]) == ("fake", 3, SHA256)
    assert (info["arena_size_bytes"], info["params_size_bytes"]) == (4140, 4076)
    assert info["kernels"] == ["fake_scale_add", "fake_count", "fake_reverse", "fake_obey"]
    assert info["cpu_features_required"] == []


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_run_files(runner: Path, tmp_path: Path, threads: int) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"".join((X + i).tobytes() + bytes(4) for i in range(5)))
    out.write_text("old")
    for samples in ([], ["--samples", 5]):
        assert call(runner, "run", "--input", source, "--output", out, "--threads", threads, *samples) == (0, b"", "")
        assert out.stat().st_size == 5 * OUTPUT_BYTES
        for i in range(5):
            np.testing.assert_array_equal(y_of(out.read_bytes(), i), expected(X + i))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_run_streams(runner: Path) -> None:
    stream = ("run", "--input", "-", "--output", "-")
    code, out, err = call(runner, *stream, stdin=SAMPLE * 3)
    assert (code, len(out), err) == (0, 3 * OUTPUT_BYTES, "")
    np.testing.assert_array_equal(y_of(out, 2), expected(X))
    assert len(call(runner, *stream, "--samples", 2, stdin=SAMPLE * 3)[1]) == 2 * OUTPUT_BYTES
    code, _, err = call(runner, *stream, stdin=SAMPLE + SAMPLE[:-1])
    assert (code, err) == (1, "edgec-runner: error: stdin: expected 4016 bytes for sample 1, got 4015\n")
    assert call(runner, *stream)[0] == 1
    assert call(runner, "run", "--input", "-", "--output", "/dev/null", stdin=SAMPLE) == (0, b"", "")
    assert Path("/dev/null").is_char_device()
    code, _, err = call(runner, "run", "--input", "-", "--output", "/dev/full", stdin=SAMPLE)
    assert (code, err[-50:]) == (1, " cannot write the output: No space left on device\n")


def test_run_refuses_wrong_input(runner: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    out.write_text("old")

    def refusal(content: bytes, *options: object) -> str:
        source.write_bytes(content)
        code, _, err = call(runner, "run", "--input", source, "--output", out, *options)
        assert (code, out.read_text()) == (1, "old")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
        return err.removeprefix(f"edgec-runner: error: {source}: ").strip()

    assert refusal(SAMPLE[:-1]) == "expected a multiple of 4016 bytes (one sample), the file has 4015"
    assert refusal(b"") == "expected a multiple of 4016 bytes (one sample), the file has 0"
    assert refusal(SAMPLE * 3, "--samples", 2) == "expected 8032 bytes (2 samples of 4016), the file has 12048"
    assert "more than a file can hold" in refusal(SAMPLE, "--samples", 2**63 - 1)
    code, _, err = call(runner, "run", "--input", tmp_path / "none", "--output", out)
    assert (code, err) == (
        1,
        f"edgec-runner: error: {tmp_path}/none: cannot open the input: No such file or directory\n",
    )
    assert "is a directory" in call(runner, "run", "--input", tmp_path, "--output", out)[2]
    source.write_bytes(SAMPLE)
    code, _, err = call(runner, "run", "--input", source, "--output", tmp_path / "none" / "out")
    assert (code, "cannot write the output: No such file or directory" in err) == (1, True)
    source.write_bytes(SAMPLE + X.tobytes() + b"\1\0\0\0")  # the second sample asks a kernel to fail
    code, _, err = call(runner, "run", "--input", source, "--output", out)
    assert (code, err) == (6, "edgec-runner: error: model 'fake': kernel 3 ('fake_obey') failed with code -1\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_bench_and_profile(runner: Path, tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    code, out, err = call(runner, "bench", "--warmup-ms", 1, "--min-time-ms", 5, "--min-runs", 3, "--cpus", cpu)
    assert (code, err) == (0, "")
    bench = json.loads(out)
    assert (bench["threads"], bench["cpus"], bench["clock"]) == (1, [cpu], "monotonic")
    assert bench["runs"] >= len(bench["latencies_ms"]) >= 3
    assert min(bench["latencies_ms"]) > 0 and bench["load_ms"] > 0 and bench["first_inference_ms"] > 0
    assert bench["peak_rss_bytes"] > 100_000

    exact = ("bench", "--warmup-ms", 0, "--min-time-ms", 0, "--min-runs", 7, "--threads", 2)
    assert len(json.loads(call(runner, *exact)[1])["latencies_ms"]) == 7
    capped = ("bench", "--warmup-ms", 0, "--min-time-ms", 60000, "--max-runs", 120000, "--threads", 1)
    bench = json.loads(call(runner, *capped)[1])
    assert (bench["runs"], bench["latency_stride"], len(bench["latencies_ms"])) == (120000, 2, 60000)

    source = tmp_path / "in"
    source.write_bytes(SAMPLE * 2)
    profile = json.loads(call(runner, "profile", "--input", source, "--runs", 9, "--threads", 1)[1])
    assert profile["runs"] == 9
    assert [k["name"] for k in profile["kernels"]] == ["fake_scale_add", "fake_count", "fake_reverse", "fake_obey"]
    assert [k["index"] for k in profile["kernels"]] == [0, 1, 2, 3]
    assert all(0 < k["min_ns"] <= k["median_ns"] for k in profile["kernels"])
    assert "peak" not in profile
    source.write_bytes(X.tobytes() + b"\1\0\0\0")
    for command in ("bench", "profile"):
        assert call(runner, command, "--input", source)[::2] == (
            6,
            "edgec-runner: error: model 'fake': kernel 3 ('fake_obey') failed with code -1\n",
        )


def test_peak(runner: Path) -> None:
    """The model asks for no CPU feature: 128 bits of multiply and add, on one CPU or two."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    peaks = [
        json.loads(call(runner, "profile", "--runs", 1, "--peak-ms", 60, "--cpus", ",".join(map(str, cpus[:n])))[1])[
            "peak"
        ]
        for n in range(1, len(cpus) + 1)
    ]
    for peak in peaks:
        assert peak["vector_bits"] == 128
        assert 0.2 < peak["gflops"] < 1000 and 0.1 < peak["bandwidth_gbs"] < 2000
        assert peak["buffer_bytes"] > peak["last_cache_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given"),
        (["fly"], "unknown command 'fly'; there are info, run, bench and profile"),
        (["--threads", "2", "run"], "unknown command '--threads'"),
        (["run"], "run needs --input FILE and --output FILE"),
        (["run", "--input"], "--input needs a value"),
        (["run", "--frobnicate"], "unknown option '--frobnicate' (see --help)"),
        (["run", "-x"], "unknown option '-x' (see --help)"),
        (["info", "--threads", "2"], "info has no option --threads"),
        (["bench", "--samples", "2"], "bench has no option --samples"),
        (["bench", "extra"], "unexpected argument 'extra'"),
        (["bench", "--input", ""], "--input: the name is empty"),
        (["bench", "--threads", "-3"], "--threads: '-3' is not a whole number from 1 to 256"),
        (["bench", "--threads", "0"], "--threads: '0' is not a whole number from 1 to 256"),
        (["bench", "--threads", "257"], "--threads: '257' is not"),
        (["bench", "--threads", "2x"], "--threads: '2x' is not"),
        (["bench", "--threads", ""], "--threads: '' is not"),
        (["bench", "--min-runs", "99999999999999999999"], "--min-runs: '99999999999999999999' is not"),
        (["bench", "--min-runs", "5", "--max-runs", "4"], "--min-runs is more than --max-runs"),
        (["bench", "--peak-ms", "5"], "bench has no option --peak-ms"),
        (["profile", "--runs", "0"], "--runs: '0' is not a whole number from 1 to 1000000"),
        (["bench", "--cpus", "3-1"], "--cpus: '3-1' is not a list of CPU numbers such as 4-7,2"),
        (["bench", "--cpus", "1,"], "--cpus: '1,' is not"),
        (["bench", "--cpus", "-1"], "--cpus: '-1' is not"),
        (["bench", "--cpus", "0-99999999999"], "--cpus: '0-99999999999' is not"),
        (["bench", "--cpus", "0-8191"], "--cpus: more than 256 CPUs"),
        (["bench", "--cpus", "0-3,2"], "--cpus: CPU 2 is listed twice"),
        (["bench", "--cpus", "0", "--threads", "2"], "--cpus lists 1 CPUs for 2 threads"),
    ],
)
def test_usage_errors(runner: Path, arguments: list[str], message: str) -> None:
    code, out, err = call(runner, *arguments)
    assert (code, out) == (2, b"")
    assert err.startswith(f"edgec-runner: error: {message}")


def test_help_and_version(runner: Path) -> None:
    assert call(runner, "--help")[:2] == call(runner, "bench", "--help")[:2]
    code, out, err = call(runner, "--help")
    assert (code, out[:20], err) == (0, b"usage: runner COMMAN", "")
    assert call(runner, "--version") == (0, b"edgec-runner 1.0 (ABI 3), model fake\n", "")
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run([runner, "info"], stdout=full, stderr=subprocess.DEVNULL).returncode == 1


def test_params_and_device_errors(runner: Path, bare_runner: Path, build: Path, tmp_path: Path) -> None:
    quick = ("bench", "--max-runs", 1, "--min-runs", 1, "--warmup-ms", 0)
    code, _, err = call(bare_runner, *quick)
    assert (code, "needs 4076 bytes of parameters and none are linked in" in err) == (1, True)
    assert call(bare_runner, *quick, "--params", build / "params")[0] == 0
    corrupt = tmp_path / "corrupt"
    corrupt.write_bytes(bytes(len(PARAMS)))
    code, _, err = call(runner, "run", "--input", "-", "--output", "-", "--params", corrupt, stdin=SAMPLE)
    assert (code, "are corrupt or another model's" in err) == (1, True)
    code, _, err = call(runner, *quick, "--cpus", 8191)
    assert (code, err) == (6, "edgec-runner: error: cannot pin worker 0 to CPU 8191: Invalid argument\n")

    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20))

    code, _, err = call(runner, *quick, "--threads", 256, limit=little_memory)
    assert code == 6
    assert err.startswith("edgec-runner: error: cannot create worker thread ")


def test_aarch64_runner_under_qemu(build: Path) -> None:
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        missing("qemu-aarch64 is not on PATH")
    if subprocess.run([*ZIG, "--version"], capture_output=True).returncode != 0:
        missing("ziglang is not installed")
    path, out = build / "runner-aarch64", build / "out-aarch64"
    arm = ['-DFAKE_FEATURE="asimddp"', "-target", "aarch64-linux-musl", "-static"]
    cc(*arm, *MODEL, *LIBRARY, *RUNNER, *embed(build / "params"), "-o", path, compiler=ZIG)
    (build / "in").write_bytes(SAMPLE)
    command = [path, "run", "--input", build / "in", "--output", out, "--threads", "2"]
    subprocess.run([qemu, "-cpu", "cortex-a76", *command], check=True, timeout=60)
    np.testing.assert_array_equal(np.frombuffer(out.read_bytes()[: 4 * SIZE], np.float32), expected(X))
    old = subprocess.run([qemu, "-cpu", "cortex-a57", *command], capture_output=True, text=True, timeout=60)
    assert old.returncode == 6
    assert "requires CPU feature 'asimddp', which this CPU or its operating system lacks" in old.stderr
