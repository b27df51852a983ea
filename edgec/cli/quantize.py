"""``edgec quantize``: a float model becomes a quantized one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.cli.options import echo_json, json_option, model_options, print_table, progress_bars
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.passes.quantization import ActivationType, Method
    from edgec.passes.report import CountedResult
    from edgec.quantization import Equalization, Quantization, Rounding
    from edgec.quantization_report import QuantizationReport
    from edgec.weight_quantization import Mode

__all__ = ["command"]

_INTERRUPTED = 130
_SHOWN = 12


@click.command()
@click.argument("model")
@click.option("--calibration", metavar="DATA", help="Samples: .npz, a folder of those, or package.module:callable.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Model to write.  [default: NAME.int8.onnx]")
@model_options
@click.option(
    "--mode", type=click.Choice(["static", "dynamic", "weight-only"]), default="static", show_default=True,
    help="Ranges found by calibration; while the model runs (Gemm, MatMul); or only weights made small.",
)  # fmt: skip
@click.option("--bits", type=int, help="Of a weight in mode weight-only: 8 or 4.  [default: 8]")
@click.option("--block-size", type=int, help="Weights that share a scale in mode weight-only.  [default: column, 32]")
@click.option(
    "--method", type=click.Choice(["minmax", "percentile", "entropy", "mse"]), default="mse", show_default=True,
    help="How the range of an activation is found.",
)  # fmt: skip
@click.option("--percentile", type=float, help="Share within either end for --method percentile.  [default: 99.99]")
@click.option("--keep-float", multiple=True, metavar="NAME", help="Node, operator or pattern that stays in float.")
@click.option("--activation-type", type=click.Choice(["uint8", "int8"]), default="uint8", show_default=True)
@click.option("--symmetric", is_flag=True, help="Put the zero point of activations in the middle.")
@click.option("--per-tensor", is_flag=True, help="One scale for all weights of a layer.")
@click.option("--no-bias-correction", is_flag=True, help="Leave the bias of a layer as it is.")
@click.option("--measure-bias", is_flag=True, help="Correct biases by what the quantized model gives out, too.")
@click.option(
    "--equalization", type=click.Choice(["none", "weights", "activations"]), default="none", show_default=True,
    help="Move scales per channel into weights, judged by weights (data-free) or by activations (SmoothQuant).",
)  # fmt: skip
@click.option(
    "--rounding", type=click.Choice(["nearest", "adaptive"]), default="nearest", show_default=True,
    help="Of weights: each to its nearest integer, or together, for the least change of a layer's outputs.",
)  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path), help="Page to write about every layer (.html, or .json).")
@click.option("--samples", type=int, help="Use only so many samples.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted calibration.")
@json_option
def command(
    model: str,
    calibration: str | None,
    output: Path | None,
    inputs: dict[str, tuple[int, ...]] | None,
    checkpoint: Path | None,
    mode: Mode,
    bits: int | None,
    block_size: int | None,
    method: Method,
    percentile: float | None,
    keep_float: tuple[str, ...],
    activation_type: ActivationType,
    symmetric: bool,
    per_tensor: bool,
    no_bias_correction: bool,
    measure_bias: bool,
    equalization: Equalization,
    rounding: Rounding,
    report: Path | None,
    samples: int | None,
    resume: bool,
    as_json: bool,
) -> int:
    """Quantize MODEL, and write it as ONNX (QDQ) that `edgec compile` and ONNX Runtime take."""
    import onnx_ir as ir

    from edgec.files import atomic_write, check_writable
    from edgec.quantization import Settings, prepare
    from edgec.quantization_report import analyse
    from edgec.report_page import html_page
    from edgec.sources import model_name, open_source, read_model
    from edgec.weight_quantization import DataFree, quantize_without_data, refuse_static_options

    start = time.perf_counter()
    free = DataFree(mode, bits, block_size, keep_float)
    path = output or Path(f"{model_name(model)}.int{bits or 8}.onnx")
    check_writable(path)
    if report is not None:
        check_writable(report)
    state = path.with_name(f"{path.stem}.unfinished")
    if state.exists() and not resume:
        raise UsageError(
            "there is an unfinished calibration", where=str(state), fix="pass --resume, or remove the file"
        )
    settings = Settings(
        method, percentile, activation_type, symmetric, not per_tensor, keep_float,
        not no_bias_correction, equalization, rounding, measure_bias,
    )  # fmt: skip
    if mode != "static":
        others = {"calibration": calibration, "samples": samples, "report": report, "resume": resume or None}
        refuse_static_options(mode, settings, *others.items())
        source = read_model(open_source(model, checkpoint), inputs)
        return _write_without_data(quantize_without_data(source, free), path, mode, start, as_json=as_json)
    imported = read_model(open_source(model, checkpoint), inputs)
    try:
        with progress_bars() as progress:
            made = prepare(imported, calibration, settings, limit=samples, state=state, progress=progress).quantize()
            analysed = analyse(made, progress=progress) if report is not None else None
    except KeyboardInterrupt:
        kept = "go on with the same command and --resume" if state.exists() else "nothing is kept"
        click.echo(f"edgec: interrupted; {kept}", err=True)
        return _INTERRUPTED
    for note in made.notes:
        click.echo(f"edgec: warning: {note}", err=True)
    with atomic_write(path) as temporary:
        ir.save(made.model, temporary)
    if report is not None and analysed is not None:
        with atomic_write(report) as temporary:
            is_json = report.suffix == ".json"
            temporary.write_text(json.dumps(analysed.to_dict(), indent=2) if is_json else html_page(analysed))
    _say(made, analysed, path, start, as_json=as_json)
    return 0


def _say(made: Quantization, analysed: QuantizationReport | None, path: Path, start: float, *, as_json: bool) -> None:
    """What was written, and the layers where that was asked for."""
    from edgec.report_page import columns, text_table

    seconds = time.perf_counter() - start
    linear = sum(unit.is_linear for unit in made.placement.units)
    total = linear + len(made.placement.kept)
    if as_json:
        echo_json({
            "model": str(path), "size_bytes": path.stat().st_size, "samples": made.calibration.samples,
            "quantized": linear, "kept_float": made.placement.kept, "notes": list(made.notes),
            "seconds": round(seconds, 3), "report": None if analysed is None else analysed.to_dict(),
        })  # fmt: skip
        return
    if analysed is not None:
        print_table(columns(analysed), text_table(analysed, _SHOWN))
    click.echo(
        f"{path}: {linear} of {total} convolutions and products in int8, {made.calibration.samples} samples, "
        f"{path.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s"
    )


def _write_without_data(made: CountedResult, path: Path, mode: Mode, start: float, *, as_json: bool) -> int:
    """Write a model that was quantized without samples, and say what is in it."""
    import onnx_ir as ir

    from edgec.files import atomic_write

    with atomic_write(path) as temporary:
        ir.save(made.model, temporary)
    count, size, seconds = made.changes.total(), path.stat().st_size, time.perf_counter() - start
    if as_json:
        echo_json({
            "model": str(path), "mode": mode, "size_bytes": size, "quantized": count, "kept_float": list(made.refused),
            "seconds": round(seconds, 3),
        })  # fmt: skip
        return 0
    total = count + len(made.refused)
    click.echo(f"{path}: {count} of {total} products quantized ({mode}), {size / 1e6:.1f} MB, {seconds:.1f} s")
    return 0
