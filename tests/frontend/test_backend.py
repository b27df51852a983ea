"""The ONNX backend node tests, run through `frontend.execute`.

Of what ``onnx.backend.test.case.node`` holds, the cases that count are those

* not ``_expanded``: those run the same data through the function body of the operator;
* of the default domain, every node of them;
* with tensor inputs and outputs only (no sequence, optional, map), whose arrays are of a float, integer or boolean
  dtype of NumPy. Strings are left out, and so are the narrow types that NumPy lacks (float8, int4, bfloat16 ...), which
  run in a test of their own.

The models are executed as they are, at the operator set they were written for: what is tested is the meaning of an
operator, not the conversion between versions. What does not pass stands in ``backend_failures.txt`` with its reason.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgec.frontend import execute

KNOWN_FAILURES = Path(__file__).with_name("backend_failures.txt")
FEWEST_CASES = 1000
NUMPY_KINDS = "fiub"


@dataclass
class Case:
    """One node test: the model, and arrays that belong to its inputs and outputs."""

    name: str
    model: onnx.ModelProto
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    rtol: float
    atol: float

    @property
    def is_of_numpy_types(self) -> bool:
        return all(array.dtype.kind in NUMPY_KINDS for array in (*self.inputs, *self.outputs))


@functools.cache
def cases() -> dict[str, Case]:
    """Every tensor case of the default domain, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators of the cases overflow on purpose
        collected = collect_testcases(None)
    return {case.name: case for given in collected if "_expanded" not in given.name for case in _tensor_cases(given)}


def _tensor_cases(given: Any) -> Iterator[Case]:
    graph = given.model.graph
    if any(node.domain not in ("", "ai.onnx") for node in graph.node) or not given.data_sets:
        return
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind == onnx.TensorProto.STRING:
            return
    (inputs, outputs), *others = given.data_sets
    assert not others, f"{given.name} has several data sets"
    yield Case(given.name, given.model, _arrays(inputs), _arrays(outputs), given.rtol, given.atol)


def _arrays(values: Any) -> list[np.ndarray]:
    return [
        numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value) for value in values
    ]


def failure(case: Case) -> str | None:
    """What goes wrong when the case is executed, or None."""
    try:
        model = ir.from_proto(case.model)
        given = [value.name for value in model.graph.inputs]
        results = list(execute(model, dict(zip(given, case.inputs, strict=True))).values())
        for result, expected in zip(results, case.outputs, strict=True):
            assert result.shape == expected.shape, f"shape {result.shape}, expected {expected.shape}"
            assert result.dtype == expected.dtype, f"dtype {result.dtype}, expected {expected.dtype}"
            if expected.dtype.kind in "iub":
                # One step, as the onnx test runner allows: a sum in another order may round to the neighbour.
                difference = np.abs(result.astype(np.int64) - expected.astype(np.int64)) if result.size else result
                limit = case.atol + case.rtol * np.abs(expected.astype(np.float64))
                assert np.all(difference <= limit), f"{result.reshape(-1)[:6]}, expected {expected.reshape(-1)[:6]}"
                continue
            wide = [array.astype(np.float64) for array in (result, expected)]
            np.testing.assert_allclose(*wide, rtol=case.rtol, atol=case.atol)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return None


@functools.cache
def failures() -> dict[str, str]:
    """What went wrong, by the name of the case; cases that pass are not in it."""
    found = {name: failure(case) for name, case in cases().items()}
    return {name: text for name, text in found.items() if text is not None}


def known_failures() -> dict[str, str]:
    """Reason by name. A line is ``name  reason``; a line that starts with # is a comment."""
    lines = KNOWN_FAILURES.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def test_the_filter_hides_nothing() -> None:
    counted = [case for case in cases().values() if case.is_of_numpy_types]
    assert len(counted) >= FEWEST_CASES


def test_every_case_passes_that_is_not_listed() -> None:
    unexpected = {name: text for name, text in failures().items() if name not in known_failures()}
    assert not unexpected, f"{len(unexpected)} cases fail:\n" + "\n".join(
        f"{name}: {text.strip()[:300]}" for name, text in sorted(unexpected.items())
    )


def test_every_listed_case_still_fails() -> None:
    # Another version of onnx may not have a case; then there is nothing to say about it.
    passing = [name for name in known_failures() if name in cases() and name not in failures()]
    assert not passing, f"these pass now; take them off {KNOWN_FAILURES.name}: {', '.join(passing)}"


def test_at_least_95_percent_pass() -> None:
    counted = [name for name, case in cases().items() if case.is_of_numpy_types]
    failed = [name for name in counted if name in failures()]
    rate = 1 - len(failed) / len(counted)
    assert rate >= 0.95, f"{len(failed)} of {len(counted)} fail"


def test_the_comparison_finds_a_wrong_value() -> None:
    case = next(case for name, case in cases().items() if name == "test_add")
    assert failure(case) is None
    wrong = Case(case.name, case.model, case.inputs, [case.outputs[0] + 0.01], case.rtol, case.atol)
    assert "Mismatched elements" in (failure(wrong) or "")


@pytest.mark.parametrize("name", ["test_add", "test_relu"])
def test_cases_are_there(name: str) -> None:
    assert name in cases()
