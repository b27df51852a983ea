"""Arrays in and out of an artifact: what the user gave, checked against what the model takes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from edgec.bundle import Bundle, TensorInfo
from edgec.errors import EdgecError

__all__ = ["ordered_inputs", "split_samples"]


def ordered_inputs(bundle: Bundle, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> list[np.ndarray]:
    """The inputs in the bundle's order, checked.

    Raises:
        EdgecError: A name, shape or dtype is not what the model takes; the message says what it does take.
    """
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(bundle.inputs):
            raise EdgecError(f"{len(inputs)} inputs given, the model takes {len(bundle.inputs)}", fix=_takes(bundle))
        inputs = {info.name: array for info, array in zip(bundle.inputs, inputs, strict=True)}
    known = [info.name for info in bundle.inputs]
    for name in inputs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise EdgecError(f"the model has no input '{name}'{hint}", fix=_takes(bundle))
    missing = [name for name in known if name not in inputs]
    if missing:
        raise EdgecError(f"input '{missing[0]}' is missing", fix=_takes(bundle))
    return [_checked(info, np.asarray(inputs[info.name])) for info in bundle.inputs]


def split_samples(bundle: Bundle, inputs: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """Inputs with a leading sample axis, as one list of arrays per sample.

    An array of exactly the model's shape is one sample.
    """
    counts = {}
    arrays = {}
    for info in bundle.inputs:
        if info.name not in inputs:
            ordered_inputs(bundle, inputs)  # raises the fitting error
        array = np.asarray(inputs[info.name])
        if array.ndim == 0 or array.shape[1:] != info.shape:
            array = _as_samples(info, array)
        arrays[info.name] = array
        counts[info.name] = array.shape[0]
    if not bundle.inputs and not inputs:
        return [[]]  # a model of constants
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise EdgecError("the inputs have no or different numbers of samples", where=str(counts), fix=_takes(bundle))
    extra = {name: array for name, array in inputs.items() if name not in arrays}
    number = next(iter(counts.values()))
    return [ordered_inputs(bundle, {**extra, **{n: a[i] for n, a in arrays.items()}}) for i in range(number)]


def _as_samples(info: TensorInfo, array: np.ndarray) -> np.ndarray:
    """One sample without a sample axis, or a batch for a model of batch size one."""
    if array.shape == info.shape:
        return array[None]
    if array.ndim == len(info.shape) and info.shape[:1] == (1,) and array.shape[1:] == info.shape[1:]:
        return array[:, None]
    raise EdgecError(
        f"input '{info.name}' has the wrong shape",
        where=f"given {array.dtype} {array.shape}, expected {info.dtype} {info.shape}, or samples of it stacked",
        fix="the shape was fixed when it was compiled",
    )


def _checked(info: TensorInfo, array: np.ndarray) -> np.ndarray:
    given = f"given {array.dtype} {tuple(array.shape)}, expected {info.dtype} {info.shape}"
    if array.shape != info.shape:
        raise EdgecError(
            f"input '{info.name}' has the wrong shape", where=given, fix="the shape was fixed when it was compiled"
        )
    if array.dtype != np.dtype(info.dtype):
        raise EdgecError(
            f"input '{info.name}' has the wrong dtype", where=given, fix=f"convert it: array.astype('{info.dtype}')"
        )
    return np.asarray(array, order="C")  # which keeps scalars so


def _takes(bundle: Bundle) -> str:
    return "the model takes " + ", ".join(map(str, bundle.inputs))
