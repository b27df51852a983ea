"""Samples of a model's inputs, one at a time, from files, arrays or the user's own code."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgec.bundle import TensorInfo
from edgec.errors import EdgecError
from edgec.sources import call_reference, origin

__all__ = ["SampleSource", "Samples", "open_samples", "stack_samples", "synthetic_samples"]

Array: TypeAlias = NDArray[np.generic]
Sample: TypeAlias = "Mapping[str, Array] | Sequence[Array] | Array"
SampleSource: TypeAlias = "str | Path | Mapping[str, Array] | Iterable[Sample] | Callable[[], object]"
"""A path to an .npz file keyed by input name with a leading sample axis, or to a folder of those;
``"package.module:callable"`` or a callable that gives what follows; arrays by input name with a leading sample axis;
or an iterable of samples: arrays by input name, in the order of the inputs, or, for one input, the array."""

_MAKE_NPZ = "write it with numpy.savez, keyed by input name, with a leading sample axis"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, OSError, ValueError)


@dataclass(frozen=True)
class Samples:
    """Samples that can be gone through, again and again where their source allows it.

    Attributes:
        source: Where they come from, for messages.
        count: How many there are; None where only going through them will tell.
    """

    source: str
    count: int | None
    _open: Callable[[], Iterator[dict[str, Array]]]

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Arrays by input name, of exactly the model's shapes and dtypes."""
        return self._open()


def open_samples(source: SampleSource, inputs: Sequence[TensorInfo]) -> Samples:
    """The samples of a source, checked against the inputs of a model as they come.

    Raises:
        EdgecError: The source is missing or none, or has other inputs than the model.
    """
    if isinstance(source, str | Path):
        text = str(source)
        if Path(text).exists() or ":" not in text:
            return _from_files(Path(text), inputs)
        fix = "give an .npz file, a folder of those, or package.module:callable"
        return _from_python(lambda: call_reference(text, "data", fix), inputs, text)
    return _from_python(source, inputs, "the given samples")


def synthetic_samples(inputs: Sequence[TensorInfo], count: int) -> Samples:
    """Noise in place of data: floats of a standard normal distribution, integers 0 and 1; always the same."""

    def draw() -> Iterator[dict[str, Array]]:
        rng = np.random.default_rng(20240607)
        for _ in range(count):
            yield {
                info.name: (
                    rng.standard_normal(info.shape)
                    if np.dtype(info.dtype).kind == "f"
                    else rng.integers(0, 2, info.shape)
                ).astype(info.dtype)
                for info in inputs
            }

    return Samples("synthetic noise", count, draw)


def stack_samples(source: SampleSource, inputs: Sequence[TensorInfo], most: int) -> dict[str, Array]:
    """The first few samples of a source, stacked by input name.

    Raises:
        EdgecError: As :func:`open_samples`, or there are none.
    """
    samples = open_samples(source, inputs)
    taken = list(islice(samples, most))
    if not taken:
        raise EdgecError("the calibration data hold no samples", where=samples.source, fix="give at least one")
    return {info.name: np.stack([sample[info.name] for sample in taken]) for info in inputs}


def _from_python(given: object, inputs: Sequence[TensorInfo], source: str) -> Samples:
    made = given() if callable(given) else given
    if isinstance(made, str | Path):
        return _from_files(Path(made), inputs)
    if isinstance(made, Mapping):
        arrays = {name: np.asarray(array) for name, array in made.items()}
        count = _sample_count({name: array.shape for name, array in arrays.items()}, inputs, source)
        return Samples(source, count, lambda: _checked(_rows(arrays, count), inputs, source))
    if isinstance(made, np.ndarray) and len(inputs) == 1:
        return _from_python({inputs[0].name: made}, inputs, source)
    if not isinstance(made, Iterable):
        raise EdgecError(
            f"{source} gives a {type(made).__name__}, not samples",
            fix="give arrays by input name with a leading sample axis, or an iterable of samples",
        )
    known = len(made) if isinstance(made, Sequence) else None
    again = _Again(made, given if callable(given) else None, source)
    return Samples(source, known, lambda: _checked(again.rows(), inputs, source))


@dataclass
class _Again:
    """An iterable of the user's, to be gone through more than once: an iterator only where a function gives another."""

    made: Iterable[Sample]
    make: Callable[[], Any] | None
    source: str
    is_used: bool = False

    def rows(self) -> Iterator[Sample]:
        if self.is_used and isinstance(self.made, Iterator):
            if self.make is None:
                raise EdgecError(
                    "the samples are needed twice, and an iterator gives them once",
                    where=self.source,
                    fix="give a list, or a function that returns an iterator",
                )
            self.made = self.make()
        self.is_used = True
        try:
            yield from self.made
        except Exception as err:  # the user's own code runs in it: whatever it raises
            raise EdgecError(f"reading {self.source} failed: {err}", where=origin(err)) from err


def _rows(arrays: Mapping[str, Array], count: int) -> Iterator[Sample]:
    for index in range(count):
        yield {name: array[index] for name, array in arrays.items()}


