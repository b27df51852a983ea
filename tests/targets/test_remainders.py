"""What remains of a tiled axis is computed beside the whole tiles, and integer sums begin with their bias."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.script import tirx as T  # noqa: N812  as its parser wants it
from tvm_ffi.structural import structural_visit

from edgec.targets.intrinsics import DOT_PRODUCTS, nearest_integer
from edgec.targets.kernel_object import build_kernel
from edgec.targets.lowering.convolution import conv2d_blocked
from edgec.targets.profile import load_profile
from edgec.targets.remainders import part_remainders
from edgec.targets.schedules import schedule_kernel

LANES, WORDS = 16, 4


@T.prim_func
def tiled(x: T.Buffer((3, 10), "float32"), y: T.Buffer((3, 10), "float32")) -> None:
    """Compute 2 x + 1 in tiles of 4 columns, the last of which has 2."""
    for i_tile in range(9):
        for j in T.unroll(4):
            if i_tile % 3 * 4 + j < 10:
                y[i_tile // 3, i_tile % 3 * 4 + j] = T.float32(1)
        for k in range(2):
            for j in T.unroll(4):
                if i_tile % 3 * 4 + j < 10 and k < 2:
                    y[i_tile // 3, i_tile % 3 * 4 + j] += x[i_tile // 3, i_tile % 3 * 4 + j]


@T.prim_func
def shifted(x: T.Buffer((10,), "float32"), y: T.Buffer((10,), "float32")) -> None:
    """Tiles that do not begin at multiples of their size: the last two lack elements."""
    for tile in range(4):
        for j in T.unroll(4):
            if tile * 3 + j < 10:
                y[tile * 3 + j] = x[tile * 3 + j]


def parted(function: tirx.PrimFunc) -> tvm.IRModule:
    return part_remainders(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))


def unrolled(module: tvm.IRModule) -> list[tuple[int, int]]:
    """(elements, tests within) of every unrolled loop."""
    found = []

    def visit(loop: tirx.For, visitor: object) -> None:
        if loop.kind == tirx.ForKind.UNROLLED:
            tests: list[tirx.IfThenElse] = []
            structural_visit(loop.body, (tirx.IfThenElse, lambda test, _: tests.append(test)))
            found.append((int(loop.extent), len(tests)))
        visitor.default_visit(loop)  # type: ignore[attr-defined]

    structural_visit(module["main"].body, (tirx.For, visit))
    return found


def test_whole_tiles_are_not_tested() -> None:
    assert unrolled(tvm.IRModule({"main": tiled})) == [(4, 1), (4, 1)]
    assert unrolled(parted(tiled)) == [(4, 0), (4, 1), (2, 0), (2, 1)]  # what remains is k < 2


def test_only_tiles_at_multiples_of_their_size() -> None:
    assert unrolled(parted(shifted)) == [(4, 1)]


@pytest.mark.parametrize("part", [False, True])
def test_the_result_is_the_same(part: bool) -> None:
    module = parted(tiled) if part else tvm.IRModule({"main": tiled.with_attr("global_symbol", "main")})
    x = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    y = tvm.runtime.tensor(np.full((3, 10), 7, np.float32))
    tvm.compile(tirx.transform.ConvertSSA()(module), target="llvm")["main"](tvm.runtime.tensor(x), y)
    np.testing.assert_allclose(y.numpy(), 2 * x + 1, rtol=1e-6)


def assembly(size: int, kernel: int) -> str:
    """What an integer convolution of 96 channels over an image of so many rows and columns is for RK3588."""
    profile, blocks = load_profile("rk3588"), 96 // LANES
    x = te.placeholder((1, blocks, size, size, WORDS), "int32", name="x")
    w = te.placeholder((blocks, blocks, kernel, kernel, WORDS, LANES), "int32", name="w")
    bias = te.placeholder((1, blocks, 1, 1, LANES), "int32", name="bias")
    settings = ([1, 1], [1, 1], [0] * 4, 1, 96 // WORDS, DOT_PRODUCTS["sdot"], 0)
    total = conv2d_blocked(x, w, *settings)

    def along(function: Callable[..., tirx.Expr], source: te.Tensor, name: str) -> te.Tensor:
        return te.compute(total.shape, lambda *i: function(source(*i), bias(0, i[1], 0, 0, i[4])), name=name)

    biased = along(lambda t, b: t + b, total, "biased")
    result = along(lambda t, _: nearest_integer(t.astype("float32") * tirx.const(0.5, "float32")), biased, "result")
    scheduled = schedule_kernel(te.create_prim_func([x, w, bias, result]), profile)
    return build_kernel(scheduled, "conv", profile).inspect_source("asm")


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions between each label and a branch back to it that no other label lies between."""
    loops, label, body = [], "", []
    for line in map(str.strip, text.splitlines()):
        if found := re.match(r"(\.LBB\w+):", line):
            label, body = found[1], []
        elif re.match(r"[a-z]", line):
            body.append(line)
            if re.match(r"(b\.|cbn?z|tbn?z)", line) and line.endswith(label) and label:
                loops.append(list(body))
    return loops


@pytest.mark.parametrize(("size", "kernel"), [(7, 1), (14, 1), (9, 3), (15, 3), (24, 3)])
def test_no_tile_is_tested_in_the_innermost_loop(size: int, kernel: int) -> None:
    """49 columns are no multiple of a tile's; with tests there were 1.8 instructions per SDOT."""
    text = assembly(size, kernel)
    loops = [loop for loop in innermost_loops(text) if any(line.startswith("sdot") for line in loop)]
    assert loops
    best = max(loops, key=len)
    products = sum(line.startswith("sdot") for line in best)
    assert len(best) <= 1.35 * products
    assert sum(line.startswith("sdot") for loop in loops for line in loop) == text.count("\tsdot")


def test_tiles_of_half_a_block_load_less() -> None:
    """Eight columns of two vectors: 1.17 instructions per SDOT with four of four."""
    best = max(innermost_loops(assembly(26, 3)), key=lambda loop: sum(line.startswith("sdot") for line in loop))
    assert len(best) <= 1.13 * sum(line.startswith("sdot") for line in best)


def test_integer_sums_begin_with_their_bias() -> None:
    text = assembly(14, 1)
    assert "\tscvtf\t" in text
    assert not re.search(r"\tadd\tv\d+\.4s", text)
