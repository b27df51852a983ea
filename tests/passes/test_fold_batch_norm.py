from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import FoldBatchNorm

RNG = np.random.default_rng(3)


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


def statistics(channels: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    return {
        "scale": floats(channels, dtype=dtype),
        "shift": floats(channels, dtype=dtype),
        "mean": floats(channels, dtype=dtype),
        "var": RNG.uniform(0.1, 2, channels).astype(dtype),
    }


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_into_conv(build, apply_pass, operators, bias, dtype):
    numpy_type = np.float32 if dtype == "float" else np.float16
    arrays = statistics(6, numpy_type) | {"w": floats(6, 2, 3, 3, dtype=numpy_type)}
    if bias:
        arrays["b"] = floats(6, dtype=numpy_type)
    model = build(
        f"""g ({dtype}[1, 4, 8, 8] x) => ({dtype}[1, 6, 6, 6] y) {{
        a = Conv<group = 2>(x, w{bias})
        y = BatchNormalization<epsilon = 0.01>(a, scale, shift, mean, var)
    }}""",
        **arrays,
    )
    apply_pass(FoldBatchNorm(), model, relative=1e-4 if dtype == "float" else 2e-2)
    assert operators(model) == ["Conv"]
    assert model.graph.node(0).inputs[1].dtype == model.graph.inputs[0].dtype


def test_into_conv_transpose_with_groups(build, apply_pass, operators):
    model = build(
        """g (float[1, 4, 5, 5] x) => (float[1, 6, h, w1] y) {
        a = ConvTranspose<group = 2, strides = [2, 2]>(x, w)
        y = BatchNormalization(a, scale, shift, mean, var)
    }""",
        w=floats(4, 3, 3, 3),
        **statistics(6),
    )
    apply_pass(FoldBatchNorm(), model)
    assert operators(model) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_into_gemm(build, apply_pass, operators, transposed):
    model = build(
        f"""g (float[2, 4] x) => (float[2, 3] y) {{
        a = Gemm<transB = {transposed}, alpha = 0.5, beta = 2.0>(x, w, c)
        y = BatchNormalization(a, scale, shift, mean, var)
    }}""",
        w=floats(3, 4) if transposed else floats(4, 3),
        c=floats(1, 3),
        **statistics(3),
    )
    apply_pass(FoldBatchNorm(), model)
    assert operators(model) == ["Gemm"]


def test_a_result_used_twice_is_not_folded(build, apply_pass, operators):
    model = build(
        """g (float[1, 2, 4, 4] x) => (float[1, 3, 4, 4] y, float[1, 3, 4, 4] z) {
        a = Conv(x, w)
        y = BatchNormalization(a, scale, shift, mean, var)
        z = Relu(a)
    }""",
        w=floats(3, 2, 1, 1),
        **statistics(3),
    )
    result = FoldBatchNorm(decompose=False)(model)
    assert not result.modified
    assert result.refused == (
        "BatchNormalization 'BatchNormalization': the result of Conv 'Conv' is used elsewhere too",
    )
    apply_pass(FoldBatchNorm(), model)
    assert operators(model) == ["Conv", "Mul", "Add", "Relu"]


def test_alone_it_becomes_mul_and_add(build, apply_pass, operators):
    model = build(
        "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = BatchNormalization(x, scale, shift, mean, var) }",
        **statistics(3),
    )
    result = apply_pass(FoldBatchNorm(), model)
    assert operators(model) == ["Mul", "Add"]
    assert result.changes == {"into Mul and Add": 1}


def test_training_mode_stays(build):
    model = build(
        """g (float[2, 3, 4] x) => (float[2, 3, 4] y, float[3] m, float[3] v) {
        y, m, v = BatchNormalization<training_mode = 1>(x, scale, shift, mean, var)
    }""",
        **statistics(3),
    )
    result = FoldBatchNorm()(model)
    assert not result.modified
    assert "training mode" in result.refused[0]


def test_half_precision_that_would_overflow_is_refused(build, operators):
    arrays = statistics(2, np.float16) | {"w": np.full((2, 1, 1, 1), 60000, np.float16)}
    arrays["scale"] = np.array([2, 2], np.float16)
    arrays["var"] = np.array([1, 1], np.float16)
    model = build(
        """g (float16[1, 1, 2, 2] x) => (float16[1, 2, 2, 2] y) {
        a = Conv(x, w)
        y = BatchNormalization(a, scale, shift, mean, var)
    }""",
        **arrays,
    )
    result = FoldBatchNorm(decompose=False)(model)
    assert operators(model) == ["Conv", "BatchNormalization"]
    assert "folding it would overflow float16" in result.refused[0]


def test_a_weight_shared_by_two_convolutions_is_copied(build, apply_pass, operators):
    model = build(
        """g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y, float[1, 2, 4, 4] z) {
        a = Conv(x, w)
        y = BatchNormalization(a, scale, shift, mean, var)
        z = Conv(x, w)
    }""",
        w=floats(2, 2, 1, 1),
        **statistics(2),
    )
    apply_pass(FoldBatchNorm(), model)
    assert operators(model) == ["Conv", "Conv"]