def _from_files(path: Path, inputs: Sequence[TensorInfo]) -> Samples:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise EdgecError(f"no .npz files in {path}", fix=_MAKE_NPZ)
    elif path.is_file():
        files = [path]
    else:
        raise EdgecError(
            f"no such file: {path}", fix="give an .npz file, a folder of those, or package.module:callable"
        )
    counts = [_sample_count(_npz_shapes(file), inputs, str(file)) for file in files]

    def read() -> Iterator[dict[str, Array]]:
        for file, count in zip(files, counts, strict=True):
            yield from _checked(_npz_rows(file, count, inputs), inputs, str(file))

    return Samples(str(path), sum(counts), read)


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in a file, by name; nothing but their headers is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {}
            for member in archive.namelist():
                with archive.open(member) as file:
                    shapes[member.removesuffix(".npy")] = _npy_header(file)[0]
            return shapes
    except _UNREADABLE as err:
        raise EdgecError(f"{path} is not an .npz file", where=str(err), fix=_MAKE_NPZ) from err


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if is_fortran or dtype.hasobject:
        raise ValueError("an array in it is in Fortran order, or of Python objects")
    return shape, dtype


def _npz_rows(path: Path, count: int, inputs: Sequence[TensorInfo]) -> Iterator[Sample]:
    """The arrays of a file row by row, so that it may be larger than the memory."""
    try:
        with ExitStack() as stack:
            opened = {}
            for info in inputs:
                archive = stack.enter_context(zipfile.ZipFile(path))
                file = stack.enter_context(archive.open(f"{info.name}.npy"))
                shape, dtype = _npy_header(file)
                opened[info.name] = (file, shape[1:], dtype)
            for _ in range(count):
                yield {name: _read_row(*row) for name, row in opened.items()}
    except _UNREADABLE as err:
        raise EdgecError(f"{path} cannot be read", where=str(err), fix=_MAKE_NPZ) from err


def _read_row(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    size = int(np.prod(shape)) * dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise EOFError("the file ends within an array")
    return np.frombuffer(data, dtype).reshape(shape)


def _sample_count(shapes: Mapping[str, tuple[int, ...]], inputs: Sequence[TensorInfo], source: str) -> int:
    """How many samples there are, the same number for every input."""
    _check_names(shapes, inputs, source)
    counts = {}
    for info in inputs:
        shape = shapes[info.name]
        if not shape or not _fits(info, shape[1:]):
            raise EdgecError(
                f"the data of input '{info.name}' have the wrong shape",
                where=f"{source}: {shape}, expected samples of {info.shape} stacked: {('N', *info.shape)}",
                fix="stack the samples along a leading axis, or bind the input's shape with --input-shape",
            )
        counts[info.name] = shape[0]
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise EdgecError(
            "the inputs have no or different numbers of samples", where=f"{source}: {counts}", fix=_MAKE_NPZ
        )
    return next(iter(counts.values()))


def _checked(rows: Iterator[Sample], inputs: Sequence[TensorInfo], source: str) -> Iterator[dict[str, Array]]:
    for index, row in enumerate(rows):
        where = f"{source}, sample {index}"
        if isinstance(row, np.ndarray):
            row = [row]
        if not isinstance(row, Mapping):
            if len(row) != len(inputs):
                raise EdgecError(f"a sample has {len(row)} arrays, the model {len(inputs)} inputs", where=where)
            row = {info.name: array for info, array in zip(inputs, row, strict=True)}
        _check_names(row, inputs, where)
        yield {info.name: _fitted(info, np.asarray(row[info.name]), where) for info in inputs}


def _check_names(given: Mapping[str, object], inputs: Sequence[TensorInfo], where: str) -> None:
    names = [info.name for info in inputs]
    takes = "the model takes " + ", ".join(map(str, inputs))
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise EdgecError(f"the model has no input '{name}'{hint}", where=where, fix=takes)
    missing = [name for name in names if name not in given]
    if missing:
        raise EdgecError(f"input '{missing[0]}' is missing", where=where, fix=takes)


def _fits(info: TensorInfo, shape: tuple[int, ...]) -> bool:
    """Whether a sample has the input's shape; an axis of batches of one may be missing."""
    return shape == info.shape or (info.shape[:1] == (1,) and shape == info.shape[1:])


def _fitted(info: TensorInfo, array: Array, where: str) -> Array:
    dtype = np.dtype(info.dtype)
    given = f"{where}: {array.dtype} {array.shape}, expected {info}"
    if not _fits(info, array.shape):
        raise EdgecError(f"the data of input '{info.name}' have the wrong shape", where=given)
    if array.dtype.kind != dtype.kind:
        raise EdgecError(
            f"the data of input '{info.name}' have the wrong dtype",
            where=given,
            fix=f"preprocess them as the model expects, then array.astype('{dtype}')",
        )
    if dtype.kind == "f" and not np.isfinite(array).all():
        wrong = np.argwhere(~np.isfinite(array))
        raise EdgecError(
            f"the data of input '{info.name}' hold NaN or infinite values",
            where=f"{where}: {len(wrong)} of {array.size} elements, the first at {tuple(wrong[0].tolist())}",
            fix="leave the sample out, or mend the preprocessing",
        )
    return np.asarray(array.reshape(info.shape), dtype, order="C")
