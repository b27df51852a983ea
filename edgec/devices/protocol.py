"""What every place that runs an artifact can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from edgec.bundle import Bundle

__all__ = ["KernelTime", "Peak", "ProcessRunner", "Runner", "Timing", "advice"]


def advice(bundle: Bundle, message: str) -> str | None:
    """What to do about a failure that the runtime told of."""
    if not bundle.is_for_gpu:
        return None
    if "compiled for other GPUs" in message:
        return "compile it for that one with --target cuda:sm_XX, or with --also-for sm_XX"
    if "no CUDA driver" in message or "cuInit" in message:
        return "run it where the GPU is, with --device ssh://[user@]host; there, NVIDIA's driver must be installed"
    return None


@dataclass(frozen=True)
class Timing:
    """Raw figures of one benchmark run.

    Attributes:
        latencies_ms: One per inference, in order, after the warm-up.
        first_inference_ms: The very first, cold one.
        load_ms: From the start of loading to a session that can run.
        peak_rss_bytes: Highest resident memory of the process; 0 where it is not known.
        cpus: The CPU each worker ran on at the end.
    """

    latencies_ms: tuple[float, ...]
    first_inference_ms: float
    load_ms: float
    peak_rss_bytes: int
    threads: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class KernelTime:
    """Time of one kernel call of the plan, over several inferences."""

    index: int
    name: str
    median_us: float
    min_us: float


@dataclass(frozen=True)
class Peak:
    """What the machine did at best, with as many threads as the profile had, on the same CPUs.

    Attributes:
        vector_bits: Width of the vectors in which it multiplied and added: those of the model's own code.
        gflops: 10⁹ float32 operations per second of multiply-adds in registers.
        bandwidth_gbs: 10⁹ bytes per second of ``a[i] = b[i] + s * c[i]``, 12 bytes each.
        last_cache_bytes: The largest cache; 0 where it is not known.
        buffer_bytes: What the bandwidth was measured on: several times the largest cache, where memory allows.
    """

    vector_bits: int
    gflops: float
    bandwidth_gbs: float
    last_cache_bytes: int
    buffer_bytes: int


class Runner(Protocol):
    """An artifact, ready to run somewhere. Use it in a ``with`` block."""

    description: str

    def run(self, samples: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """Outputs of each sample, in the bundle's order; each sample has its inputs in the bundle's order."""

    def close(self) -> None:
        """Give back what the runner holds."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ProcessRunner(Runner, Protocol):
    """An artifact with a process of its own, where it can be timed."""

    is_emulated: bool
    fallback_reason: str | None

    def bench(self, *, warmup_ms: int, min_time_ms: int, max_runs: int) -> Timing:
        """Repeat the inference for a set time."""

    def profile(self, runs: int) -> list[KernelTime]:
        """Time every kernel of the plan."""

    def profile_with_peak(self, runs: int, peak_ms: int) -> tuple[list[KernelTime], Peak]:
        """The same, and then for so long, in ms, what the machine can do at best, in the same process."""
