"""The short ways of a training step: gradients of the first order, batches innermost in memory, products in pieces.

The samples of the primitives are too small to take them. Each is compared with PyTorch in float64, and with the rule
in primitives, which is taken where a second derivative is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.engine import Tensor, grad, tensor
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.ops import columns
from edgec.engine.ops.products import products_into, sum_of_products_of_rows

# Function, shapes of its tensors, and its other arguments, for edgec and PyTorch alike.
CALLS: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    ("conv1d", [(9, 4, 23), (6, 2, 4), (6,)], {"stride": 2, "padding": 1, "groups": 2}),
    ("conv1d", [(9, 3, 40), (5, 3, 3)], {"padding": 2, "dilation": 2}),
    ("conv2d", [(9, 3, 30, 28), (8, 3, 3, 3), (8,)], {"padding": 1}),
    ("conv2d", [(9, 3, 30, 28), (8, 3, 5, 4)], {"padding": (2, 0)}),
    ("conv2d", [(9, 4, 29, 31), (8, 4, 3, 3)], {"stride": 2, "padding": 1}),
    ("conv2d", [(9, 4, 29, 31), (6, 2, 3, 2)], {"stride": (1, 2), "dilation": (2, 1), "groups": 2}),
    ("conv2d", [(3, 4, 9, 70), (2, 4, 3, 3)], {"padding": 4}),
    ("conv2d", [(3, 4, 9, 200), (6, 4, 3, 3)], {"padding": 1}),
    ("conv2d", [(9, 4, 8, 7), (5, 4, 1, 1), (5,)], {}),
    ("conv2d", [(9, 4, 8, 7), (5, 4, 1, 1)], {"stride": 2}),
    ("conv2d", [(9, 6, 12, 11), (6, 1, 3, 3), (6,)], {"padding": 1, "groups": 6, "stride": 2}),
    ("conv2d", [(9, 6, 12, 11), (12, 1, 3, 3)], {"groups": 6}),
    ("conv3d", [(8, 2, 6, 7, 8), (3, 2, 2, 3, 3), (3,)], {"padding": 1, "stride": (1, 1, 2)}),
    ("conv_transpose2d", [(9, 4, 9, 8), (4, 3, 3, 3), (3,)], {"stride": 2, "padding": 1, "output_padding": 1}),
    ("conv_transpose2d", [(9, 4, 9, 8), (4, 3, 3, 2)], {}),
    ("max_pool2d", [(9, 3, 8, 10)], {"kernel_size": 2}),
    ("max_pool1d", [(9, 3, 12)], {"kernel_size": 4}),
    ("max_pool3d", [(9, 2, 4, 6, 6)], {"kernel_size": (2, 1, 3)}),
    ("max_pool2d", [(9, 3, 8, 9)], {"kernel_size": 2}),
    ("max_pool2d", [(9, 3, 9, 11)], {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_pool2d", [(3, 3, 9, 11)], {"kernel_size": 2, "stride": 3, "ceil_mode": True}),
    ("relu", [(9, 3, 4, 5)], {}),
]


@pytest.fixture(scope="module", autouse=True)
def few_rows():
    """Small blocks and early sharing, so that small arrays need several of each."""
    before = columns.BLOCK_BYTES, columns._WIDE_ROW
    columns.BLOCK_BYTES, columns._WIDE_ROW = 1 << 14, 64
    yield
    columns.BLOCK_BYTES, columns._WIDE_ROW = before


def with_memory(array: np.ndarray, batch_is_innermost: bool) -> np.ndarray:
    """The same values, with the first axis innermost in memory or not."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0) if batch_is_innermost else array


