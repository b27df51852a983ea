"""Graphs put together at random: simplifying never changes what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec.passes import simplify

# What can follow a value of shape (2, 4, 5, 5); each leaves the shape as it is. {v} is the value, {w} an earlier one.
STEPS = [
    "Relu({v})",
    "Sigmoid({v})",
    "Clip({v}, zero, six)",
    "Min({v}, six)",
    "Max({v}, zero)",
    "Identity({v})",
    "Dropout({v})",
    "Conv({v}, pointwise)",
    "Conv<pads = [1, 1, 1, 1], group = 2>({v}, grouped, bias)",
    "Add({v}, channel)",
    "Mul(channel, {v})",
    "Sub({v}, six)",
    "Div({v}, six)",
    "Add({v}, zero)",
    "Mul({v}, one)",
    "Add({v}, {w})",
    "Concat<axis = 1>(Slice({v}, zeros, twos, ones), Slice({v}, twos, fours, ones))",
    "BatchNormalization({v}, bias, bias, bias, variance)",
    "Transpose<perm = [0, 2, 3, 1]>(Transpose<perm = [0, 3, 1, 2]>({v}))",
    "Transpose<perm = [1, 0, 2, 3]>(Transpose<perm = [1, 0, 2, 3]>({v}))",
    "Reshape(Reshape({v}, flat), Shape({v}))",
    "Reshape(Transpose<perm = [0, 2, 1, 3, 4]>(Reshape({v}, pairs)), full)",
    "Conv(Pad({v}, pads), grouped_valid)",
    "MaxPool<kernel_shape = [3, 3]>(Pad({v}, pads))",
    "AveragePool<kernel_shape = [3, 3]>(Pad({v}, pads))",
    "Expand({v}, full)",
]
RNG = np.random.default_rng(11)
CONSTANTS = {
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "six": np.array(0.75, np.float32),
    "pointwise": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32) / 2,
    "grouped": RNG.normal(size=(4, 2, 3, 3)).astype(np.float32) / 4,
    "grouped_valid": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) / 6,
    "bias": RNG.normal(size=4).astype(np.float32),
    "variance": RNG.uniform(0.5, 2, 4).astype(np.float32),
    "channel": RNG.normal(size=(4, 1, 1)).astype(np.float32),
    "zeros": np.array([0]),
    "ones": np.array([1]),
    "twos": np.array([2]),
    "fours": np.array([4]),
    "flat": np.array([2, -1]),
    "full": np.array([2, 4, 5, 5]),
    "pairs": np.array([2, 2, 2, 5, 5]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
}


def text_of(steps: list[tuple[int, int]]) -> str:
    """A graph of these steps; nested calls become nodes of their own."""
    lines: list[str] = []

    def emit(expression: str) -> str:
        head, _, rest = expression.partition("(")
        arguments, depth, start = [], 0, 0
        for position, letter in enumerate(rest):
            depth += {"(": 1, "<": 1, "[": 1, ")": -1, ">": -1, "]": -1}.get(letter, 0)
            if (letter == "," and depth == 0) or depth < 0:
                arguments.append(rest[start:position].strip())
                start = position + 1
        names = [emit(argument) if "(" in argument else argument for argument in arguments]
        lines.append(f"t{len(lines)} = {head}({', '.join(names)})")
        return f"t{len(lines) - 1}"

    values = ["x"]
    for step, earlier in steps:
        values.append(emit(STEPS[step].format(v=values[-1], w=values[earlier % len(values)])))
    lines.append(f"y = Neg({values[-1]})")
    lines.append(f"z = Exp({values[len(values) // 2]})")
    return "g (float[2, 4, 5, 5] x) => (float[2, 4, 5, 5] y, float[2, 4, 5, 5] z) {" + "\n".join(lines) + "}"


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9)), min_size=2, max_size=9))
def test_simplified_graphs_compute_the_same(build, run_onnxruntime, assert_close, steps):
    model = build(text_of(steps), **CONSTANTS)
    smaller, reports = simplify(model)
    onnx.checker.check_model(ir.to_proto(smaller), full_check=True)
    decomposed = sum(dict(report.details).get("into Mul and Add", 0) for report in reports)
    assert reports[-1].nodes_after <= reports[0].nodes_before + decomposed
    inputs = {"x": np.random.default_rng(3).normal(size=(2, 4, 5, 5)).astype(np.float32)}
    expected, actual = run_onnxruntime(model, inputs), run_onnxruntime(smaller, inputs)
    for name, array in expected.items():
        assert_close(actual[name], array, relative=1e-3)
    assert not [report for report in simplify(smaller)[1] if report.changed]
