from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import MergeGemm

W = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)


@pytest.mark.parametrize("addend", [np.ones(3), np.ones((1, 3)), np.ones((2, 3)), np.ones((2, 1)), np.ones(())])
@pytest.mark.parametrize("expression", ["Add(a, b)", "Add(b, a)"])
def test_matmul_and_add(build, apply_pass, operators, addend, expression):
    model = build(
        f"g (float[2, 4] x) => (float[2, 3] y) {{ a = MatMul(x, w) y = {expression} }}",
        w=W,
        b=addend.astype(np.float32),
    )
    apply_pass(MergeGemm(), model)
    assert operators(model) == ["Gemm"]


def test_a_product_of_more_than_matrices_stays(build):
    model = build("g (float[5, 2, 4] x) => (float[5, 2, 3] y) { a = MatMul(x, w) y = Add(a, b) }", w=W, b=W[0])
    result = MergeGemm()(model)
    assert result.refused == ("Add 'Add': MatMul 'MatMul' is no product of two matrices",)


def test_an_addend_that_widens_the_product_stays(build):
    model = build(
        "g (float[1, 4] x) => (float[2, 3] y) { a = MatMul(x, w) y = Add(a, b) }", w=W, b=np.ones((2, 3), np.float32)
    )
    assert MergeGemm()(model).refused == ("Add 'Add': the addend widens the product",)


def test_a_product_used_twice_stays(build):
    model = build("g (float[2, 4] x) => (float[2, 3] y, float[2, 3] a) { a = MatMul(x, w) y = Add(a, b) }", w=W, b=W[0])
    assert MergeGemm()(model).refused == ("Add 'Add': the result of MatMul 'MatMul' is used elsewhere too",)
