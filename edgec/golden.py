"""Inputs that an artifact is judged on when the user gives none."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.bundle import TensorInfo
from edgec.errors import EdgecError
from edgec.progress import Progress, silent

__all__ = [
    "INTEGER_BOUNDS",
    "SEED",
    "execute_samples",
    "golden_inputs",
    "golden_samples",
    "has_float16",
    "reference_model",
    "save_arrays",
]

SEED = 20240607

INTEGER_BOUNDS = (10, 2, 1)
"""Bounds of drawn integers, to be tried in turn: an integer may be an index, and its table small."""


def golden_inputs(
    inputs: Sequence[TensorInfo], integer_bound: int = INTEGER_BOUNDS[0], seed: int = SEED
) -> dict[str, np.ndarray]:
    """Three samples per input, stacked: standard normal, uniform in [0, 1), pixels in [0, 255). Always the same.

    Integers are drawn below ``integer_bound``. A constant image is no good
    sample of floats: equal rounding errors add up over its whole area. With zeros, FastestDet in the engine and in
    ONNX Runtime is three times the tolerance away from the same graph in double precision.
    """
    rng = np.random.default_rng(seed)
    result = {}
    for info in inputs:
        dtype = np.dtype(info.dtype)
        samples: list[np.ndarray]
        if dtype.kind == "f":
            samples = [rng.standard_normal(info.shape), rng.random(info.shape), rng.random(info.shape) * 255]
        elif dtype.kind == "b":
            samples = [rng.random(info.shape) < 0.5, np.zeros(info.shape), np.ones(info.shape)]
        else:
            ones = np.full(info.shape, min(1, integer_bound - 1))
            samples = [rng.integers(0, integer_bound, info.shape), np.zeros(info.shape), ones]
        result[info.name] = np.stack(samples).astype(dtype)
    return result


def has_float16(model: ir.Model) -> bool:
    """Whether a model has tensors of float16."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in (*node.inputs, *node.outputs))]
    return any(value is not None and value.dtype == ir.DataType.FLOAT16 for value in values)


def reference_model(model: ir.Model) -> ir.Model:
    """What an artifact of ``model`` is compared with: its integer form, in float32 where it has float16 inside.

    To be executed as it is, with ``integers=False``: the form is made once for all samples.
    """
    from edgec.frontend import integer_form
    from edgec.passes import ConvertPrecision

    if has_float16(model):
        model = model.clone()
        ConvertPrecision(ir.DataType.FLOAT)(model)
    return integer_form(model)


def golden_samples(
    reference: ir.Model,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    progress: Progress = silent,
    seed: int = SEED,
    given: Mapping[str, np.ndarray] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Golden inputs, the user's own if there are, and what the engine computes for them with a :func:`reference_model`,
    by name and stacked.

    Raises:
        EdgecError: The engine cannot run the model.
    """
    if given is not None:
        drawn, results = dict(given), execute_samples(reference, given, progress)
    else:
        drawn, results = _drawn(reference, inputs, progress, seed)
    return drawn, {info.name: np.stack([result[info.name] for result in results]) for info in outputs}


def _drawn(
    reference: ir.Model, inputs: Sequence[TensorInfo], progress: Progress, seed: int
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    has_integers = any(np.dtype(info.dtype).kind in "iu" for info in inputs)
    for bound in INTEGER_BOUNDS[:-1]:
        drawn = golden_inputs(inputs, bound, seed)
        try:
            return drawn, execute_samples(reference, drawn, progress)
        except EdgecError:  # an index may lie outside its table; with zeros only there is another reason
            if not has_integers:
                raise
    drawn = golden_inputs(inputs, INTEGER_BOUNDS[-1], seed)
    return drawn, execute_samples(reference, drawn, progress)


def execute_samples(
    reference: ir.Model, inputs: Mapping[str, np.ndarray], progress: Progress
) -> list[dict[str, np.ndarray]]:
    """What the engine computes for each of the stacked samples."""
    from edgec.frontend import execute

    samples = len(next(iter(inputs.values()))) if inputs else 1
    results = []
    for i in range(samples):
        results.append(execute(reference, {name: array[i] for name, array in inputs.items()}, integers=False))
        progress("run reference", i + 1, samples)
    return results


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file keyed by name, byte for byte the same for the same arrays.

    ``numpy.savez`` takes the names as keyword arguments and so cannot store one that is called ``file``.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
