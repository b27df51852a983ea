"""Concatenation and slices without copies: parts lie in their place from the start, and the results stay right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import edgec
from edgec.compiler import plan_model
from edgec.devices import open_runner

HEADER = '<ir_version: 8, opset_import: ["": 17]> g '


def copies(model: onnx.ModelProto) -> int:
    """Steps of the plan that only move elements."""
    plan, *_ = plan_model(model, "native", None, "m")
    return sum(any(word in call.kernel for word in ("concatenate", "slice", "copy_output")) for call in plan.calls)


def check(text: str, expected_copies: int) -> None:
    import onnxruntime

    model = parser.parse_model(HEADER + text)
    rng = np.random.default_rng(0)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    sample = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, sample)
    with open_runner(edgec.compile(model), device="inprocess", threads=1) as runner:
        (outputs,) = runner.run([list(sample.values())])
    for reference, actual in zip(expected, outputs, strict=True):
        np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-6)
    assert copies(model) == expected_copies


def test_parts_are_computed_where_they_are_joined() -> None:
    check(
        """(float[1, 32, 6, 5] x) => (float[1, 96, 6, 5] y) {
            a = Relu(x) b = Neg(a) c = Exp(b) d = Concat<axis = 1>(a, b, c) y = Abs(d) }""",
        0,
    )


def test_a_join_that_grows_takes_the_former_along() -> None:
    """As in a densely connected network: each layer reads all before it."""
    check(
        """(float[1, 32, 4, 4] x) => (float[1, 128, 4, 4] y, float[1, 64, 4, 4] z, float[1, 96, 4, 4] w) {
            a = Relu(x) b = Neg(a) ab = Concat<axis = 1>(a, b) z = Exp(ab) c = Add(a, b)
            abc = Concat<axis = 1>(a, b, c) w = Exp(abc) d = Mul(b, c) abcd = Concat<axis = 1>(a, b, c, d)
            y = Abs(abcd) }""",
        0,
    )


def test_pieces_are_read_where_they_lie() -> None:
    check(
        """(float[1, 64, 4, 4] x) => (float[1, 32, 4, 4] y) {
            a = Relu(x) p, q = Split<axis = 1>(a) n = Neg(q) y = Add(p, n) }""",
        0,
    )


def test_a_split_that_is_joined_again_with_more() -> None:
    """As in the blocks of one-shot detectors."""
    check(
        """(float[1, 64, 4, 4] x) => (float[1, 96, 4, 4] y) {
            a = Relu(x) p, q = Split<axis = 1>(a) n = Exp(q) j = Concat<axis = 1>(p, q, n) y = Abs(j) }""",
        0,
    )


@pytest.mark.parametrize(
    ("join", "expected_copies"),
    [
        ("Concat<axis = 1>(a, a)", 1),  # one tensor cannot lie in two places
        ("Concat<axis = 1>(q, p)", 1),  # nor its halves the other way round
        ("Concat<axis = 1>(a, x)", 1),  # nor what the caller gave
        ("Concat<axis = 1>(p, a)", 1),
        ("Concat<axis = 2>(a, b)", 1),  # rows of one channel do not follow those of the other in memory
    ],
)
def test_what_cannot_lie_there_is_copied(join: str, expected_copies: int) -> None:
    channels, rows = (64, 16) if "axis = 2" in join else (96 if "p, a" in join else 64 if "q" in join else 128, 8)
    check(
        f"""(float[1, 64, 8, 4] x) => (float[1, {channels}, {rows}, 4] y, float[1, 32, 8, 4] z) {{
            a = Relu(x) b = Neg(a) p, q = Split<axis = 1>(a) j = {join} y = Abs(j) z = Exp(p) }}""",
        expected_copies,
    )


def test_a_part_that_is_an_output_too_is_copied_out() -> None:
    check(
        """(float[1, 32, 4, 4] x) => (float[1, 64, 4, 4] y, float[1, 32, 4, 4] a) {
            a = Relu(x) b = Neg(a) y = Concat<axis = 1>(a, b) }""",
        1,
    )
