"""Training through QuantizeLinear and DequantizeLinear, compared with PyTorch's fake quantization."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from edgec.engine import Tensor, apply, grad, tensor
from edgec.frontend import execute_tensors

X = np.array([-19.0, -1.3, -0.26, 0.0, 0.4, 1.24, 1.3, 7.0], np.float32)
WEIGHTS = np.arange(1, 9, dtype=np.float32)


def fake_quantized(x: Tensor, scale: Tensor, zero: np.ndarray, axis: int = 1) -> Tensor:
    inputs = scale, Tensor(zero)
    (steps,) = apply("QuantizeLinear", (x, *inputs), {"axis": axis})
    (y,) = apply("DequantizeLinear", (steps, *inputs), {"axis": axis})
    return y


def test_gradients_are_those_of_fake_quantization(torch: ModuleType) -> None:
    x, scale = tensor(X, requires_grad=True), tensor(0.1, requires_grad=True)
    y = fake_quantized(x, scale, np.array(20, np.int8))
    dx, d_scale = grad((y * tensor(WEIGHTS)).sum(), [x, scale])
    peer_x = torch.tensor(X, requires_grad=True)
    peer_scale = torch.tensor([0.1], requires_grad=True)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(
        peer_x, peer_scale, torch.tensor([20.0], requires_grad=True), -128, 127, 1.0
    )
    (theirs * torch.tensor(WEIGHTS)).sum().backward()
    np.testing.assert_allclose(y.data, theirs.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(dx.data, peer_x.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(d_scale.data, peer_scale.grad.numpy()[0], rtol=1e-4)
    assert dx.data[0] == 0.0, "beyond the range nothing flows"
    assert dx.dtype == d_scale.dtype == np.float32


def test_gradients_per_channel(torch: ModuleType) -> None:
    values = np.stack([X, X * 3])
    scales = np.array([0.1, 0.02], np.float32)
    x, scale = tensor(values, requires_grad=True), tensor(scales, requires_grad=True)
    y = fake_quantized(x, scale, np.zeros(2, np.int8), axis=0)
    dx, d_scale = grad(y.sum(), [x, scale])
    peer_x, peer_scale = torch.tensor(values, requires_grad=True), torch.tensor(scales, requires_grad=True)
    zero = torch.zeros(2, requires_grad=True)
    theirs = torch._fake_quantize_learnable_per_channel_affine(peer_x, peer_scale, zero, 0, -128, 127, 1.0)
    theirs.sum().backward()
    np.testing.assert_allclose(dx.data, peer_x.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(d_scale.data, peer_scale.grad.numpy(), rtol=1e-4)


def test_blocks_and_narrow_types_have_gradients() -> None:
    x = tensor(np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4), requires_grad=True)
    scale = tensor(np.full((2, 2), 0.5, np.float32), requires_grad=True)
    (steps,) = apply("QuantizeLinear", (x, scale), {"block_size": 2, "output_dtype": 22})
    assert steps.dtype.name == "int4"
    (y,) = apply("DequantizeLinear", (steps, scale), {"block_size": 2})
    dx, d_scale = grad(y.sum(), [x, scale])
    np.testing.assert_array_equal(dx.data, np.ones((2, 4), np.float32))
    assert d_scale.shape == (2, 2)
    ratio = x.data / 0.5
    np.testing.assert_allclose(d_scale.data, (np.rint(ratio) - ratio).reshape(2, 2, 2).sum(2), atol=1e-6)


@pytest.mark.parametrize("middle", ["m = Reshape(q, shape)", "m = Transpose<perm = [0, 2, 3, 1]>(q)",
                                    "m = MaxPool<kernel_shape = [1, 1]>(q)"])  # fmt: skip
def test_a_quantized_graph_is_trained_as_it_stands(middle: str) -> None:
    """The steps may be moved about between the two operators."""
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 22]>
    g (float[1, 2, 2, 2] x) => (float[a, b, c, d] y)
    <float s = {{0.1}}, int8 z = {{3}}, int64[4] shape = {{1, 2, 4, 1}}> {{
        q = QuantizeLinear(x, s, z)
        {middle}
        y = DequantizeLinear(m, s, z)
    }}""")
    x = Tensor(X.reshape(1, 2, 2, 2), requires_grad=True)
    y = execute_tensors(model, {"x": x})["y"]
    (dx,) = grad(y.sum(), x)
    np.testing.assert_allclose(dx.data.reshape(-1), np.abs(X) < 19, rtol=1e-6)


def test_the_gradient_can_be_differentiated_again() -> None:
    x, scale = tensor(X, requires_grad=True), tensor(0.1, requires_grad=True)
    loss = (fake_quantized(x, scale, np.array(0, np.int8)) ** 2).sum()
    (dx,) = grad(loss, x, create_graph=True)
    (again,) = grad(dx.sum(), x)
    np.testing.assert_allclose(again.data, np.where(np.abs(X) < 19, 2.0, 0.0), rtol=1e-5)
