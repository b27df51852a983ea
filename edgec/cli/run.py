"""``edgec run``: one or more inferences."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from edgec.cli.options import device_options, echo_json, json_option, print_table, read_arrays

__all__ = ["command"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--inputs", type=click.Path(path_type=Path), help="Arrays by input name (.npz).  [default: golden inputs]"
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where to write the outputs (.npz).")
@device_options
@json_option
def command(
    bundle: Path, inputs: Path | None, output: Path | None, device: str | None, threads: int, as_json: bool
) -> None:
    """Run BUNDLE on inputs from a file; a leading axis is taken as samples."""
    import edgec
    from edgec.devices import open_runner
    from edgec.devices.samples import split_samples
    from edgec.files import atomic_write, check_writable
    from edgec.golden import save_arrays

    if output is not None:
        check_writable(output)
    loaded = edgec.load(bundle)
    samples = split_samples(loaded, read_arrays(inputs) if inputs else loaded.golden("inputs"))
    with open_runner(loaded, device, threads=threads) as runner:
        results = runner.run(samples)
        description = runner.description
    arrays = {info.name: np.stack([r[i] for r in results]) for i, info in enumerate(loaded.outputs)}
    if output is not None:
        with atomic_write(output) as temporary:
            save_arrays(temporary, arrays)
    rows = [
        {
            "name": name,
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "min": float(array.min()),
            "max": float(array.max()),
            "mean": float(array.mean(dtype=np.float64)),
        }
        for name, array in arrays.items()
    ]
    if as_json:
        echo_json({"device": description, "samples": len(samples), "outputs": rows})
        return
    click.echo(f"{len(samples)} sample(s) on {description}" + (f", outputs in {output}" if output else ""))
    print_table(
        ("output", "shape (samples first)", "dtype", "min", "max", "mean"),
        [(r["name"], r["shape"], r["dtype"], *(f"{r[k]:.5g}" for k in ("min", "max", "mean"))) for r in rows],
    )
