"""``edgec bench``: how fast is the artifact?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.cli.options import cpus_option, device_options, echo_json, json_option, print_table
from edgec.errors import PerformanceError, UsageError

if TYPE_CHECKING:
    from edgec.benchmark import BenchReport
    from edgec.devices import Peak

__all__ = ["command"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@cpus_option
@click.option("--warmup-ms", type=int, default=200, show_default=True, help="Time before the first counted inference.")
@click.option("--min-time-ms", type=int, default=1000, show_default=True, help="Count inferences for this long.")
@click.option("--max-runs", type=int, default=100_000, show_default=True, help="Stop after so many in any case.")
@click.option("--profile", is_flag=True, help="Also show every kernel: its time, its work, and what it must take.")
@click.option("--max-median-ms", type=float, help="Leave with exit code 5 if the median is higher.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the report with all raw times (JSON).")
@device_options
@json_option
def command(
    bundle: Path,
    cpus: tuple[int, ...],
    warmup_ms: int,
    min_time_ms: int,
    max_runs: int,
    profile: bool,
    max_median_ms: float | None,
    output: Path | None,
    device: str | None,
    threads: int,
    as_json: bool,
) -> None:
    """Measure the latency of BUNDLE: minimum, median, percentiles, first inference, memory."""
    import edgec
    from edgec.files import check_writable

    if max_median_ms is not None and not max_median_ms > 0:
        raise UsageError(f"--max-median-ms {max_median_ms:g} allows nothing", fix="give a time above 0 ms")
    if output is not None:
        check_writable(output)
    report = edgec.bench(
        edgec.load(bundle),
        device=device,
        threads=threads,
        cpus=cpus,
        warmup_ms=warmup_ms,
        min_time_ms=min_time_ms,
        max_runs=max_runs,
        profile_runs=20 if profile else 0,
    )
    if output is not None:
        report.save(output)
    if as_json:
        echo_json(report.to_dict())
    else:
        click.echo(f"{report.bundle} ({report.target}, {report.precision}) on {report.device}")
        click.echo(f"{report.machine}; {report.threads} thread(s) on CPU {', '.join(map(str, report.cpus))}")
        if report.is_emulated:
            click.echo("The CPU is emulated: these times say nothing about the board.")
        print_table(
            ("", "min ms", "median ms", "p90 ms", "p99 ms", "std ms", "runs", "first ms", "load ms", "peak MiB"),
            [
                (
                    "latency",
                    *(f"{v:.3f}" for v in (report.min_ms, report.median_ms, report.p90_ms, report.p99_ms)),
                    f"{report.std_ms:.3f}",
                    report.runs,
                    f"{report.first_inference_ms:.2f}",
                    f"{report.load_ms:.2f}",
                    f"{report.peak_rss_mib:.1f}",
                )
            ],
        )
        if report.kernels:
            _print_profile(report)
    if max_median_ms is not None and report.median_ms > max_median_ms:
        raise PerformanceError(f"median latency is {report.median_ms:.3f} ms, allowed are {max_median_ms:g} ms")


def _print_profile(report: BenchReport) -> None:
    """One line per kernel, slowest first, and one for all of them."""
    from edgec.roofline import total

    everything = total(report.kernels, report.peak)
    rows = [*sorted(report.kernels, key=lambda k: -k.median_us), everything]
    columns: dict[str, list[str]] = {
        "kernel": [k.name for k in rows],
        "step": [str(k.index) if k.index >= 0 else "-" for k in rows],
        "median µs": [f"{k.median_us:.1f}" for k in rows],
        "min µs": [f"{k.min_us:.1f}" for k in rows],
        "share": [f"{k.median_us / (everything.median_us or 1):.1%}" for k in rows],
    }
    if all(k.flops is not None for k in rows):
        columns["Mflop"] = [f"{(k.flops or 0) / 1e6:.3f}" for k in rows]
        columns["KiB"] = [f"{(k.bytes or 0) / 1024:.1f}" for k in rows]
    if report.peak is not None and "Mflop" in columns:
        columns["Gflop/s"] = [f"{k.gflops or 0:.1f}" for k in rows]
        columns["of peak"] = [f"{k.peak_share or 0:.1%}" for k in rows]
        columns["bound µs"] = [f"{k.bound_us or 0:.1f}" for k in rows]
        columns["bound by"] = [k.bound_by or "" for k in rows]
        click.echo(_describe(report.peak))
    elif report.is_emulated:
        click.echo("No peak is measured on an emulated CPU: shares of it would mean nothing.")
    print_table(tuple(columns), list(zip(*columns.values(), strict=True)))


def _describe(peak: Peak) -> str:
    against = f"{peak.buffer_bytes / 2**20:.0f} MiB"
    if peak.last_cache_bytes:
        against += f", {peak.buffer_bytes / peak.last_cache_bytes:.1f} times the last cache"
    return (
        f"peak: {peak.gflops:.1f} Gflop/s of multiply-adds in {peak.vector_bits}-bit vectors, "
        f"{peak.bandwidth_gbs:.1f} GB/s to memory (over {against})"
    )
