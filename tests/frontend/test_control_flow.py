"""Traced control flow is valid ONNX that ONNX Runtime runs alike; the executor runs If, Loop and Scan of any model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec import engine
from edgec.engine import Tensor, nn, tensor
from edgec.errors import UnsupportedError
from edgec.frontend import execute, execute_tensors, import_model, parameters_of, trace

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
WEIGHT = engine.Parameter(np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32), name="weight")


def branches(x: Tensor) -> Tensor:
    """One in another, with a capture, a parameter and a constant branch."""
    y = x * 2.0
    return engine.cond(
        x.sum() > 0.0,
        lambda: y @ WEIGHT,
        lambda: engine.cond(x.mean() < -1.0, lambda: y, lambda: engine.zeros(3, 4) - WEIGHT.sum()),
    )


def twice_the_same(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return engine.cond(x.sum() > 0.0, lambda: (x, x, x + 1.0), lambda: (x + 1.0, x, x))


def loops(x: Tensor) -> tuple[Tensor, Tensor]:
    """With an inner loop that starts from the outer one's variable, and a branch inside."""

    def body(i: Tensor, y: Tensor) -> list[Tensor]:
        grown = engine.cond(y.sum() > 3.0, lambda: y * 1.25, lambda: y + x.abs())
        _, stepped = engine.while_loop(lambda j, _z: j < i, lambda j, z: [j + 1, z + 0.5], [tensor(0), grown])
        return [i + 1, stepped]

    return tuple(engine.while_loop(lambda i, y: (i < 6) & (y.sum() < 200.0), body, [tensor(0), x]))


def never(x: Tensor) -> Tensor:
    return engine.while_loop(lambda y: y.square().sum() < 0.0, lambda y: [y * 2.0], [x])[0]


def scans(x: Tensor) -> tuple[Tensor, ...]:
    (total, count), rows = engine.scan(
        lambda carry, row: ((carry[0] @ WEIGHT + row, carry[1] + 1), (carry[0] * row, row.sum())),
        (engine.zeros(4), tensor(0)),
        x,
    )
    back, ys = engine.scan(lambda c, pair: (c * 0.5 + pair[0], c + pair[1]), total, (x, rows[0]), reverse=True)
    return total, count, *rows, back, ys


def in_place(x: Tensor) -> Tensor:
    y = x * 1.0
    y[0] = 5.0
    y[:, 1:3].add_(100.0)  # a copy, as everywhere
    y.mul_(x)
    return y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        self.cell = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        last, _ = engine.scan(lambda h, row: (self.cell(engine.concat([h, row])).tanh(), h), engine.zeros(4), x)
        return last


@pytest.mark.parametrize("function", [branches, twice_the_same, loops, never, scans, in_place, Recurrent()])
def test_traced_control_flow(function, run_onnxruntime, assert_close):
    model = trace(function, X)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    again = import_model(ir.to_proto(model))
    for shift in (0.0, 1.0, -1.0, -3.0):
        x = (X + shift).astype(np.float32)
        eager = function(tensor(x))
        eager = [eager] if isinstance(eager, Tensor) else eager
        inputs = {"x": x}
        results = [run_onnxruntime(model, inputs), execute(model, inputs), execute(again, inputs)]
        for result in results:
            assert len(result) == len(eager)
            for array, expected in zip(result.values(), eager, strict=True):
                assert_close(array, expected.numpy(), relative=1e-5)


def test_parameters_of_bodies_have_their_names():
    model = trace(Recurrent(), X)
    assert {"cell.weight", "cell.bias"} <= set(model.graph.initializers)
    assert [node.op_type for node in model.graph] == ["Scan"]


def test_gradients_of_branches_and_scans_are_traced(run_onnxruntime, assert_close):
    def second_order(x):
        y = engine.cond(x.sum() > 0.0, lambda: (x @ WEIGHT).tanh().sum(), lambda: (x * x @ WEIGHT).sum())
        (slope,) = engine.grad(y, x, create_graph=True)
        carry, rows = engine.scan(lambda c, row: ((c @ WEIGHT).tanh() + row, c * row), engine.ones(4), x)
        (along,) = engine.grad(carry.sum() + rows.square().sum(), x)
        return slope, along, engine.grad(slope.square().sum(), x)[0]

    model = trace(second_order, tensor(X, requires_grad=True))
    for shift in (0.5, -0.5):
        x = (X + shift).astype(np.float32)
        eager = second_order(tensor(x, requires_grad=True))
        for array, expected in zip(run_onnxruntime(model, {"x": x}).values(), eager, strict=True):
            assert_close(array, expected.numpy(), relative=1e-5)


