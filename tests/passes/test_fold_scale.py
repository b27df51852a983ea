from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import FoldScale

RNG = np.random.default_rng(5)
W = RNG.normal(size=(3, 2, 3, 3)).astype(np.float32)
C = RNG.uniform(0.5, 2, (3, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("expression", ["Add(a, c)", "Add(c, a)", "Sub(a, c)", "Mul(a, c)", "Mul(c, a)", "Div(a, c)"])
@pytest.mark.parametrize("constant", [C, C[None], C[0], np.float32(3)])
def test_into_conv(build, apply_pass, operators, expression, constant):
    model = build(
        f"g (float[2, 2, 6, 6] x) => (float[2, 3, 4, 4] y) {{ a = Conv(x, w) y = {expression} }}", w=W, c=constant
    )
    apply_pass(FoldScale(), model)
    assert operators(model) == ["Conv"]


def test_into_gemm(build, apply_pass, operators):
    model = build(
        "g (float[2, 4] x) => (float[2, 3] y) { a = Gemm(x, w) b = Mul(a, c) y = Add(b, d) }",
        w=RNG.normal(size=(4, 3)).astype(np.float32),
        c=np.array([1, 2, 3], np.float32),
        d=np.array([[4, 5, 6]], np.float32),
    )
    apply_pass(FoldScale(), model)
    assert operators(model) == ["Gemm"]


@pytest.mark.parametrize(
    ("expression", "constant", "why"),
    [
        ("Sub(c, a)", C, "the constant is its first operand"),
        ("Add(a, c)", np.zeros((4,), np.float32), "a constant of shape (4,) is not one number per channel"),
        ("Add(a, c)", np.zeros((3, 4, 4), np.float32), "a constant of shape (3, 4, 4) is not one number per channel"),
        ("Div(a, c)", np.zeros((3, 1, 1), np.float32), "folding it would overflow float32"),
    ],
)
def test_what_is_refused(build, expression, constant, why):
    model = build(
        f"g (float[2, 2, 6, 6] x) => (float[2, 3, 4, 4] y) {{ a = Conv(x, w) y = {expression} }}", w=W, c=constant
    )
    result = FoldScale()(model)
    assert not result.modified
    assert result.refused[0].endswith(why)


def test_a_bias_is_folded_beside_quantized_weights(build, apply_pass, operators):
    model = build(
        """g (float[1, 2, 6, 6] x) => (float[1, 3, 4, 4] y) <float s = {0.5}, int8 z = {0}> {
        w = DequantizeLinear(q, s, z)
        a = Conv(x, w)
        y = Add(a, c)
    }""",
        q=RNG.integers(-9, 9, (3, 2, 3, 3)).astype(np.int8),
        c=C,
    )
    apply_pass(FoldScale(), model)
    assert operators(model) == ["DequantizeLinear", "Conv"]
