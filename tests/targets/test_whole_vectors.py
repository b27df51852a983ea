"""Vectorized loops with a limit become full vectors and a shorter last one."""

from __future__ import annotations

import pytest

tvm = pytest.importorskip("tvm")

from tvm import te, tirx  # noqa: E402
from tvm.s_tir import Schedule  # noqa: E402

from edgec.targets.kernel_object import build_kernel  # noqa: E402
from edgec.targets.profile import load_profile  # noqa: E402


def doubled(rows: int, columns: int, lanes: int) -> tirx.PrimFunc:
    """The double of (rows, columns), in vectors along the columns."""
    x = te.placeholder((rows, columns), name="x")
    function = te.create_prim_func([x, te.compute((rows, columns), lambda i, j: x[i, j] + x[i, j], name="y")])
    schedule = Schedule(tvm.IRModule({"main": function}))
    _, column = schedule.get_loops("y")
    schedule.vectorize(schedule.split(column, [None, lanes])[1])
    return schedule.mod["main"]


@pytest.mark.parametrize("columns", [5, 8, 10, 23])
def test_what_remains_is_a_shorter_vector(columns: int) -> None:
    """That the numbers are right is shown by the random kernels."""
    text = build_kernel(doubled(3, columns, 8), "doubled", load_profile("x86-64-v3")).inspect_source()
    assert ("<8 x float>" in text) == (columns >= 8)
    assert columns % 8 == 0 or f"<{columns % 8} x float>" in text
    assert "store float " not in text
