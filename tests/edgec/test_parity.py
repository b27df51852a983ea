"""The comparison itself: what it must let pass, what it must not, and the figures it gives."""

from __future__ import annotations

import json
import math
import tempfile

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgec.bundle import Bundle
from edgec.errors import EdgecError
from edgec.parity import POLICY, OutputParity, ParityReport, Tolerance, compare, policy_of

FLOAT32 = POLICY["float32"]
# Elementwise only: what the property tests reason about.
ELEMENTS = Tolerance(rtol=1e-4, atol_of_max=1e-5, min_sqnr_db=-math.inf, min_cosine=-1.0)


def row(*values: float, dtype: str = "float32") -> np.ndarray:
    return np.array([values], dtype)


def test_the_policy_is_the_documented_one() -> None:
    assert (FLOAT32.rtol, FLOAT32.atol_of_max, FLOAT32.min_sqnr_db) == (1e-4, 1e-5, 80.0)


def test_equal_arrays_pass() -> None:
    result = compare("y", row(1, -2, 0), row(1, -2, 0), FLOAT32)
    assert result == OutputParity("y", True, "", 3, 0.0, 0.0, math.inf, pytest.approx(1.0), (0, 0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails(bad: float) -> None:
    result = compare("y", row(1, 2, 3), row(1, bad, 3), FLOAT32)
    assert not result.passed
    assert result.reason == f"is {bad} where the engine gives 2.0, at sample 0, element [1]"
    assert result.worst_index == (0, 1)
    assert result.smallest_rtol == math.inf


def test_a_value_that_should_not_be_finite_fails() -> None:
    assert "is 2.0 where the engine gives inf" in compare("y", row(1, math.inf), row(1, 2), FLOAT32).reason
    assert not compare("y", row(math.inf, 1), row(-math.inf, 1), FLOAT32).passed
    assert not compare("y", row(math.nan, 1), row(math.nan, 1), FLOAT32).passed


def test_equal_infinities_pass_and_hide_nothing() -> None:
    assert compare("y", row(math.inf, -math.inf, 1), row(math.inf, -math.inf, 1), FLOAT32).passed
    assert compare("y", row(math.inf), row(math.inf), FLOAT32).passed
    result = compare("y", row(math.inf, 1, 2), row(math.inf, 1.1, 2), FLOAT32)
    assert "is 1.10000002 where the engine gives 1, at sample 0, element [1]" in result.reason


def test_shape_and_dtype_come_first() -> None:
    reference = np.ones((2, 3), np.float32)
    for actual, said in (
        (np.ones((3, 2), np.float32), "is float32 (3, 2), the engine gives float32 (2, 3)"),
        (np.ones((2, 3), np.float64), "is float64 (2, 3), the engine gives float32 (2, 3)"),
    ):
        result = compare("y", reference, actual, FLOAT32)
        assert (result.passed, result.reason) == (False, said)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_nothing_to_compare_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgecError, match="nothing was compared: output 'boxes' has no elements"):
        compare("boxes", np.empty(shape, np.float32), np.empty(shape, np.float32), FLOAT32)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_integers_are_exact(dtype: str) -> None:
    reference = np.array([[0, 1, 1, 0]], dtype)
    assert compare("y", reference, reference.copy(), FLOAT32).passed
    result = compare("y", reference, np.array([[0, 1, 0, 0]], dtype), FLOAT32)
    assert not result.passed
    assert result.worst_index == (0, 2)
    assert "at sample 0, element [2]; 1 of 4 elements differ" in result.reason
    assert result.smallest_rtol == math.inf


def test_large_integers_are_exact() -> None:
    """As doubles these two are equal."""
    reference, actual = np.array([[2**53]]), np.array([[2**53 + 1]])
    result = compare("y", reference, actual, FLOAT32)
    assert not result.passed
    assert f"is {2**53 + 1} where the engine gives {2**53}" in result.reason


@pytest.mark.parametrize(
    ("recipe", "policy"),
    [
        ({"precision": "float32"}, "float32"),
        ({"precision": "float16"}, "float16"),
        ({"precision": "int8", "float_islands": []}, "int8"),
        ({"precision": "int8", "float_islands": ["Softmax"]}, "int8 with float islands"),
    ],
)
def test_only_islands_of_float_give_integers_a_step(recipe: dict[str, object], policy: str) -> None:
    tolerance = policy_of(Bundle(tempfile.TemporaryDirectory(), {"recipe": recipe}))
    assert tolerance is POLICY[policy]
    assert tolerance.integer_steps == (1 if policy == "int8 with float islands" else 0)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integers_within_their_steps(dtype: str) -> None:
    """Neighbours pass; 255 and 0 are none, although their difference wraps around to one."""
    one_step = POLICY["int8 with float islands"]
    ends = np.iinfo(dtype)
    reference = np.array([[ends.min, 7, ends.max]], dtype)
    assert compare("y", reference, np.array([[ends.min + 1, 6, ends.max - 1]], dtype), one_step).passed
    for actual, worst in (([ends.min, 9, ends.max], 1), ([ends.max, 7, ends.max], 0), ([ends.min, 7, ends.min], 2)):
        result = compare("y", reference, np.array([actual], dtype), one_step)
        assert not result.passed
        assert result.worst_index == (0, worst)
        assert "1 of 3 elements differ" in result.reason


@pytest.mark.parametrize("dtype", ["int64", "uint64", "bool"])
def test_indices_and_truths_have_no_steps(dtype: str) -> None:
    reference, actual = np.array([[0, 1, 1]], dtype), np.array([[0, 1, 0]], dtype)
    assert not compare("y", reference, actual, POLICY["int8 with float islands"]).passed


def test_a_zero_reference_allows_nothing_else() -> None:
    zeros = np.zeros((1, 4), np.float32)
    assert compare("y", zeros, zeros.copy(), FLOAT32).passed
    result = compare("y", zeros, row(0, 1e-30, 0, 0), FLOAT32)
    assert not result.passed
    assert result.smallest_rtol == math.inf
    assert result.sqnr_db == -math.inf


def test_the_bound_is_where_the_policy_says() -> None:
    """|a - b| <= 1e-4 |b| + 1e-5 max|b| for b = 2 among others up to 10: 3e-4."""
    reference = row(10, 2, -5, dtype="float64")
    inside, outside = row(10, 2 + 2.999e-4, -5, dtype="float64"), row(10, 2 + 3.001e-4, -5, dtype="float64")
    assert compare("y", reference, inside, FLOAT32).passed
    assert compare("y", reference, outside, FLOAT32).reason.startswith("is 2.0003001 where the engine gives 2, at")


def test_one_small_element_cannot_hide_behind_a_large_one() -> None:
    """The SQNR of this pair is excellent."""
    reference, actual = row(1000, 1, dtype="float64"), row(1000, 1.02, dtype="float64")
    result = compare("y", reference, actual, FLOAT32)
    assert result.sqnr_db > 90
    assert not result.passed


def test_sqnr_and_cosine_fail_on_their_own() -> None:
    reference = np.linspace(0.5, 1, 1000)[None]
    loose = Tolerance(rtol=1.0, atol_of_max=1.0, min_sqnr_db=80.0, min_cosine=-1.0)
    result = compare("y", reference, reference * 1.001, loose)
    assert result.reason == "SQNR is 60.0 dB, must be at least 80 dB"
    turned = Tolerance(rtol=10.0, atol_of_max=10.0, min_sqnr_db=-math.inf, min_cosine=0.999)
    assert compare("y", reference, -reference, turned).reason == "cosine is -1.0000000, must be at least 0.999"


def test_extreme_doubles_neither_overflow_nor_vanish() -> None:
    for scale in (1e300, 1e-300):
        reference = np.linspace(0.5, 1, 100)[None] * scale
        assert compare("y", reference, reference.copy(), FLOAT32).passed
        result = compare("y", reference, reference * 1.001, FLOAT32)
        assert not result.passed
        assert result.sqnr_db == pytest.approx(60, abs=0.1)


VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(max_examples=200, deadline=None)
@given(
    reference=arrays(np.float64, (2, 5), elements=VALUES),
    noise=arrays(np.float64, (2, 5), elements=st.floats(-1e-2, 1e-2)),
)
def test_smallest_rtol_is_the_smallest(reference: np.ndarray, noise: np.ndarray) -> None:
    """With it the elements pass; with a little less they do not."""
    actual = reference + noise * np.abs(reference).max()
    smallest = compare("y", reference, actual, ELEMENTS).smallest_rtol
    assume(0 < smallest < math.inf)

    def passes(rtol: float) -> bool:
        same_ratio = ELEMENTS.atol_of_max / ELEMENTS.rtol
        return compare("y", reference, actual, Tolerance(rtol, rtol * same_ratio, -math.inf, -1.0)).passed

    assert passes(smallest * (1 + 1e-9))
    assert not passes(smallest * (1 - 1e-6))


@settings(max_examples=100, deadline=None)
@given(
    reference=arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)),
    index=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    factor=st.floats(3, 1000),
)
def test_one_wrong_element_is_found_and_named(reference: np.ndarray, index: tuple[int, int], factor: float) -> None:
    largest = float(np.abs(reference).max())
    assume(largest > 1e-3)
    actual = reference.astype(np.float64)
    actual[index] += factor * (1e-4 * abs(float(reference[index])) + 1e-5 * largest)
    result = compare("y", reference.astype(np.float64), actual, FLOAT32)
    assert not result.passed
    assert result.worst_index == index


