"""``edgec train``: run a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from edgec.cli.options import echo_json, json_option, print_table
from edgec.errors import UsageError

if TYPE_CHECKING:
    from edgec.engine.progress import Progress as Moment
    from edgec.engine.progress import ProgressCallback
    from edgec.training import TrainingReport

__all__ = ["command"]

_INTERRUPTED = 130
_ROWS = 20


@click.command()
@click.argument("name", required=False)
@click.option("--list", "is_list", is_flag=True, help="List the recipes.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of data sets.  [default: EDGEC_DATA, else ../shared/data]",
)
@click.option("--epochs", type=int, help="Passes over the data.  [default: the recipe's]")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Checkpoint to write.  [default: NAME.safetensors]"
)
@click.option("--resume", is_flag=True, help="Go on where an interrupted training stopped.")
@click.option("--seed", type=int, default=0, show_default=True, help="Where all random numbers come from.")
@click.option("--quick", is_flag=True, help="A short run on little data that are always there.")
@json_option
def command(
    name: str | None,
    is_list: bool,
    data: Path | None,
    epochs: int | None,
    output: Path | None,
    resume: bool,
    seed: int,
    quick: bool,
    as_json: bool,
) -> int:
    """Train a network by the recipe NAME and write its parameters.

    An interrupted training goes on exactly where its last epoch ended with --resume.
    """
    if is_list:
        _list(as_json)
        return 0
    if name is None:
        raise UsageError("which recipe?", fix="edgec train --list shows them")
    from edgec.training import find_recipe, state_path, train

    recipe_name, _ = find_recipe(name)
    try:
        with _bar() as progress:
            report = train(
                name, data=data, epochs=epochs, output=output, resume=resume, seed=seed, quick=quick, progress=progress
            )
    except KeyboardInterrupt:
        state = state_path(output or Path(f"{recipe_name}.safetensors"))
        kept = "go on with the same command and --resume" if state.exists() else "no epoch had ended, nothing is kept"
        click.echo(f"edgec: interrupted; {kept}", err=True)
        return _INTERRUPTED
    if as_json:
        echo_json(report.to_dict())
    else:
        _show(report)
    return 0


def _list(as_json: bool) -> None:
    from edgec.models import RECIPES

    if as_json:
        echo_json({
            name: {
                "network": recipe.network.__name__, "data": recipe.data, "epochs": recipe.epochs,
                "metric": recipe.metric, "expected": recipe.expected, "mode": recipe.mode, "minutes": recipe.minutes,
            }
            for name, recipe in RECIPES.items()
        })  # fmt: skip
        return
    rows = [
        (name, recipe.network.__name__, recipe.data, recipe.epochs, recipe.metric,
         f"{'≥' if recipe.mode == 'max' else '≤'} {recipe.expected:.3g}", f"{recipe.minutes:g}")
        for name, recipe in RECIPES.items()
    ]  # fmt: skip
    print_table(("name", "network", "data", "epochs", "metric", "expected", "minutes"), rows)


def _show(report: TrainingReport) -> None:
    """The figures of some twenty epochs, the last one among them, then what counts."""
    names = [name for name in report.history[0] if name not in ("epoch", "lr")]
    every = -(-len(report.history) // _ROWS)
    shown = report.history[::-1][::every][::-1]
    rows = [(int(row["epoch"]), f"{row['lr']:.2e}", *(f"{row[name]:.4f}" for name in names)) for row in shown]
    print_table(("epoch", "rate", *(name.replace("valid_", "test ") for name in names)), rows)
    verdict = {
        True: "as expected",
        False: f"not the {report.expected:.3g} that is expected",
        None: f"a whole run of the recipe reaches {report.expected:.3g}",
    }[report.is_reached]
    click.echo(f"{report.recipe} on {report.source}, seed {report.seed}")
    click.echo(f"{report.metric} {report.figure:.4f}: {verdict}")
    click.echo(f"{report.output}: written, {report.seconds:.0f} s")


@contextmanager
def _bar() -> Iterator[ProgressCallback | None]:
    """Progress on stderr: a bar of the epoch on a terminal, nothing in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("data", total=None, figures="")

        def show(at: Moment) -> None:
            title = f"epoch {at.epoch}/{at.epochs} {'test' if at.phase == 'valid' else 'train'}"
            figures = "  ".join(f"{name} {value:.3f}" for name, value in at.values.items() if name == "loss")
            bars.update(bar, description=title, completed=at.batch, total=at.batches, figures=figures)

        yield show
