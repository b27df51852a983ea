from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgec.engine import Tensor, is_grad_enabled, to_tensor
from edgec.errors import EdgecError, UnsupportedError
from edgec.frontend import execute, execute_tensors

LINEAR = """<ir_version: 10, opset_import: ["": 22]>
linear (float[2, 3] x, float[4] offset) => (float[2, 4] y, float[2, 4] z)
<float[3, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
    [product] p = MatMul(x, w)
    [sum] z = Add(p, offset)
    [positive] y = Relu(z)
}"""
X = np.array([[1, -1, 2], [0, 1, -3]], np.float32)
OFFSET = np.array([-20, 0, 1, 2], np.float32)


def linear() -> ir.Model:
    return ir.from_onnx_text(LINEAR)


def test_outputs_come_by_name_in_the_graphs_order():
    w = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    results = execute(linear(), {"offset": OFFSET, "x": X})
    assert list(results) == ["y", "z"]
    np.testing.assert_allclose(results["z"], X @ w + OFFSET)
    np.testing.assert_allclose(results["y"], np.maximum(X @ w + OFFSET, 0))
    np.testing.assert_array_equal(execute(linear(), [X, OFFSET])["y"], results["y"])


def test_the_hook_sees_inputs_and_every_value():
    seen = {}
    execute(linear(), [X, OFFSET], hook=lambda name, array: seen.update({name: array.shape}))
    assert seen == {"x": (2, 3), "offset": (4,), "p": (2, 4), "z": (2, 4), "y": (2, 4)}


def test_inner_values_can_be_asked_for_and_only_their_nodes_run():
    seen = []
    results = execute(linear(), [X, OFFSET], hook=lambda name, _: seen.append(name), outputs=["p"])
    assert list(results) == ["p"]
    assert seen == ["x", "offset", "p"]
    with pytest.raises(EdgecError, match="the model has no value 'q'"):
        execute(linear(), [X, OFFSET], outputs=["q"])


def test_arrays_leave_no_tape():
    assert is_grad_enabled()
    results = execute_tensors(linear(), {"x": to_tensor(X), "offset": to_tensor(OFFSET)})
    assert not results["y"].requires_grad


def test_gradients_reach_inputs_and_initializers():
    x, w = Tensor(X, requires_grad=True), Tensor(np.ones((3, 4), np.float32), requires_grad=True)
    results = execute_tensors(linear(), {"x": x, "offset": to_tensor(OFFSET)}, initializers={"w": w}, outputs=["z"])
    (results["z"] * results["z"]).sum().backward()
    upstream = 2 * (X @ np.ones((3, 4)) + OFFSET)
    np.testing.assert_allclose(w.grad.numpy(), X.T @ upstream, rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), upstream @ np.ones((4, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"x": X}, "input 'offset' is missing"),
        ({"x": X, "ofset": OFFSET}, "the model has no input 'ofset'; did you mean 'offset'?"),
        ({"x": X, "ofset": OFFSET}, "the model's inputs: x float32 (2, 3), offset float32 (4)"),
        ({"x": X.T, "offset": OFFSET}, "input 'x' must be float32 (2, 3), given: float32 (3, 2)"),
        ({"x": X.astype(np.float64), "offset": OFFSET}, "input 'x' must be float32 (2, 3), given: float64 (2, 3)"),
        ([X], "the model has 2 inputs (x, offset), 1 were given"),
    ],
)
def test_inputs_that_do_not_fit(inputs, text):
    with pytest.raises(EdgecError) as caught:
        execute(linear(), inputs)
    assert text in str(caught.value)


def test_initializers_that_do_not_fit():
    inputs = {"x": to_tensor(X), "offset": to_tensor(OFFSET)}
    with pytest.raises(EdgecError, match="the model has no initializer 'v'"):
        execute_tensors(linear(), inputs, initializers={"v": to_tensor(X)})
    with pytest.raises(EdgecError, match=r"initializer 'w' has shape \(3, 4\), the given tensor \(2, 3\)"):
        execute_tensors(linear(), inputs, initializers={"w": to_tensor(X)})


def test_unknown_operators_are_all_named():
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 22, "com.acme": 1]>
    g (float[2] x) => (float[2] y) { a = com.acme.One(x) b = com.acme.Two(a) y = Relu(b) }""")
    with pytest.raises(UnsupportedError, match=r"2 unsupported operators: com\.acme\.One .*com\.acme\.Two"):
        execute(model, [np.zeros(2, np.float32)])


def test_a_node_that_fails_is_named():
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 22]>
    g (float[2, 3] x, float[2, 3] y) => (float[a, b] z) { [product] z = MatMul(x, y) }""")
    with pytest.raises(EdgecError) as caught:
        execute(model, [X, X])
    assert "MatMul 'product' failed" in str(caught.value)
    assert "inputs float32 (2, 3), float32 (2, 3)" in str(caught.value)


def test_constants_of_every_kind():
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 22]>
    g (float[2] x) => (float[2] y, float[2] z) {
        a = Constant<value_float = 2.0>()
        b = Constant<value = float[2] {3.0, 4.0}>()
        y = Mul(x, a)
        z = Mul(x, b)
    }""")
    results = execute(model, [np.array([1, 10], np.float32)])
    np.testing.assert_array_equal(results["y"], [2, 20])
    np.testing.assert_array_equal(results["z"], [3, 40])


def test_real_models_agree_with_onnxruntime(model_name, real_model, random_inputs, run_onnxruntime, assert_close):
    model = real_model(model_name)
    inputs = random_inputs(model)
    expected = run_onnxruntime(model, inputs)
    actual = execute(model, inputs)
    for name, array in expected.items():
        # Half precision accumulates in another order, and in float32 on one side.
        assert_close(actual[name], array, relative=2e-2 if array.dtype == np.float16 else 1e-4)
