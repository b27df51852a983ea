"""Options and output that several verbs share."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from edgec.errors import EdgecError, UsageError
from edgec.progress import Progress, silent

F = TypeVar("F", bound=Callable[..., object])

__all__ = [
    "cpus_option",
    "device_options",
    "echo_json",
    "json_option",
    "model_options",
    "parse_cpus",
    "parse_duration",
    "parse_shapes",
    "print_table",
    "progress_bars",
    "read_arrays",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_DEVICE = click.option("--device", help="inprocess, local, qemu or ssh://[user@]host.  [default: by the bundle's CPU]")
_THREADS = click.option("--threads", type=int, default=1, show_default=True, help="Threads that share the work.")
_SHAPES = click.option(
    "--input-shape",
    "inputs",
    multiple=True,
    metavar="NAME:1x3x224x224",
    callback=lambda _context, _option, specs: parse_shapes(specs) or None,
    help="Shape of an input.",
)
_CHECKPOINT = click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Parameters for MODEL, as `edgec train` writes them."
)
cpus_option = click.option(
    "--cpus",
    default="",
    callback=lambda _context, _option, text: parse_cpus(text),
    help="Pin the workers to these CPUs, e.g. 4-7.",
)


def model_options(function: F) -> F:
    """``--input-shape``, as shapes by input name or None, and ``--checkpoint``."""
    return _SHAPES(_CHECKPOINT(function))


def device_options(function: F) -> F:
    """``--device`` and ``--threads``."""
    return _DEVICE(_THREADS(function))


def parse_shapes(specs: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME:1x3x224x224`` (names may hold colons) -> shapes by input name."""
    shapes = {}
    for spec in specs:
        name, colon, text = spec.rpartition(":")
        try:
            shape = tuple(int(extent) for extent in text.split("x"))
        except ValueError:
            shape = ()
        if not colon or not name or not shape or min(shape) < 1:
            raise UsageError(f"cannot read the shape '{spec}'", fix="write it as NAME:1x3x224x224")
        shapes[name] = shape
    return shapes


def parse_cpus(text: str) -> tuple[int, ...]:
    """``4-7,2`` -> (4, 5, 6, 7, 2)."""
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        try:
            numbers = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            numbers = range(0)
        if not numbers:
            raise UsageError(f"cannot read the CPU list '{text}'", fix="write it as 4-7 or 0,2")
        cpus.extend(numbers)
    return tuple(cpus)


def parse_duration(text: str) -> float:
    """``90s``, ``10m``, ``1.5h`` or a number of seconds -> seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"cannot read the time '{text}'", fix="write it as 90s, 10m or 1h")
    return seconds


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name.

    Raises:
        EdgecError: The file is missing or no .npz file.
    """
    if not path.is_file():
        raise EdgecError(f"no such file: {path}", fix="give an .npz file keyed by input name (numpy.savez)")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive of arrays")
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        if strangers := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"'{strangers[0]}' in it is no array")
        return arrays
    except (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as err:
        raise EdgecError(
            f"{path} is not an .npz file", where=str(err), fix="write it with numpy.savez, keyed by input name"
        ) from err


def echo_json(value: object) -> None:
    """Print a result for machines."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print numbers that people compare, right-aligned, beside words, left-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        is_number = all(str(row[i])[:1].isdigit() or str(row[i])[:1] == "-" for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(markup=False, emoji=False)  # `edgec[compile]` is no style, and `:on:` in a name no picture
    if not console.is_terminal:  # in a pipe or a file nothing should wrap at 80 columns
        console.width = 200
    console.print(table)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress on stderr: bars on a terminal, nothing in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("start", total=None)
        title = "start"

        def show(phase: str, done: int, total: int) -> None:
            nonlocal title
            if phase == "compile":
                return
            if phase != title:
                title = phase
                bars.reset(task)
            bars.update(task, description=phase, completed=done, total=total or None)

        yield show
