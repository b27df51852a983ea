"""Integer intrinsics: every row of the table against NumPy, through kernels of one expression; and what they become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tvm")

from tvm import tirx

from edgec.targets.instruction_sets import INSTRUCTION_SETS
from edgec.targets.intrinsics import (
    DOT_PRODUCTS,
    SMALL,
    nearest_integer,
    rounded,
    rounded_to_ones,
    saturated,
    word_of,
)
from edgec.targets.profile import Profile, load_profile
from tests.targets.cpus import need_vectors_of
from tests.targets.tiny_kernels import TinyKernel, run_kernels

Array = NDArray[Any]

TARGETS = ["native", "x86-64-v2", "x86-64-v3", "x86-64-v4", "rk3588", "raspberry-pi-4"]
MNEMONICS = {"vpdpbusd": "vpdpbusd", "vpmaddwd": "pmaddwd", "sdot": "sdot"}
ROWS = 64


@pytest.fixture(params=TARGETS)
def profile(request: pytest.FixtureRequest) -> Profile:
    """A target whose code this machine can run, here or under QEMU."""
    found = load_profile(request.param)
    need_vectors_of(found)
    return found


def words(bytes_: Array) -> Array:
    """(..., 4) bytes -> (...) int32, the first byte lowest."""
    return np.ascontiguousarray(bytes_).view(np.int32)[..., 0]


def operands(dtype: str, lanes: int) -> tuple[Array, Array, Array]:
    """Sums, and bytes (rows, lanes, 4) of both operands: any, and all that are extreme."""
    rng = np.random.default_rng(lanes)
    data, weights = (
        rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, (ROWS, lanes, 4), kind, endpoint=True)
        for kind in (dtype, "int8")
    )
    info = np.iinfo(dtype)
    data[0], weights[0] = info.max, 127
    data[1], weights[1] = info.max, -128  # 2 · 255 · -128 is beyond 16 bits
    data[2], weights[2] = info.min, -128
    sums = rng.integers(-(2**31), 2**31, (ROWS, lanes)).astype(np.int32)  # they wrap around
    return sums, data, weights


def test_dot_products(profile: Profile, tmp_path: Path) -> None:
    """In vectors of all sizes that there is an instruction for, and of others."""
    dot = profile.dot_product
    if dot is None:
        assert profile.instruction_set.dot_product == ""
        return
    available = [lanes for lanes in dot.lanes if lanes * 32 <= profile.instruction_set.vector_bits]
    assert available
    kernels, expected = [], []
    for lanes in [*available, 1, 3, 5]:
        sums, data, weights = operands(dot.data_dtype, lanes)
        kernels.append(TinyKernel(lambda s, d, w: s + dot(d, w), [sums, words(data), words(weights)]))
        exact = sums + (data.astype(np.int64) * weights.astype(np.int64)).sum(-1)
        expected.append(exact.astype(np.int32))
        text = kernels[-1].built("dot", profile).inspect_source("asm")
        assert MNEMONICS[dot.name] in text or lanes not in available
    for actual, reference in zip(run_kernels(kernels, "int32", profile, tmp_path), expected, strict=True):
        np.testing.assert_array_equal(actual, reference)


def test_every_dot_product_belongs_to_an_instruction_set() -> None:
    used = {row.dot_product for row in INSTRUCTION_SETS.values()} - {""}
    assert used == {row.name for row in DOT_PRODUCTS.values() if row.lanes}  # a GPU's has no vectors
    for row in INSTRUCTION_SETS.values():
        if row.dot_product:
            assert row.vector_bits // 32 in DOT_PRODUCTS[row.dot_product].lanes, row.name


def test_rounding_to_the_nearest_integer(profile: Profile, tmp_path: Path) -> None:
    """Halves to even, in vectors and single numbers, up to the largest float below the end of int32."""
    rng = np.random.default_rng(0)
    halves = np.arange(-40, 40) / 2
    large = np.array(
        [2**31 - 128, -(2**31), 2**24 + 2, 2**23 + 0.5, -(2**23) + 0.5, 0.49999997, -0.49999997, 8388607.5]
    )
    every = np.concatenate([halves, large, rng.uniform(-300, 300, 32), rng.uniform(-2e9, 2e9, 8)]).astype(np.float32)
    arrays = [every.reshape(-1, lanes) for lanes in (1, 4, 8, 16)]
    kernels = [TinyKernel(nearest_integer, [array]) for array in arrays]
    for array, actual in zip(arrays, run_kernels(kernels, "int32", profile, tmp_path), strict=True):
        np.testing.assert_array_equal(actual, np.rint(array.astype(np.float64)).astype(np.int32))


def numbers_near_bytes(limit: float) -> Array:
    """Halves about every byte and zero point, numbers next to halves, and such as are about as large as the limit."""
    rng = np.random.default_rng(0)
    halves = np.arange(-800, 800) / 2
    large = np.array([limit, limit - 0.5, limit / 2, limit / 3])
    parts = [halves, np.nextafter(halves, np.inf, dtype=np.float32), large, -large, [-0.0, 1e-30]]
    every = np.concatenate([*parts, rng.uniform(-limit, limit, 64), rng.uniform(-300, 300, 64)])
    return every[: len(every) // 16 * 16].astype(np.float32)


@pytest.mark.parametrize("is_small", [False, True])
def test_rounding_to_a_byte(profile: Profile, is_small: bool, tmp_path: Path) -> None:
    """For zero points even and odd: half to even counts without them. What is called small is as large as it may be."""
    every = numbers_near_bytes(SMALL if is_small else 2e9)
    for dtype, zeros in (("int8", (-128, -55, 0, 127)), ("uint8", (0, 7, 128, 255))):
        kernels, expected, info = [], [], np.iinfo(dtype)
        for zero in zeros:
            for lanes in (1, 4, 16):

                def function(x: Any, zero: int = zero, dtype: str = dtype) -> Any:
                    return saturated(x, tirx.const(zero, "int32"), dtype, is_small=is_small)

                kernels.append(TinyKernel(function, [every.reshape(-1, lanes)]))
                steps = np.clip(np.rint(every.astype(np.float64)) + zero, info.min, info.max)
                expected.append(steps.reshape(-1, lanes).astype(dtype))
        for actual, reference in zip(run_kernels(kernels, dtype, profile, tmp_path), expected, strict=True):
            np.testing.assert_array_equal(actual, reference)


def test_rounding_to_ones(profile: Profile, tmp_path: Path) -> None:
    every = numbers_near_bytes(1e7)
    kernels = [TinyKernel(rounded_to_ones, [every.reshape(-1, lanes)]) for lanes in (1, 4, 16)]
    for actual in run_kernels(kernels, "float32", profile, tmp_path):
        np.testing.assert_array_equal(actual.reshape(-1).view(np.int32), np.rint(every).view(np.int32))


@pytest.mark.parametrize(("zero", "most"), [(-128, 18), (-55, 20)])
def test_small_numbers_take_few_instructions_of_neon(zero: int, most: int) -> None:
    """16 sums become bytes with 12 instructions of arithmetic, 4 that narrow, and a load of constants."""

    def function(total: Any, scale: Any) -> Any:
        steps = rounded(total.astype("float32") * scale)
        return saturated(steps, tirx.const(zero, "int32"), "int8", is_small=True)

    arrays = [np.zeros((8, 16), np.int32), np.zeros((8, 16), np.float32)]
    text = TinyKernel(function, arrays).built("kernel", load_profile("rk3588")).inspect_source("asm")
    vectors = [line.split()[0] for line in text.splitlines() if re.match(r"\s+[a-z]\w+\s+v\d+\.\w+, v\d+", line)]
    assert vectors.count("scvtf") >= 4
    assert len(vectors) / vectors.count("scvtf") * 4 <= most, vectors


def test_a_rounded_product_is_not_contracted(profile: Profile, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((ROWS, 16)).astype(np.float32) for _ in range(2)]
    x, y = arrays
    z = -(x * y) * np.float32(1 + 2**-23)  # next to nothing remains: every bit of the product shows
    kernels = [TinyKernel(lambda a, b, c: rounded(a * b) + c, [array.copy() for array in (x, y, z)])]
    kernels += [TinyKernel(kernels[0].function, [np.ascontiguousarray(a.reshape(-1, 1)) for a in (x, y, z)])]
    whole, single = run_kernels(kernels, "float32", profile, tmp_path)
    expected = (x * y).astype(np.float32) + z
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(single.reshape(expected.shape), expected)
    contracted = (x.astype(np.float64) * y + z).astype(np.float32)
    assert (contracted != expected).mean() > 0.5  # a multiply-add would be seen


def test_words_of_bytes(profile: Profile, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernels, expected = [], []
    for dtype in ("uint8", "int8"):
        for lanes in (1, 4, 8, 16):
            info = np.iinfo(dtype)
            parts = [rng.integers(info.min, info.max, (ROWS, lanes), dtype, endpoint=True) for _ in range(4)]
            kernels.append(TinyKernel(lambda *given: word_of(given), parts))
            expected.append(words(np.stack(parts, axis=-1)))
    for actual, reference in zip(run_kernels(kernels, "int32", profile, tmp_path), expected, strict=True):
        np.testing.assert_array_equal(actual, reference)
