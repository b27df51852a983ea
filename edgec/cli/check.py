"""``edgec check``: does the artifact compute what the engine computes?"""

from __future__ import annotations

from pathlib import Path

import click

from edgec.cli.options import device_options, echo_json, json_option, read_arrays
from edgec.errors import ParityError

__all__ = ["command"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--inputs", type=click.Path(path_type=Path), help="Arrays by input name (.npz).  [default: golden inputs]"
)
@click.option("--samples", type=int, help="Use only so many samples.")
@device_options
@json_option
def command(
    bundle: Path, inputs: Path | None, samples: int | None, device: str | None, threads: int, as_json: bool
) -> None:
    """Compare BUNDLE with the engine, output by output; exit code 4 where they differ."""
    import edgec

    loaded = edgec.load(bundle)
    arrays = read_arrays(inputs) if inputs else None
    report = edgec.check(loaded, inputs=arrays, device=device, threads=threads, samples=samples)
    if as_json:
        echo_json(report.to_dict())
    else:
        click.echo(str(report))
    if not report:
        names = ", ".join(f"'{output.name}'" for output in report.failures)
        raise ParityError(
            f"{bundle.name} does not compute what the engine computes: output {names}",
            where=report.failures[0].reason,
            fix="if the bundle is as edgec wrote it, this is a bug of edgec: please report the model",
        )
