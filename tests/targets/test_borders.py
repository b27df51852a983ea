"""Padding's conditions are taken out of loops, and every case computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import ir, tirx
from tvm.script import tirx as T  # noqa: N812  as its parser wants it
from tvm_ffi.structural import structural_visit

from edgec.targets.borders import part_borders


@T.prim_func
def padded_sum(x: T.Buffer((6, 8), "float32"), y: T.Buffer((6, 3), "float32")) -> None:
    """y[i, j] sums over k what x has at (i - 1, k + 5 j - 3), and zero beyond its edges."""
    for i, j in T.grid(6, 3):
        y[i, j] = T.float32(0)
        for k in range(4):
            y[i, j] = y[i, j] + T.if_then_else(i >= 1 and j >= 1, x[i - 1, k + j * 4 - 4], T.float32(0))
            y[i, j] = y[i, j] * T.if_then_else(i >= 1, T.float32(1), T.float32(1))


def parted() -> tvm.IRModule:
    return part_borders(tvm.IRModule({"main": padded_sum.with_attr("global_symbol", "main")}))


def conditions_in_loops_over_k(module: tvm.IRModule) -> int:
    found: list[ir.Call] = []

    def visit(loop: tirx.For, visitor: object) -> None:
        if str(loop.loop_var.name) == "k":
            structural_visit(loop.body, (ir.Call, lambda call, _: found.append(call)))
        visitor.default_visit(loop)  # type: ignore[attr-defined]

    structural_visit(module["main"].body, (tirx.For, visit))
    return sum(str(call.op.name) == "prim.if_then_else" for call in found)


def test_no_loop_tests_what_it_does_not_change() -> None:
    assert conditions_in_loops_over_k(tvm.IRModule({"main": padded_sum})) == 2
    assert conditions_in_loops_over_k(parted()) == 0


@pytest.mark.parametrize("part", [False, True])
def test_the_result_is_the_same(part: bool) -> None:
    module = parted() if part else tvm.IRModule({"main": padded_sum.with_attr("global_symbol", "main")})
    x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    y = tvm.runtime.tensor(np.full((6, 3), 7, np.float32))
    tvm.compile(tirx.transform.ConvertSSA()(module), target="llvm")["main"](tvm.runtime.tensor(x), y)
    expected = np.zeros((6, 3), np.float32)
    expected[1:, 1:] = x[:5].reshape(5, 2, 4).sum(2)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
