"""Operations and bytes of kernels, against what their formulas say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from tvm import te, tirx

import edgec
from edgec.targets.lowering.work import kernel_work


def primitive(*tensors: te.Tensor) -> tirx.PrimFunc:
    return te.create_prim_func(list(tensors))


def test_a_product_of_matrices() -> None:
    a, b = te.placeholder((3, 5), "float32", "a"), te.placeholder((5, 7), "float32", "b")
    k = te.reduce_axis((0, 5))
    c = te.compute((3, 7), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k))
    work = kernel_work(primitive(a, b, c))
    assert (work.flops, work.bytes) == (2 * 3 * 5 * 7, 4 * (15 + 35 + 21))
    assert work.shapes == ("float32 3x5", "float32 5x7", "float32 3x7")


def test_epilogue_and_stages_in_between() -> None:
    """A stage between two others stays in the cache: its bytes are not counted, its operations are."""
    a = te.placeholder((8,), "float32", "a")
    b = te.compute((8,), lambda i: a[i] * 2.0 + 1.0)
    c = te.compute((8,), lambda i: tirx.max(b[i], 0.0))
    work = kernel_work(primitive(a, c))
    assert (work.flops, work.bytes) == (3 * 8, 4 * 16)


def test_a_shared_part_counts_once_and_indices_do_not_count() -> None:
    a = te.placeholder((16,), "float32", "a")

    def element(i: tirx.Var) -> tirx.Expr:
        square = a[i * 2 + 1] * a[i * 2 + 1]
        return square * square + square

    work = kernel_work(primitive(a, te.compute((4,), element)))
    assert work.flops == 3 * 4


def test_no_more_is_read_than_there_are_accesses() -> None:
    """Rows looked up in a table; integers are moved but not counted as arithmetic."""
    table, rows = te.placeholder((1000, 8), "float32", "table"), te.placeholder((2,), "int64", "rows")
    work = kernel_work(primitive(table, rows, te.compute((2, 8), lambda i, j: table[rows[i] + 1, j])))
    assert (work.flops, work.bytes) == (0, 4 * 16 + 8 * 2 + 4 * 16)


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 16, 10, 12] x, float[32, 16, 3, 3] w) => (float[1, 32, 4, 5] y) { y = Conv<strides = [2, 2]>(x, w) }""")
    weights = onnx.numpy_helper.from_array(np.ones((32, 16, 3, 3), np.float32), "w")
    model.graph.initializer.append(weights)
    del model.graph.input[1]
    onnx.save(model, tmp_path / "conv.onnx")
    return tmp_path / "conv.onnx"


def test_the_report_of_a_bundle(convolution: Path) -> None:
    bundle = edgec.compile(convolution)
    report = json.loads((bundle.folder / "reports" / "compile.json").read_text())
    assert len(report["work"]) == report["steps"]
    assert max(row["flops"] for row in report["work"]) == 2 * 32 * 4 * 5 * 16 * 9
    assert all(row["bytes"] > 0 and row["shapes"] for row in report["work"])
