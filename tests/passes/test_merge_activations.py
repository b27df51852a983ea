from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import MergeActivations

NUMBERS = {
    "c0": 0.0,
    "c1": 1.0,
    "c3": 3.0,
    "c6": 6.0,
    "half": 0.5,
    "sixth": 1 / 6,
    "root2": np.sqrt(2),
    "inverse": np.sqrt(0.5),
    "c0447": 0.044715,
    "c0798": np.sqrt(2 / np.pi),
}
CONSTANTS = {name: np.array(value, np.float32) for name, value in NUMBERS.items()}


def model_of(build, body):
    used = {name: array for name, array in CONSTANTS.items() if f"{name})" in body or f"{name}," in body}
    return build(f"g (float[2, 9] x) => (float[2, 9] y) {{ {body} }}", **used)


CUBIC = "p = Pow(x, c3) q = Mul(c0447, p) s = Add(x, q) u = Mul(s, c0798) t = Tanh(u) a = Add(t, c1)"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Add(x, c3) c = Clip(a, c0, c6) y = Div(c, c6)", "HardSigmoid"),
        ("a = Add(c1, x) c = Clip(a, c0, c6) y = Mul(sixth, c)", "HardSigmoid"),
        ("a = Add(x, c3) c = Clip(a, c0, c6) m = Mul(x, c) y = Div(m, c6)", "HardSwish"),
        ("a = Add(x, c3) c = Clip(a, c0, c6) d = Mul(c, sixth) y = Mul(d, x)", "HardSwish"),
        ("s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s)", "HardSwish"),
        ("d = Div(x, root2) e = Erf(d) a = Add(e, c1) m = Mul(x, a) y = Mul(m, half)", "Gelu"),
        ("d = Mul(x, inverse) e = Erf(d) a = Add(c1, e) h = Mul(half, x) y = Mul(h, a)", "Gelu"),
        (f"{CUBIC} h = Mul(a, half) y = Mul(h, x)", "Gelu"),
    ],
)
def test_what_is_merged(build, apply_pass, operators, body, expected):
    model = model_of(build, body)
    apply_pass(MergeActivations(), model, low=-7.0)
    assert operators(model) == [expected]


def test_clamp_of_another_height_stays(build, operators):
    """Clip to 0..6, but divided by 3."""
    model = model_of(build, "a = Add(x, c3) c = Clip(a, c0, c6) y = Div(c, c3)")
    assert not MergeActivations()(model).modified
    assert operators(model) == ["Add", "Clip", "Div"]


def test_what_else_is_read_stays(build):
    """The clamped sum of another value gates x, or an inner result leaves the graph."""
    model = build(
        "g (float[2, 9] x, float[2, 9] z) => (float[2, 9] y) { a = Add(z, c3) c = Clip(a, c0, c6) m = Mul(x, c) "
        "y = Div(m, c6) }",
        **{name: CONSTANTS[name] for name in ("c0", "c3", "c6")},
    )
    assert not MergeActivations()(model).modified
    model = build(
        "g (float[2, 9] x) => (float[2, 9] y, float[2, 9] c) { a = Add(x, c3) c = Clip(a, c0, c6) y = Div(c, c6) }",
        **{name: CONSTANTS[name] for name in ("c0", "c3", "c6")},
    )
    assert not MergeActivations()(model).modified


def test_integers_stay(build):
    model = build(
        "g (int32[2, 9] x) => (int32[2, 9] y) { a = Add(x, c3) c = Clip(a, c0, c6) y = Div(c, c6) }",
        **{name: CONSTANTS[name].astype(np.int32) for name in ("c0", "c3", "c6")},
    )
    assert not MergeActivations()(model).modified
