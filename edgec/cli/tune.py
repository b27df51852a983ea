"""``edgec tune``: search for faster kernels by measuring on the target."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgec.cli.loading import load_tvm
from edgec.cli.options import cpus_option, echo_json, json_option, model_options, parse_duration, progress_bars
from edgec.errors import ParityError

if TYPE_CHECKING:
    from edgec.tuning import TunedKernel, TuneReport

__all__ = ["command", "say_found", "wrong_candidates"]

_INTERRUPTED = 130


@click.command()
@click.argument("model")
@click.option("--target", "-t", required=True, help="Target; `edgec targets` lists them.")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "fp16"]), help="As `edgec compile` will be told.")
@click.option("--time", "duration", default="10m", show_default=True, help="End after this time: 90s, 10m, 1h.")
@click.option("--device", help="Where to measure: local or ssh://[user@]host.  [default: this machine]")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads that share a kernel's work.")
@cpus_option
@click.option("--records", type=click.Path(path_type=Path), help="File to keep the records in.  [default: your own]")
@click.option("--again", is_flag=True, help="Also measure what has a record already.")
@model_options
@json_option
def command(
    model: str,
    target: str,
    precision: Literal["fp32", "tf32", "fp16"] | None,
    duration: str,
    device: str | None,
    threads: int,
    cpus: tuple[int, ...],
    records: Path | None,
    again: bool,
    inputs: dict[str, tuple[int, ...]] | None,
    checkpoint: Path | None,
    as_json: bool,
) -> int:
    """Search for faster kernels of MODEL on a target, and keep them as records that `edgec compile` uses.

    The search can be interrupted at any time (Ctrl-C) and goes on where it was with the same command.
    """
    load_tvm()
    import edgec
    from edgec.sources import open_source

    time_s = parse_duration(duration)
    with progress_bars() as progress:
        report = edgec.tune(
            open_source(model, checkpoint),
            target=target,
            inputs=inputs,
            precision=precision,
            time_s=time_s,
            device=device,
            threads=threads,
            cpus=cpus,
            records=records,
            again=again,
            progress=progress,
            found=say_found,
        )
    if as_json:
        echo_json(report.to_dict())
    else:
        click.echo(str(report))
    if report.wrong:
        raise wrong_candidates(report)
    if report.is_interrupted:
        click.echo("edgec: interrupted; what was found is kept, the same command goes on there", err=True)
        return _INTERRUPTED
    return 0


def say_found(kernel: TunedKernel) -> None:
    """One line on stderr for each workload that is done."""
    choice = ", ".join(f"{name} {value}" for name, value in kernel.choice.items())
    verdict = "default" if kernel.choice == kernel.default else f"{kernel.gain:.2f}x, {choice}"
    known = "" if kernel.is_new else " (recorded)"
    click.echo(
        f"{time.strftime('%H:%M:%S')} {kernel.share:6.1%} {kernel.family} {kernel.workload}: "
        f"{kernel.default_us:.1f} -> {kernel.us:.1f} µs, {verdict}, {kernel.tried} of {kernel.candidates} tried{known}",
        err=True,
    )


def wrong_candidates(report: TuneReport) -> ParityError:
    """The error for candidates that do not compute what the default computes."""
    return ParityError(
        f"{len(report.wrong)} candidate(s) do not compute what the default computes; no record has them",
        where=report.wrong[0],
        fix="this is a bug of edgec: please report the lines above",
    )