@pytest.mark.parametrize("batch_is_innermost", [False, True])
@pytest.mark.parametrize(("name", "shapes", "options"), CALLS)
def test_first_order_gradient(
    torch: ModuleType, name: str, shapes: list[tuple[int, ...]], options: dict[str, Any], batch_is_innermost: bool
) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = getattr(torch.nn.functional, name)(*theirs, **options)
    weights = rng.standard_normal(tuple(expected.shape))
    (expected * torch.tensor(weights)).sum().backward()

    def ours() -> tuple[Tensor, list[Tensor]]:
        inputs = [Tensor(with_memory(array, batch_is_innermost and not i), True) for i, array in enumerate(arrays)]
        return getattr(F, name)(*inputs, **options), inputs

    result, inputs = ours()
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-10)
    (result * tensor(weights)).sum().backward()
    for mine, other in zip(inputs, theirs, strict=True):
        assert mine.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-9, atol=1e-10)
    result, inputs = ours()
    slow = grad((result * tensor(weights)).sum(), inputs, create_graph=True)
    for gradient, other in zip(slow, theirs, strict=True):
        np.testing.assert_allclose(gradient.numpy(), other.grad.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("batch_is_innermost", [False, True])
@pytest.mark.parametrize("shape", [(9, 5, 6, 7), (10, 3, 2000), (9, 4)])
def test_batch_norm(torch: ModuleType, shape: tuple[int, ...], batch_is_innermost: bool) -> None:
    rng = np.random.default_rng(2)
    channels = shape[1]
    arrays = [rng.standard_normal(shape) * 3 + 5, rng.standard_normal(channels), rng.standard_normal(channels)]
    weights = rng.standard_normal(shape)
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    moments = [torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)]
    expected = torch.nn.functional.batch_norm(theirs[0], *moments, *theirs[1:], training=True)
    (expected * torch.tensor(weights)).sum().backward()
    inputs = [Tensor(with_memory(array, batch_is_innermost and not i), True) for i, array in enumerate(arrays)]
    running = [tensor(np.zeros(channels)), tensor(np.ones(channels))]
    result = F.batch_norm(inputs[0], *running, *inputs[1:], training=True)
    np.testing.assert_allclose(result.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-10)
    for mine, other in zip(running, moments, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-9)
    (result * tensor(weights)).sum().backward()
    for mine, other in zip(inputs, theirs, strict=True):
        assert mine.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("n", "classes"), [(1, 3), (64, 10), (33, 200)])
def test_cross_entropy_gives_the_bits_of_its_parts(n: int, classes: int) -> None:
    rng = np.random.default_rng(3)
    scores = (rng.standard_normal((n, classes)) * 5).astype(np.float32)
    target = tensor(rng.integers(0, classes, n))
    losses, gradients = [], []
    parts: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.cross_entropy(x, target),
        lambda x: F.nll_loss(F.log_softmax(x, 1), target),
    ]
    for compute in parts:
        x = tensor(scores, requires_grad=True)
        loss = compute(x)
        loss.backward()
        assert x.grad is not None
        losses.append(loss.item())
        gradients.append(x.grad.numpy())
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (2, 3), ((1, 4), (1, 4)), ((4, 2), (2, 2))])
def test_equal_values_in_a_pooling_window_give_the_gradient_to_the_first(
    torch: ModuleType, kernel: int | tuple[int, int], stride: int | tuple[int, int]
) -> None:
    values = np.random.default_rng(2).integers(0, 3, (9, 2, 8, 8)).astype(np.float32)
    x, expected = tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    weights = np.random.default_rng(3).standard_normal(F.max_pool2d(x, kernel, stride).shape).astype(np.float32)
    (F.max_pool2d(x, kernel, stride) * tensor(weights)).sum().backward()
    (torch.nn.functional.max_pool2d(expected, kernel, stride) * torch.tensor(weights)).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected.grad.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("m", "k", "q"), [(16, 144, 1000), (3, 5, 7), (64, 576, 300), (32, 288, 130), (1, 9, 99999), (24, 9, 3000)]
)
def test_products_in_pieces(m: int, k: int, q: int) -> None:
    rng = np.random.default_rng(4)
    a, b, c = rng.standard_normal((m, k)), rng.standard_normal((k, q + 5))[:, :q], rng.standard_normal((m, q))
    out = np.full((m, q), np.nan)
    products_into(a, [(b, out)])
    np.testing.assert_allclose(out, a @ b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(sum_of_products_of_rows([(b, c), (b, c)]), 2 * b @ c.T, rtol=1e-10, atol=1e-9)
