"""``edgec compile``: a model becomes a bundle."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from edgec.cli.loading import load_tvm
from edgec.cli.options import echo_json, json_option, model_options, parse_duration, progress_bars
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.bundle import Bundle
    from edgec.progress import Progress
    from edgec.sources import ModelSource

__all__ = ["command"]


@click.command()
@click.argument("model")
@click.option("--target", "-t", required=True, help="Target; `edgec targets` lists them.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Bundle to write.  [default: NAME.edgec]")
@model_options
@click.option(
    "--quantize", type=click.Choice(["int8", "auto"]),
    help="Quantize the model first, as `edgec quantize` does, or (auto) what keeps its accuracy and gets faster.",
)  # fmt: skip
@click.option(
    "--calibration", metavar="DATA",
    help="Samples for it, or to see what float16 holds: .npz, a folder of those, package.module:callable.",
)  # fmt: skip
@click.option("--max-drop", type=float, help="For auto: points of the score that may be lost.  [default: 0.5]")
@click.option("--metric", metavar="REFERENCE", help="For auto: the score.  [default: agreement with the float model]")
@click.option("--evaluation", metavar="DATA", help="For auto: samples for the score.  [default: --calibration]")
@click.option("--device", help="For auto: where to measure, local or ssh://[user@]host.  [default: this machine]")
@click.option(
    "--precision", type=click.Choice(["fp32", "tf32", "fp16", "int8"]),
    help="Of floats; int8 stands for --quantize int8.  [default: as the model has it]",
)  # fmt: skip
@click.option(
    "--also-for", default="", metavar="LIST",
    help="For GPUs: code for more: newer ones (sm_90,sm_110), those to come (ptx), machines without one (cpu).",
)  # fmt: skip
@click.option("--name", help="Name of the artifact.  [default: that of the model]")
@click.option("--records", type=click.Path(path_type=Path), help="Tuning records that win over all others.")
@click.option("--tune", "is_tuned", is_flag=True, help="Search for faster kernels first, as `edgec tune` does.")
@click.option("--tune-time", default="5m", show_default=True, help="End the search after this time.")
@click.option("--tune-device", help="Where --tune measures: local or ssh://[user@]host.  [default: this machine]")
@click.option("--dump-ir", type=click.Path(path_type=Path, file_okay=False), help="Folder for the IR of every phase.")
@click.option("--cache/--no-cache", default=True, show_default=True, help="Reuse kernels that were compiled before.")
@json_option
def command(
    model: str,
    target: str,
    output: Path | None,
    inputs: dict[str, tuple[int, ...]] | None,
    checkpoint: Path | None,
    quantize: Literal["int8", "auto"] | None,
    calibration: str | None,
    max_drop: float | None,
    metric: str | None,
    evaluation: str | None,
    device: str | None,
    precision: Literal["fp32", "tf32", "fp16", "int8"] | None,
    also_for: str,
    name: str | None,
    records: Path | None,
    is_tuned: bool,
    tune_time: str,
    tune_device: str | None,
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
    from edgec.compiler import artifact_name
    from edgec.files import check_writable
    from edgec.quantization import QuantizationWarning
    from edgec.sources import open_source

    name = artifact_name(model, name)
    path = output or Path(f"{name}.edgec")
    check_writable(path)
    source = open_source(model, checkpoint)
    load_s = time.perf_counter() - start
    time_s = parse_duration(tune_time)
    if is_tuned and quantize == "auto":
        raise UsageError(
            "'--tune' needs the kernels of one model, and '--quantize auto' is still to decide on it",
            fix="leave --tune out; then compile graph/model.onnx of the bundle, a zip file, with --tune",
        )
    with (
        progress_bars() as progress,
        warnings.catch_warnings(record=True, action="always", category=QuantizationWarning) as caught,
    ):
        if is_tuned:
            if "int8" in (quantize, precision):
                # The kernels of the float model are others.
                source = edgec.quantize(source, calibration, inputs=inputs, progress=progress)
                quantize = calibration = None
                precision = None if precision == "int8" else precision
            searched = None if precision == "int8" else precision
            _tune(source, target, inputs, searched, time_s, tune_device, records, progress)
        bundle = edgec.compile(
            source,
            target=target,
            inputs=inputs,
            name=name,
            dump_ir=dump_ir,
            records=records,
            cache=cache,
            quantize=quantize,
            calibration=calibration,
            max_drop=max_drop,
            metric=metric,
            evaluation=evaluation,
            device=device,
            precision=precision,
            also_for=[part.strip() for part in also_for.split(",") if part.strip()],
            progress=progress,
        )
    for warning in caught:
        click.echo(f"edgec: warning: {warning.message}", err=True)
    _say_notes(bundle)
    save_start = time.perf_counter()
    bundle.save(path)
    seconds = time.perf_counter() - start
    if not as_json:
        click.echo(f"{path}: {bundle.name} for {bundle.target}, {path.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s")
        return
    phases_s = {
        **bundle.phases_s,
        "load compiler": round(load_s + bundle.phases_s["load compiler"], 3),
        "write bundle": round(start + seconds - save_start, 3),
    }
    size_bytes = path.stat().st_size
    keys = ("name", "target", "inputs", "outputs", "memory", "quantization")
    described = {key: bundle.manifest[key] for key in keys if key in bundle.manifest}
    echo_json({"bundle": str(path), "size_bytes": size_bytes, "seconds": round(seconds, 3),
               "phases_s": phases_s, **described})  # fmt: skip


def _say_notes(bundle: Bundle) -> None:
    """What the user should know of how it was made, on stderr."""
    for note in bundle.notes:
        click.echo(f"edgec: note: {note}", err=True)
    quantization = bundle.manifest.get("quantization")
    if isinstance(quantization, dict):
        for decision in quantization["decisions"]:
            click.echo(f"{decision['precision']:8}{decision['layer']}: {decision['reason']}", err=True)
        click.echo(f"edgec: {quantization['verdict']}; times: {quantization['device']}", err=True)


def _tune(
    source: ModelSource,
    target: str,
    inputs: dict[str, tuple[int, ...]] | None,
    precision: Literal["fp32", "tf32", "fp16"] | None,
    time_s: float,
    device: str | None,
    records: Path | None,
    progress: Progress,
) -> None:
    """Search first; an interrupted search ends the command, and what it found is kept."""
    import edgec
    from edgec.cli.tune import say_found, wrong_candidates

    report = edgec.tune(
        source,
        target=target,
        inputs=inputs,
        precision=precision,
        time_s=time_s,
        device=device,
        records=records,
        progress=progress,
        found=say_found,
    )
    if report.wrong:
        raise wrong_candidates(report)
    if report.is_interrupted:
        raise KeyboardInterrupt
