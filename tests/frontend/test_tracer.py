from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec import engine
from edgec.engine import Tensor, TraceError, nn
from edgec.errors import EdgecError, UnsupportedError
from edgec.frontend import execute, trace

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.features(image)
        return self.head(hidden.mean(axis=(2, 3)))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def check(model: ir.Model, run_onnxruntime, assert_close, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """A traced model is valid and static, and runs alike in the executor and in ONNX Runtime."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.opset_imports[""] == 22
    assert model.ir_version == 10
    values = [value for node in model.graph for value in node.outputs]
    assert all(value.shape.is_static() and value.dtype is not None for value in values)
    expected = run_onnxruntime(model, inputs)
    actual = execute(model, inputs)
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert_close(actual[name], array)
    return actual


def test_a_module(run_onnxruntime, assert_close):
    engine.seed(0)
    network = Network()
    image = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    network(engine.to_tensor(image))  # gives BatchNorm statistics of its own
    model = trace(network, image)
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert [value.name for value in model.graph.outputs] == ["output"]
    assert {"features.0.weight", "features.0.bias", "features.1.running_mean", "head.weight"} <= set(
        model.graph.initializers
    )
    assert model.graph.name == "Network"
    outputs = check(model, run_onnxruntime, assert_close, image=image)
    network.eval()
    assert_close(outputs["output"], network(engine.to_tensor(image)).numpy())


def test_training_mode_is_restored_module_by_module():
    network = Network()
    network.features[3].eval()
    trace(network, np.zeros((1, 3, 8, 8), np.float32))
    assert network.training
    assert network.features[1].training
    assert not network.features[3].training

    def fails(_: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    network.forward = fails
    with pytest.raises(RuntimeError, match="on purpose"):
        trace(network, np.zeros((1, 3, 8, 8), np.float32))
    assert network.training


def test_the_model_keeps_its_values_when_training_goes_on():
    linear = nn.Linear(4, 2)
    model = trace(linear, X)
    before = execute(model, [X])["output"]
    for parameter in linear.parameters():
        parameter.data[...] += 1
    np.testing.assert_array_equal(execute(model, [X])["output"], before)


def test_names_come_from_the_function(run_onnxruntime, assert_close):
    def combine(first, second):
        return {"sum": first + second, "difference": first - second}

    model = trace(combine, X, X)
    assert [value.name for value in model.graph.inputs] == ["first", "second"]
    assert [value.name for value in model.graph.outputs] == ["sum", "difference"]
    assert model.graph.name == "combine"
    assert [node.name for node in model.graph] == ["Add_0", "Sub_0"]
    check(model, run_onnxruntime, assert_close, first=X, second=X)
    assert [v.name for v in trace(lambda *xs: xs[0] + xs[1], X, X).graph.inputs] == ["xs_0", "xs_1"]
    assert [v.name for v in trace(lambda x: (x + 1, x + 2), X).graph.outputs] == ["output_0", "output_1"]
    model = trace(combine, X, X, input_names=["a", "b"], output_names=["c", "d"])
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["a", "b", "c", "d"]


def test_nodes_know_the_line_they_come_from():
    def double(x):
        return x + x

    (node,) = trace(double, X).graph
    path, line = node.metadata_props["source"].rsplit(":", 1)
    assert path == __file__
    assert int(line) == double.__code__.co_firstlineno + 1


def test_only_what_outputs_need_is_kept(run_onnxruntime, assert_close):
    def wasteful(x):
        _ = (x * 3.0).exp()
        return x * 2.0

    model = trace(wasteful, X)
    assert operators(model) == ["Mul"]
    assert list(model.graph.initializers) == ["constant_0"]
    check(model, run_onnxruntime, assert_close, x=X)


def test_shapes_and_axes_become_constants(run_onnxruntime, assert_close):
    model = trace(lambda x: x.reshape(2, 6).sum(axis=1), X)
    assert operators(model) == ["Reshape", "ReduceSum"]
    assert [value.dtype for value in model.graph.initializers.values()] == [ir.DataType.INT64] * 2
    check(model, run_onnxruntime, assert_close, x=X)


def test_an_input_returned_and_a_result_returned_twice(run_onnxruntime, assert_close):
    def give(x):
        y = x + 1.0
        return y, x, y

    model = trace(give, X)
    assert operators(model) == ["Add", "Identity", "Identity"]
    outputs = check(model, run_onnxruntime, assert_close, x=X)
    np.testing.assert_array_equal(outputs["output_1"], X)
    np.testing.assert_array_equal(outputs["output_2"], X + 1)


def test_a_name_taken_by_an_input_is_not_given_again(run_onnxruntime, assert_close):
    weight = engine.Parameter(np.ones((4, 2), np.float32))
    weight.name = "x"
    model = trace(lambda x: x @ weight, X)
    assert list(model.graph.initializers) == ["x_1"]
    check(model, run_onnxruntime, assert_close, x=X)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda _: engine.to_tensor(X), "output 'output' does not depend on any input"),
        (lambda x: (x + 1.0, 3), "output 'output_1' is of type int, not Tensor"),
        (lambda x: {"x": x + 1.0}, "'x' is the name of an input and of an output"),
        (lambda _: (), "the function returns no outputs"),
    ],
)
def test_outputs_that_make_no_model(function, text):
    with pytest.raises(EdgecError) as caught:
        trace(function, X)
    assert text in str(caught.value)


def test_names_that_do_not_fit():
    with pytest.raises(EdgecError, match="2 input names for 1 example arrays"):
        trace(lambda x: x + 1.0, X, input_names=["a", "b"])
    with pytest.raises(EdgecError, match="input names are not unique: a, a"):
        trace(lambda x, y: x + y, X, X, input_names=["a", "a"])
    with pytest.raises(EdgecError, match="1 output names for 2 outputs"):
        trace(lambda x: (x, x), X, output_names=["a"])


def test_branching_on_a_value_is_refused():
    def branch(x):
        if x.sum() > 0:
            return x
        return x + 1.0

    with pytest.raises(TraceError) as caught:
        trace(branch, X)
    assert "in branch: if x.sum() > 0:" in str(caught.value)
    trace(lambda x: x + 1.0, X)  # the recording was closed


def test_primitives_that_onnx_lacks_are_named():
    kernel = engine.to_tensor(np.ones((1, 1, 2, 2), np.float32), stop_gradient=False)

    def kernel_gradient(image):
        return engine.grad(engine.apply("Conv", [image, kernel])[0].sum(), [kernel])[0]

    image = np.random.default_rng(0).normal(size=(1, 1, 4, 4)).astype(np.float32)
    with pytest.raises(UnsupportedError, match=r"primitives that ONNX does not have: edgec\.\w+ at .*test_tracer"):
        trace(kernel_gradient, image)