@pytest.mark.parametrize("function", [branches, loops, scans])
def test_gradients_go_through_executed_graphs(function):
    """With respect to the input and, where there is one, the captured weight."""
    model = trace(function, X)
    WEIGHT.grad = None
    x = tensor(X, requires_grad=True)
    eager = function(x)
    floats = [y for y in ([eager] if isinstance(eager, Tensor) else eager) if y.requires_grad]
    sum((y.square().sum() for y in floats), tensor(0.0)).backward()
    weights, given = parameters_of(model), tensor(X, requires_grad=True)
    results = execute_tensors(model, {"x": given}, initializers=weights)
    sum((y.square().sum() for y in results.values() if y.requires_grad), tensor(0.0)).backward()
    np.testing.assert_allclose(given.grad.numpy(), x.grad.numpy(), rtol=1e-5)
    if "weight" in weights:
        np.testing.assert_allclose(weights["weight"].grad.numpy(), WEIGHT.grad.numpy(), rtol=1e-5)


LOOP = """<ir_version: 10, opset_import: ["": 22]>
g (int64 trips, float[2] x) => (float[2] last, float[n, 2] all) {
    yes = Constant<value = bool {1}>()
    last, all = Loop (trips, yes, x)
    <body = step (int64 i, bool go, float[2] y) => (bool on, float[2] z, float[2] row) {
        two = Constant<value = float {2.0}>()
        z = Mul(y, two)
        row = Add(z, x)
        limit = Constant<value = float {50.0}>()
        total = ReduceSum<keepdims = 0>(z)
        on = Less(total, limit)
    }>
}"""


def test_a_loop_with_scan_outputs_a_count_and_a_condition(run_onnxruntime):
    model = ir.from_onnx_text(LOOP)
    for trips in (0, 3, 100):
        inputs = {"trips": np.array(trips, np.int64), "x": np.array([1, 2], np.float32)}
        expected = run_onnxruntime(model, inputs)
        for name, array in execute(model, inputs).items():
            assert array.shape == expected[name].shape
            np.testing.assert_array_equal(array, expected[name])


SCAN = """<ir_version: 10, opset_import: ["": 22]>
g (float[2] start, float[2, 3] a, float[3, 2] b) => (float[2] last, float[2, 3] all) {
    last, all = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [0, 1],
        scan_output_axes = [-1], scan_output_directions = [1],
        body = step (float[2] state, float[2] u, float[2] v) => (float[2] next, float[2] row) {
            sum = Add(state, u)
            next = Mul(sum, v)
            row = Sub(next, u)
        }> (start, a, b)
}"""


def test_a_scan_with_axes_and_directions(run_onnxruntime):
    model = ir.from_onnx_text(SCAN)
    rng = np.random.default_rng(0)
    inputs = {value.name: rng.normal(size=value.shape.numpy()).astype(np.float32) for value in model.graph.inputs}
    expected = run_onnxruntime(model, inputs)
    for name, array in execute(model, inputs).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6)


def test_an_lstm_behind_a_branch(run_onnxruntime, assert_close):
    """As voice detectors are exported: one of two sample rates, each with its own recurrent network."""
    engine.seed(0)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype(np.float32) * 0.3 for shape in ((1, 16, 3), (1, 16, 4), (1, 32))]

    def detector(rate, x, h, c):
        def run(stretch: float):
            y, hn, cn = engine.apply(
                "LSTM", [x * stretch, *map(tensor, weights), None, h, c], {"hidden_size": 4}, outputs=3
            )
            return y.sum(axis=(1, 3)), hn, cn

        return engine.cond(rate == 16000, lambda: run(1.0), lambda: run(0.5))

    example = [
        np.array(16000), rng.normal(size=(5, 1, 3)).astype(np.float32),
        np.zeros((1, 1, 4), np.float32), np.ones((1, 1, 4), np.float32),
    ]  # fmt: skip
    model = import_model(ir.to_proto(trace(detector, *example)))
    for rate in (16000, 8000):
        inputs = dict(zip(("rate", "x", "h", "c"), [np.array(rate), *example[1:]], strict=True))
        expected = run_onnxruntime(model, inputs)
        for name, array in execute(model, inputs).items():
            assert_close(array, expected[name], relative=1e-5)


def test_operators_inside_bodies_are_checked_and_hooked():
    model = trace(branches, X)
    seen = []
    execute(model, [X + 5], hook=lambda name, _: seen.append(name))
    assert any(name.startswith("MatMul") for name in seen)
    unknown = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 22, "com.acme": 1]>
    g (bool b, float[2] x) => (float[2] y) {
        y = If (b) <then_branch = t () => (float[2] p) { p = com.acme.One(x) },
                    else_branch = e () => (float[2] q) { q = Relu(x) }>
    }""")
    with pytest.raises(UnsupportedError, match=r"com\.acme\.One"):
        execute(unknown, [np.array(False), np.zeros(2, np.float32)])
