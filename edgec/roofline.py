"""How near each kernel is to what the machine can do: its time beside what its operations and bytes must take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgec.bundle import Bundle
from edgec.devices import KernelTime, Peak

__all__ = ["KernelReport", "kernel_reports", "total"]


@dataclass(frozen=True)
class KernelReport:
    """One kernel call of the plan: measured times, counted work, and how the two fit together.

    Attributes:
        flops: Floating-point operations that the kernel computes; None where the bundle does not say it.
        bytes: Bytes of its arguments, each read or written once.
        shapes: Dtype and shape of each argument, inputs first.
        gflops: Achieved, in 10⁹ operations per second of the median time; None, like what follows, where no peak
            was measured.
        peak_share: Of the measured peak, 0 to 1.
        bound_us: What it must take at the measured peak and bandwidth (roofline). The bandwidth is that of memory:
            a kernel whose data are still in a cache can be faster.
        bound_by: ``compute`` or ``memory``, whichever of the two takes longer.

    Source: Williams, Waterman, Patterson 2009, "Roofline".
    """

    index: int
    name: str
    median_us: float
    min_us: float
    flops: int | None = None
    bytes: int | None = None
    shapes: tuple[str, ...] = ()
    gflops: float | None = None
    peak_share: float | None = None
    bound_us: float | None = None
    bound_by: str | None = None


def kernel_reports(bundle: Bundle, times: Sequence[KernelTime], peak: Peak | None) -> tuple[KernelReport, ...]:
    """Join the times of a profile with the work that the compiler counted, and with the machine's peak."""
    work = json.loads((bundle.folder / "reports" / "compile.json").read_text()).get("work")
    if work is None:
        return tuple(KernelReport(t.index, t.name, t.median_us, t.min_us) for t in times)
    return tuple(_report(time, work[time.index], peak) for time in times)


def _report(time: KernelTime, work: dict[str, object], peak: Peak | None) -> KernelReport:
    flops, size, shapes = int(str(work["flops"])), int(str(work["bytes"])), work["shapes"]
    assert isinstance(shapes, list)
    row = KernelReport(time.index, time.name, time.median_us, time.min_us, flops, size, tuple(shapes))
    if peak is None:
        return row
    compute_us, memory_us = flops / peak.gflops / 1e3, size / peak.bandwidth_gbs / 1e3
    bound_by = "compute" if compute_us >= memory_us else "memory"
    return replace(_achieved(row, peak), bound_us=max(compute_us, memory_us), bound_by=bound_by)


def _achieved(row: KernelReport, peak: Peak) -> KernelReport:
    gflops = (row.flops or 0) / row.median_us / 1e3 if row.median_us > 0 else 0.0
    return replace(row, gflops=gflops, peak_share=gflops / peak.gflops)


def total(rows: Sequence[KernelReport], peak: Peak | None) -> KernelReport:
    """All kernels as one; its bound is the sum of theirs."""
    flops, size = sum(row.flops or 0 for row in rows), sum(row.bytes or 0 for row in rows)
    times = sum(row.median_us for row in rows), sum(row.min_us for row in rows)
    row = KernelReport(-1, "total", *times, flops, size)
    if peak is None:
        return row
    return replace(_achieved(row, peak), bound_us=sum(row.bound_us or 0.0 for row in rows))
