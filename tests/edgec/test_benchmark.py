"""`edgec bench`: figures that fit together, raw numbers in a file, a limit that can be missed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.errors import UsageError
from tests.edgec.conftest import Result

Edgec = Callable[..., Result]
QUICK = ("--warmup-ms", "5", "--min-time-ms", "30")


def test_the_figures_fit_together(native: Path, tmp_path: Path) -> None:
    bundle = edgec.load(native)
    report = edgec.bench(bundle, warmup_ms=5, min_time_ms=50, threads=2)
    assert report.runs == len(report.latencies_ms) >= 10
    assert 0 < report.min_ms <= report.median_ms <= report.p90_ms <= report.p99_ms <= max(report.latencies_ms)
    assert report.min_ms == min(report.latencies_ms)
    assert report.median_ms == pytest.approx(np.median(report.latencies_ms))
    assert report.min_ms <= report.mean_ms <= max(report.latencies_ms)
    assert report.std_ms >= 0
    assert sum(report.latencies_ms) >= 50 / 2  # the clock itself takes its share of inferences of a microsecond
    assert report.first_inference_ms > 0
    assert report.load_ms > 0
    # A runner of some hundred kilobytes, and not the Python process that started it.
    assert 0.1 < report.peak_rss_mib < 20
    assert (report.threads, len(report.cpus)) == (2, 2)
    assert set(report.cpus) <= set(range(os.cpu_count() or 1))
    assert (report.bundle, report.target, report.precision) == ("tiny", "native", "float32")
    assert (report.device, report.is_emulated) == ("this machine", False)
    assert " CPUs, Linux " in report.machine
    assert report.kernels == ()
    saved = json.loads(report.save(tmp_path / "report.json").read_text())
    assert saved == json.loads(json.dumps(report.to_dict()))
    assert str(report).startswith("tiny (native, float32) on this machine, 2 thread(s): median ")


def test_max_runs_ends_it(native: Path) -> None:
    report = edgec.bench(edgec.load(native), warmup_ms=0, min_time_ms=10_000, max_runs=3)
    assert report.runs == 3


def test_the_profile_lists_every_step(native: Path) -> None:
    bundle = edgec.load(native)
    report = edgec.bench(bundle, warmup_ms=1, min_time_ms=10, profile_runs=5)
    steps = json.loads((bundle.folder / "reports" / "compile.json").read_text())["steps"]
    assert [kernel.index for kernel in report.kernels] == list(range(steps))
    driver = (bundle.folder / "lib" / "model.c").read_text()
    assert report.peak is not None
    for kernel in report.kernels:
        assert f'"{kernel.name}"' in driver
        assert 0 <= kernel.min_us <= kernel.median_us
        assert kernel.flops is not None and kernel.bytes is not None and kernel.bound_us is not None
        times = {
            "compute": kernel.flops / (report.peak.gflops * 1e3),
            "memory": kernel.bytes / (report.peak.bandwidth_gbs * 1e3),
        }
        assert kernel.bound_by == max(times, key=lambda name: times[name])
        assert kernel.bound_us == pytest.approx(max(times.values()))
        assert kernel.gflops == pytest.approx(kernel.flops / (kernel.median_us * 1e3))
        assert kernel.peak_share == pytest.approx(kernel.gflops / report.peak.gflops)
    assert sum(kernel.flops or 0 for kernel in report.kernels) >= 2 * 4 * 27 * 64 + 2 * 5 * 256  # the Conv, the Gemm


def test_a_bundle_that_does_not_state_its_work(native: Path) -> None:
    """One made before work was counted: times only."""
    bundle = edgec.load(native)
    report = bundle.folder / "reports" / "compile.json"
    report.write_text(json.dumps({key: row for key, row in json.loads(report.read_text()).items() if key != "work"}))
    (first, *_) = edgec.bench(bundle, warmup_ms=1, min_time_ms=10, profile_runs=2).kernels
    assert first.median_us > 0
    assert (first.flops, first.gflops, first.bound_us) == (None, None, None)


def test_the_table_for_people(native: Path, run_edgec: Edgec) -> None:
    result = run_edgec("bench", native, "--profile", *QUICK)
    assert (result.code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny (native, float32) on this machine"
    assert "thread(s) on CPU" in lines[1]
    assert "median ms" in lines[2]
    assert lines[4].startswith("peak: ")
    assert "-bit vectors" in lines[4] and "times the last cache" in lines[4]
    assert lines[5].split()[:2] == ["kernel", "step"]
    assert all(column in lines[5] for column in ("Mflop", "KiB", "Gflop/s", "of peak", "bound µs", "bound by"))
    shares = [float(line.split()[4].rstrip("%")) for line in lines[6:]]
    assert sum(shares[:-1]) == pytest.approx(100, abs=1)
    assert shares[:-1] == sorted(shares[:-1], reverse=True)
    assert lines[-1].split()[0] == "total"
    assert shares[-1] == 100


def test_the_report_in_a_file(native: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    path = tmp_path / "report.json"
    result = run_edgec("bench", native, "-o", path, "--json", *QUICK)
    assert result.code == 0
    assert json.loads(path.read_text()) == json.loads(result.stdout)


def test_slower_than_allowed(native: Path, run_edgec: Edgec) -> None:
    result = run_edgec("bench", native, "--max-median-ms", "0.0000001", *QUICK)
    assert result.code == 5
    assert result.stdout.startswith("tiny (native, float32)")
    assert result.stderr.startswith("edgec: error: bench: median latency is ")
    assert result.stderr.rstrip().endswith(" ms, allowed are 1e-07 ms")
    assert run_edgec("bench", native, "--max-median-ms", "100000", *QUICK).code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--warmup-ms", "-1"], "times of at least 0 ms and at least one run"),
        (["--min-time-ms", "-5"], "times of at least 0 ms and at least one run"),
        (["--max-runs", "0"], "times of at least 0 ms and at least one run"),
        (["--max-median-ms", "0"], "--max-median-ms 0 allows nothing"),
        (["--max-median-ms", "nan"], "--max-median-ms nan allows nothing"),
        (["--threads", "0"], "cannot run on 0 threads"),
        (["--device", "inprocess"], "timing needs a process of its own"),
        (["--cpus", "4-2"], "cannot read the CPU list '4-2'"),
        (["--cpus", "two"], "cannot read the CPU list 'two'"),
    ],
)
def test_nonsense(options: list[str], said: str, native: Path, run_edgec: Edgec) -> None:
    result = run_edgec("bench", native, *options)
    assert (result.code, result.stdout) == (2, "")
    assert said in result.stderr


def test_pinning(native: Path, run_edgec: Edgec) -> None:
    cpu = max(os.sched_getaffinity(0))
    report = edgec.bench(edgec.load(native), cpus=[cpu], warmup_ms=1, min_time_ms=5)
    assert report.cpus == (cpu,)
    result = run_edgec("bench", native, "--cpus", "1000", *QUICK)
    assert result.code in (1, 6)
    assert "edgec: error: bench: the runner of tiny failed on this machine" in result.stderr


@pytest.mark.usefixtures("qemu_aarch64")
def test_an_emulated_benchmark_says_so(rk3588: Path, run_edgec: Edgec) -> None:
    result = run_edgec("bench", rk3588, *QUICK)
    assert result.code == 0
    assert "The CPU is emulated: these times say nothing about the board." in result.stdout
    report = edgec.bench(edgec.load(rk3588), warmup_ms=1, min_time_ms=5, profile_runs=1)
    assert report.is_emulated
    assert report.peak is None
    assert all(
        kernel.flops is not None and kernel.gflops is None and kernel.bound_us is None for kernel in report.kernels
    )
    said = run_edgec("bench", rk3588, "--profile", *QUICK).stdout
    assert "Mflop" in said
    assert "No peak is measured on an emulated CPU: shares of it would mean nothing." in said
    assert "of peak" not in said and "Gflop/s" not in said
    assert report.machine == "QEMU cortex-a76"
    assert "(emulated: says nothing about the board)" in str(report)


def test_a_report_that_cannot_be_timed(native: Path) -> None:
    with pytest.raises(UsageError):
        edgec.bench(edgec.load(native), max_runs=0)