def report(*outputs: OutputParity) -> ParityReport:
    return ParityReport("net", "rk3588", "float32", "QEMU cortex-a76", 3, FLOAT32, outputs, 0.5)


def test_a_report_is_true_only_if_every_output_passed() -> None:
    good = compare("good", row(1, 2), row(1, 2), FLOAT32)
    bad = compare("bad", row(1, 2), row(1, math.nan), FLOAT32)
    assert report(good)
    mixed = report(good, bad)
    assert not mixed
    assert mixed.failures == (bad,)
    lines = str(mixed).splitlines()
    assert lines[0] == "parity FAILED: net (rk3588) on QEMU cortex-a76, 3 samples"
    assert lines[1].startswith("  ok   good: smallest rtol 0.0e+00 (allowed 1e-04)")
    assert lines[2].startswith("  FAIL bad: ")
    assert lines[3].strip() == bad.reason


def test_a_report_is_valid_json() -> None:
    """JSON has no infinity: such figures become null."""
    bad = compare("bad", row(1, 2), row(1, math.nan), FLOAT32)
    text = json.dumps(report(bad).to_dict(), allow_nan=False)
    loaded = json.loads(text)
    assert loaded["passed"] is False
    assert loaded["outputs"][0]["name"] == "bad"
    assert loaded["outputs"][0]["smallest_rtol"] is None
    assert loaded["tolerance"]["rtol"] == 1e-4
