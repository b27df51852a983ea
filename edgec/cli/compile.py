"""``edgec compile``: a model becomes a bundle."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgec.cli.loading import load_tvm
from edgec.cli.options import echo_json, json_option, parse_shapes, progress_bars

__all__ = ["command"]


@click.command()
@click.argument("model")
@click.option("--target", "-t", required=True, help="Target; `edgec targets` lists them.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Bundle to write.  [default: NAME.edgec]")
@click.option("--input-shape", "shapes", multiple=True, metavar="NAME:1x3x224x224", help="Shape of an input.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Parameters for MODEL, as `edgec train` writes them."
)
@click.option("--name", help="Name of the artifact.  [default: that of the model]")
@click.option("--dump-ir", type=click.Path(path_type=Path, file_okay=False), help="Folder for the IR of every phase.")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Reuse kernels that were compiled before.")
@json_option
def command(
    model: str,
    target: str,
    output: Path | None,
    shapes: tuple[str, ...],
    checkpoint: Path | None,
    name: str | None,
    dump_ir: Path | None,
    cache: bool,
    as_json: bool,
) -> None:
    """Compile MODEL for a target.

    MODEL is an .onnx file, a checkpoint that `edgec train` wrote, models.NAME for a network of edgec, or
    package.module:callable that gives an engine module.
    """
    start = time.perf_counter()
    load_tvm()
    import edgec
    from edgec.bundle import check_writable
    from edgec.compiler import artifact_name
    from edgec.sources import open_source

    inputs = parse_shapes(shapes)
    name = artifact_name(model, name)
    path = output or Path(f"{name}.edgec")
    check_writable(path)
    source = open_source(model, checkpoint)
    load_s = time.perf_counter() - start
    with progress_bars() as progress:
        bundle = edgec.compile(
            source,
            target=target,
            inputs=inputs or None,
            name=artifact_name(model, name),
            dump_ir=dump_ir,
            cache=cache,
            progress=progress,
        )
    save_start = time.perf_counter()
    bundle.save(path)
    seconds = time.perf_counter() - start
    if as_json:
        described = {key: bundle.manifest[key] for key in ("name", "target", "inputs", "outputs", "memory")}
        size_bytes = path.stat().st_size
        phases_s = {
            **bundle.phases_s,
            "load compiler": round(load_s + bundle.phases_s["load compiler"], 3),
            "write bundle": round(start + seconds - save_start, 3),
        }
        echo_json({"bundle": str(path), "size_bytes": size_bytes, "seconds": round(seconds, 3),
                   "phases_s": phases_s, **described})  # fmt: skip
        return
    click.echo(f"{path}: {bundle.name} for {bundle.target}, {path.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s")
