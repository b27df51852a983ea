"""Bundles for test_device.py: the cases of all families of GPU schedules, in the precisions that have rules for them.

    python -m tests.cuda.device_bundles FOLDER TARGET

compiles them for a GPU on another machine, e.g. ``cuda:sm_90``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

import edgec
from edgec.frontend import execute, import_model
from tests.cuda.test_attention import CASES as ATTENTION
from tests.cuda.test_attention import numbers
from tests.cuda.test_attention_masks import MASKS
from tests.cuda.test_recurrent import layers
from tests.cuda.test_schedules import FAMILIES, HALF_FAMILIES, MOST_CASES, RELATIVE_ERROR, Products
from tests.targets.lowering_cases import CASES
from tests.targets.test_lowering import build

__all__ = ["models", "prepare"]

Precision = Literal["fp32", "tf32", "fp16"] | None


def models() -> Iterator[tuple[str, ir.Model, Precision, dict[str, Any] | None]]:
    """A name for the file, the model, the precision to compile it in, and inputs of a size that float16 is for."""
    for family, op_types in FAMILIES.items():
        model = build([case for op_type in op_types for case in CASES[op_type][:MOST_CASES]]).model
        yield family, model, "fp32", None
        if family in HALF_FAMILIES:
            yield f"{family}-fp16", model, "fp16", None
    for dtype in RELATIVE_ERROR:
        precision: Precision = "tf32" if dtype == "tf32" else "fp32" if dtype == "float32" else None
        yield f"products-{dtype}", Products(dtype).model, precision, None
    yield "layers-fp16", layers()[0], "fp16", None
    for number, case in enumerate(ATTENTION):
        yield f"attention-{number}", case.graph, "fp16", numbers(case)
    for number, masked in enumerate(MASKS.values()):
        model, inputs = import_model(masked.proto), masked.inputs()
        arrays = (*inputs.values(), *execute(model, inputs).values())
        if all(np.isfinite(array).all() for array in arrays):  # what `edgec check` compares
            yield f"mask-{number}", model, "fp16", inputs


def prepare(folder: Path, target: str) -> None:
    """Compile all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model, precision, inputs in models():
        samples = None if inputs is None else {key: np.asarray(array)[None] for key, array in inputs.items()}
        bundle = edgec.compile(model, target=target, name=name, precision=precision, calibration=samples)
        bundle.save(folder / f"{name}.edgec")
        print(name, flush=True)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), sys.argv[2])
