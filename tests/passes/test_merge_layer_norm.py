from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import MergeLayerNorm

RNG = np.random.default_rng(3)
BODY = (
    "m = ReduceMean(x, axes) d = Sub(x, m) {square} v = ReduceMean(p, axes) e = Add(v, eps) r = Sqrt(e) n = Div(d, r)"
)


def model_of(build, tail, axes, shape, square="p = Pow(d, two)"):
    arrays = {"axes": np.array(axes), "eps": np.array(1e-5, np.float32), "two": np.array(2, np.float32)}
    arrays.update({name: RNG.normal(size=shape).astype(np.float32) for name in ("w", "b")})
    used = {name: array for name, array in arrays.items() if f"{name})" in BODY + square + tail}
    body = BODY.format(square=square)
    return build(f"g (float[2, 3, 8] x) => (float[2, 3, 8] y) {{ {body} {tail} }}", **used)


@pytest.mark.parametrize(
    ("tail", "axes", "shape", "square"),
    [
        ("s = Mul(n, w) y = Add(s, b)", [-1], (8,), "p = Pow(d, two)"),
        ("s = Mul(n, w) y = Add(s, b)", [2, 1], (3, 8), "p = Mul(d, d)"),
        ("y = Add(n, b)", [2], (8,), "p = Mul(d, d)"),
        ("y = Neg(n)", [2], (8,), "p = Pow(d, two)"),
    ],
)
def test_what_is_merged(build, apply_pass, operators, tail, axes, shape, square):
    model = model_of(build, tail, axes, shape, square)
    apply_pass(MergeLayerNorm(), model)
    assert operators(model)[0] == "LayerNormalization"


def test_other_axes_stay(build):
    result = MergeLayerNorm()(model_of(build, "y = Neg(n)", [1], (3,)))
    assert not result.modified
    assert result.refused[0].endswith("it normalizes other axes than the last ones")


def test_a_scale_per_row_is_no_part_of_it(build, apply_pass, operators):
    model = model_of(build, "y = Mul(n, w)", [2], (3, 1))
    apply_pass(MergeLayerNorm(), model)
    assert operators(model) == ["LayerNormalization", "Mul"]
