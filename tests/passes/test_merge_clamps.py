from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.passes import MergeClamps

SIX = np.array(6, np.float32)
ONE = np.array(1, np.float32)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Relu(x) y = Clip(a, , six)", ["Clip"]),
        ("a = Relu(x) y = Min(a, six)", ["Clip"]),
        ("a = Relu(x) y = Min(six, a)", ["Clip"]),
        ("a = Clip(x, , six) y = Relu(a)", ["Clip"]),
        ("a = Relu(x) y = Relu(a)", ["Relu"]),
        ("y = Max(x, zero)", ["Relu"]),
        ("y = Clip(x, zero)", ["Relu"]),
        ("y = Min(x, six)", ["Clip"]),
        ("a = Relu(x) y = Add(a, six)", ["Relu", "Add"]),
    ],
)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_chains(build, apply_pass, operators, body, expected, dtype):
    numpy_type = np.float32 if dtype == "float" else np.float16
    model = build(
        f"g ({dtype}[3, 4] x) => ({dtype}[3, 4] y) {{ {body} }}",
        six=SIX.astype(numpy_type),
        zero=np.array(0, numpy_type),
    )
    apply_pass(MergeClamps(), model)
    assert operators(model) == expected


def test_the_first_stays_where_others_read_it(build, operators):
    model = build("g (float[3] x) => (float[3] a, float[3] y) { a = Relu(x) y = Clip(a, , six) }", six=SIX)
    result = MergeClamps()(model)
    assert operators(model) == ["Relu", "Clip"]
    assert result.refused == ("Clip 'Clip': the result of Relu 'Relu' is used elsewhere too",)


def test_bounds_that_cross_stay(build):
    model = build("g (float[3] x) => (float[3] y) { a = Clip(x, six, one) y = Relu(a) }", six=SIX, one=ONE)
    assert MergeClamps()(model).refused == ("Relu 'Relu': a lower bound lies above the upper one",)


bounds = st.lists(st.sampled_from([-1.5, -1.0, 0.0, 0.25, 1.0, 1.5]), min_size=2, max_size=2).map(sorted)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inner=bounds, outer=bounds)
def test_two_clips_are_one(build, apply_pass, operators, inner, outer):
    model = build(
        "g (float[64] x) => (float[64] y) { a = Clip(x, b0, b1) y = Clip(a, b2, b3) }",
        **{f"b{index}": np.array(bound, np.float32) for index, bound in enumerate((*inner, *outer))},
    )
    apply_pass(MergeClamps(), model)
    assert operators(model) == ["Clip"]
