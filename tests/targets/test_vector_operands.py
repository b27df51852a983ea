"""Scalars that lie side by side are loaded as a vector, and its elements multiplied by."""

from __future__ import annotations

import re

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from tvm import te, tirx  # noqa: E402
from tvm.s_tir import Schedule  # noqa: E402
from tvm_ffi import structural_equal  # noqa: E402

from edgec.targets.kernel_object import build_kernel  # noqa: E402
from edgec.targets.profile import load_profile  # noqa: E402
from edgec.targets.vector_operands import vector_operands  # noqa: E402


def product(depth: int, step: int = 1, dtype: str = "float32", padding: int = 0) -> tirx.PrimFunc:
    """y[j] = sum over k of x[step * k] * w[k, j], for 4 columns; the first ``padding`` of x are zeros, not stored."""
    x = te.placeholder((8 * depth,), dtype, name="x")
    w = te.placeholder((depth, 4), dtype, name="w")
    k = te.reduce_axis((0, depth), "k")
    zero = tirx.const(0, dtype)

    def element(i: tirx.Expr) -> tirx.Expr:
        return tirx.if_then_else(i >= padding, x[i - padding], zero) if padding else x[i]

    y = te.compute((4,), lambda j: te.sum(element(step * k) * w[k, j], axis=k), name="y")
    schedule = Schedule(tvm.IRModule({"main": te.create_prim_func([x, w, y])}))
    column, depth_loop = schedule.get_loops("y")
    outer, inner = schedule.split(depth_loop, [None, 4])
    schedule.reorder(outer, inner, column)
    schedule.unroll(inner)
    schedule.vectorize(column)
    schedule.decompose_reduction("y", outer)
    return schedule.mod["main"]


def elements_and_scalars(function: tirx.PrimFunc) -> tuple[set[int], int]:
    """By which elements of vectors is multiplied, and how many scalars are loaded."""
    text = build_kernel(function, "product", load_profile("rk3588")).inspect_source("asm")
    own = text.split("\t.section\t.text.tvm")[0]  # without TVM's functions for float16
    elements = re.findall(r"\t(?:fmla|fmul|mla|mul)\tv\d+\.4s, v\d+\.4s, v\d+\.s\[(\d)\]", own)
    return {int(element) for element in elements}, len(re.findall(r"\tldp?r?\ts\d|\tld1r\t", own))


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_every_product_is_by_an_element(dtype: str) -> None:
    assert elements_and_scalars(product(8, dtype=dtype)) == ({0, 1, 2, 3}, 0)


def test_scalars_of_different_vectors_stay_scalars() -> None:
    """A register would hold three more elements in vain."""
    assert elements_and_scalars(product(8, step=4)) == ({0}, 8)


def lowered(function: tirx.PrimFunc) -> tvm.IRModule:
    """As loops over vectors, whose scalars are broadcast."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    passes = [
        tvm.s_tir.transform.LowerInitBlock(), tvm.s_tir.transform.ConvertBlocksToOpaque(),
        tvm.s_tir.transform.LowerOpaqueBlock(), tirx.transform.FlattenBuffer(), tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(), tirx.transform.StmtSimplify(),
    ]  # fmt: skip
    return tvm.transform.Sequential(passes)(module)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("step", [1, 4])
def test_the_numbers_stay(step: int, padding: int) -> None:
    before = lowered(product(8, step, padding=padding))
    after = vector_operands(before)
    assert structural_equal(before, after) == (step == 4)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(64).astype(np.float32), rng.standard_normal((8, 4)).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros(4, np.float32))
    tvm.compile(after, target="llvm")["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(w), y)
    read = np.concatenate([np.zeros(padding, np.float32), x])[: 8 * step : step]
    np.testing.assert_allclose(y.numpy(), read @ w, rtol=1e-5, atol=1e-6)
