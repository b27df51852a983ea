"""How fast is the artifact? Warm-up, repetition for a set time, percentiles, and what machine it was."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import edgec
from edgec.bundle import Bundle
from edgec.devices import Peak, ProcessRunner, open_process
from edgec.errors import DeviceError, UsageError
from edgec.files import atomic_write
from edgec.roofline import KernelReport, kernel_reports

__all__ = ["BenchReport", "bench", "machine"]

_PEAK_MS = 400
"""How long the machine's peak is looked for; half of it in the CPU, half in memory."""


@dataclass(frozen=True)
class BenchReport:
    """Latency of one inference, as measured in a process of its own.

    Attributes:
        min_ms: Fastest inference; the percentiles are of all inferences after the warm-up.
        first_inference_ms: The cold one, with caches and pages untouched.
        load_ms: From nothing to a session that can run.
        peak_rss_mib: Highest resident memory of the process, in MiB.
        cpus: CPU on which each worker was seen.
        is_emulated: The CPU is emulated: the times say nothing about the board.
        latencies_ms: Every single measurement, in order.
        kernels: Time and work of every kernel of the plan, where a profile was asked for.
        peak: What the machine can do at best, measured beside the profile; None where there is none, and where the
            CPU is emulated, of which a share would say nothing.
    """

    bundle: str
    target: str
    precision: str
    device: str
    is_emulated: bool
    machine: str
    threads: int
    cpus: tuple[int, ...]
    runs: int
    warmup_ms: int
    min_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    std_ms: float
    first_inference_ms: float
    load_ms: float
    peak_rss_mib: float
    edgec_version: str
    latencies_ms: tuple[float, ...]
    kernels: tuple[KernelReport, ...] = ()
    peak: Peak | None = None

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready values."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON."""
        with atomic_write(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return Path(path)

    def __str__(self) -> str:
        note = " (emulated: says nothing about the board)" if self.is_emulated else ""
        return (
            f"{self.bundle} ({self.target}, {self.precision}) on {self.device}{note}, {self.threads} thread(s): "
            f"median {self.median_ms:.3f} ms, min {self.min_ms:.3f}, p90 {self.p90_ms:.3f}, p99 {self.p99_ms:.3f} "
            f"({self.runs} runs); first {self.first_inference_ms:.2f} ms, load {self.load_ms:.2f} ms, "
            f"peak {self.peak_rss_mib:.1f} MiB"
        )


def bench(
    bundle: Bundle,
    *,
    device: str | None = None,
    threads: int = 1,
    cpus: Sequence[int] = (),
    warmup_ms: int = 200,
    min_time_ms: int = 1000,
    max_runs: int = 100_000,
    profile_runs: int = 0,
) -> BenchReport:
    """Measure the latency of one inference.

    Args:
        bundle: The compiled model.
        device: ``local``, ``qemu`` or ``ssh://[user@]host``; by default here, or QEMU for a foreign CPU.
        threads: Threads that share the work.
        cpus: Logical CPUs to pin the workers to.
        warmup_ms: Time before the first counted inference, in ms.
        min_time_ms: Inferences are counted for at least this long, in ms.
        max_runs: Stop after so many in any case.
        profile_runs: Time every kernel over so many further inferences, and measure the machine's peak; 0 for none.

    Raises:
        DeviceError: The device cannot run the bundle.
    """
    if warmup_ms < 0 or min_time_ms < 0 or max_runs < 1:
        raise UsageError("a benchmark needs times of at least 0 ms and at least one run")
    with open_process(bundle, device, threads=threads, cpus=cpus) as runner:
        timing = runner.bench(warmup_ms=warmup_ms, min_time_ms=min_time_ms, max_runs=max_runs)
        kernels, peak = _profile(bundle, runner, profile_runs) if profile_runs else ((), None)
        description, is_emulated = runner.description, runner.is_emulated
    latencies = np.array(timing.latencies_ms)
    return BenchReport(
        bundle=bundle.name,
        target=bundle.target,
        precision=bundle.precision,
        device=description,
        is_emulated=is_emulated,
        machine=machine() if description == "this machine" else description,
        threads=timing.threads,
        cpus=timing.cpus,
        runs=len(latencies),
        warmup_ms=warmup_ms,
        min_ms=float(latencies.min()),
        median_ms=float(np.median(latencies)),
        p90_ms=float(np.percentile(latencies, 90)),
        p99_ms=float(np.percentile(latencies, 99)),
        mean_ms=float(latencies.mean()),
        std_ms=float(latencies.std()),
        first_inference_ms=timing.first_inference_ms,
        load_ms=timing.load_ms,
        peak_rss_mib=timing.peak_rss_bytes / 2**20,
        edgec_version=edgec.__version__,
        latencies_ms=timing.latencies_ms,
        kernels=kernels,
        peak=peak,
    )


def _profile(bundle: Bundle, runner: ProcessRunner, runs: int) -> tuple[tuple[KernelReport, ...], Peak | None]:
    if runner.fallback_reason is not None:
        raise DeviceError(
            f"{bundle.name} has a profile on a GPU only, and the CPU ran it",
            where=runner.fallback_reason,
            fix="compile it for the CPU to profile it there",
        )
    if runner.is_emulated or bundle.is_for_gpu:  # a CPU's peak says nothing about a GPU
        return kernel_reports(bundle, runner.profile(runs), None), None
    times, peak = runner.profile_with_peak(runs, _PEAK_MS)
    return kernel_reports(bundle, times, peak), peak


def machine() -> str:
    """CPU model and core count of this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}"
