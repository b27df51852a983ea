"""The tape: reverse pass, higher orders, modes, freeing, and Tensor's own face."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import GradientError, Tensor, check_grads, enable_grad, grad, is_grad_enabled, no_grad, tensor


def leaf(*values: float) -> Tensor:
    return tensor(list(values), requires_grad=True)


def test_seed_example_reads_like_paddle() -> None:
    paddle = engine
    w = paddle.to_tensor([2.0], stop_gradient=False)
    b = paddle.to_tensor([1.0], stop_gradient=False)
    x = paddle.to_tensor([3.0])
    y = w * x + b
    loss = (y - 10.0) ** 2
    loss.backward()
    np.testing.assert_array_equal(w.grad.numpy(), [-18.0])
    np.testing.assert_array_equal(b.grad.numpy(), [-6.0])
    assert x.grad is None
    assert w.grad.dtype == np.float32


def test_gradients_accumulate_until_they_are_cleared() -> None:
    x = leaf(3.0)
    (x * 2.0).sum().backward()
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [8.0])
    x.clear_grad()
    assert x.grad is None


def test_a_tensor_used_twice_gets_both_gradients() -> None:
    x = leaf(2.0, 3.0)
    y = x * x
    (y + y * x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.array([2.0, 3.0]) + 3 * np.array([4.0, 9.0]))


def test_gradients_of_leaves_do_not_share_memory() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (a + b).sum().backward()
    assert not np.shares_memory(a.grad.data, b.grad.data)
    a.grad.data *= 5  # what gradient clipping does
    np.testing.assert_array_equal(b.grad.numpy(), [1.0, 1.0])


def test_derivatives_of_a_cubic_to_the_fourth_order() -> None:
    x = tensor(2.0, requires_grad=True)
    value, expected = x**3, [12.0, 12.0, 6.0, 0.0]
    for derivative in expected:
        (value,) = grad(value, [x], create_graph=True, allow_unused=True)
        assert value.item() == derivative


def test_grad_by_a_tensor_in_the_middle_leaves_grad_alone() -> None:
    x = leaf(3.0)
    y = x * x
    z = y * 5.0
    (dy,) = grad(z, y)
    np.testing.assert_array_equal(dy.numpy(), [5.0])
    assert x.grad is None
    # grad(z, y) freed only what lies between z and y.
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6.0])


def test_grad_outputs_weigh_the_outputs() -> None:
    x = leaf(1.0, 2.0)
    (dx,) = grad([x * 2.0, x * x], x, [tensor([1.0, 10.0]), tensor([1.0, 1.0])])
    np.testing.assert_array_equal(dx.numpy(), [4.0, 24.0])


def test_hessian_vector_product() -> None:
    a = np.array([[2.0, 1.0], [1.0, 3.0]], np.float32)
    x, v = leaf(0.5, -1.0), tensor([1.0, 2.0])
    (gradient,) = grad((x @ Tensor(a) @ x) * 0.5, x, create_graph=True)
    (product,) = grad((gradient * v).sum(), x)
    np.testing.assert_allclose(product.numpy(), a @ v.numpy(), rtol=1e-6)


def test_second_backward_says_that_the_graph_is_gone() -> None:
    x = leaf(1.0)
    y = (x * x).exp()
    y.backward()
    with pytest.raises(GradientError, match="freed by an earlier") as caught:
        y.backward()
    assert "retain_graph=True" in str(caught.value)


def test_retained_graph_can_be_used_again() -> None:
    x = leaf(3.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [12.0])


def test_backward_lets_go_of_the_kept_values() -> None:
    x = leaf(1.0)
    hidden = x * 2.0
    kept = weakref.ref(hidden)
    y = (hidden * hidden).sum()
    del hidden
    gc.collect()
    assert kept() is not None
    y.backward()
    assert kept() is None  # by reference count: a graph has no cycles


def test_values_that_no_rule_reads_are_not_kept() -> None:
    x = leaf(1.0, 2.0)
    doubled = x * 2.0
    gone = weakref.ref(doubled)
    y = doubled + 1.0
    del doubled
    assert gone() is None
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 2.0])


def test_no_grad_as_block_and_as_decorator() -> None:
    x = leaf(1.0)

    @no_grad
    def bare() -> Tensor:
        return x * 2.0

    @no_grad()
    def called() -> Tensor:
        return x * 2.0

    with no_grad():
        assert not is_grad_enabled()
        inside = x * 2.0
        with enable_grad():
            again = x * 2.0
    assert is_grad_enabled()
    assert [t.requires_grad for t in (inside, again, bare(), called())] == [False, True, False, False]
    assert bare.__name__ == "bare"


def test_no_grad_ends_with_an_exception() -> None:
    with pytest.raises(RuntimeError, match="stop"), no_grad():
        raise RuntimeError("stop")
    assert is_grad_enabled()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tensor([1.0]).backward(), "no output requires a gradient"),
        (lambda: grad(leaf(1.0) * 2.0, leaf(1.0)), "do not depend on input 0"),
        (lambda: grad(leaf(1.0) * 2.0, tensor([1.0])), "input 0 does not require a gradient"),
    ],
)
def test_errors_say_what_to_do(call: object, message: str) -> None:
    with pytest.raises(GradientError, match=message) as caught:
        call()
    assert caught.value.fix


def test_unused_input_gives_none_if_allowed() -> None:
    x, unused = leaf(1.0), leaf(2.0)
    dx, nothing = grad(x * 3.0, [x, unused], allow_unused=True)
    assert dx.item() == 3.0
    assert nothing is None


def test_integers_cannot_require_a_gradient() -> None:
    with pytest.raises(TypeError, match="only floating tensors"):
        tensor([1, 2], requires_grad=True)


def test_stop_gradient_is_the_opposite_of_requires_grad() -> None:
    x = tensor([1.0])
    assert x.stop_gradient
    x.stop_gradient = False
    assert x.requires_grad
    assert (x * 2.0).detach().stop_gradient


def test_gradient_of_everything_but_one_input_is_skipped() -> None:
    """A Conv whose input is data must not pay for the input's gradient."""
    calls: list[str] = []
    x, w = Tensor(np.ones((1, 1, 4, 4), np.float32)), Tensor(np.ones((1, 1, 3, 3), np.float32), requires_grad=True)
    y = engine.functional.conv2d(x, w)
    with engine.record([y]) as recording:
        y.sum().backward()
    calls = [node.op_type for node in recording.nodes]
    assert "edgec.ConvWeightGrad" in calls
    assert "ConvTranspose" not in calls


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        ([1.0, 2.0], np.float32),
        (3, np.int64),
        ([True], np.bool_),
        (np.ones(2), np.float64),
        (np.float64(2.0), np.float64),
        (np.ones(2, np.float16), np.float16),
    ],
)
def test_dtype_of_new_tensors(data: object, dtype: type) -> None:
    assert tensor(data).dtype == dtype


def test_new_tensor_is_a_copy_and_text_is_refused() -> None:
    array = np.zeros(2, np.float32)
    x = tensor(array)
    array[0] = 1
    assert x.numpy()[0] == 0
    with pytest.raises(TypeError, match="cannot make a tensor"):
        tensor("text")


def test_operators_agree_with_numpy() -> None:
    a, b = np.array([[1.5, -2.0], [3.0, 4.0]], np.float32), np.array([2.0, 3.0], np.float32)
    x, y = Tensor(a), Tensor(b)
    for made, expected in [
        (x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (x // y, a // b), (x % y, a % b),
        (x @ y, a @ b), (-x, -a), (abs(x), abs(a)), (y**x, b**a), (2.0 - x, 2 - a), (1 / y, 1 / b),
        (2.0**x, 2**a), (b + x, b + a), (b @ x, b @ a), (x > y, a > b), (x <= 3.0, a <= 3), (x != y, a != b),
        ((x > 0.0) & (y < 3.0), (a > 0) & (b < 3)), (~(x > 0.0), ~(a > 0)),
    ]:  # fmt: skip
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-6)
        assert made.dtype == expected.dtype


def test_mixed_types_follow_the_float() -> None:
    i, x, d = tensor([1, -2]), tensor([0.5, 0.5]), Tensor(np.ones(2))
    assert (i + x).dtype == np.float32
    assert (i * 2).dtype == np.int64
    assert (i * 0.5).dtype == np.float32
    assert (i / 2).numpy().tolist() == [0.5, -1.0]
    assert (i // 2).numpy().tolist() == [0, -1]
    assert (i % 2).numpy().tolist() == [1, 0]
    assert (x * d).dtype == np.float64
    assert (d * 2.0).dtype == np.float64
    with pytest.raises(TypeError, match="cannot combine"):
        x + "a"  # type: ignore[operator]


INDICES = [
    1, -1, slice(1, None), slice(None, None, -1), slice(4, 0, -2), (1, 2), (slice(None), 0), (..., 1), (None, 0),
    (slice(0, 2), None, slice(1, 3)), ..., (0, ..., -1), np.array([2, 0, 2]), (slice(None), np.array([0, -1])),
    (np.array([0, 1]), np.array([2, -1])), [3, 1], (1, np.array([0, 1])), slice(2, 2),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_agrees_with_numpy(index: object) -> None:
    a = np.arange(5 * 4 * 3, dtype=np.float32).reshape(5, 4, 3)
    x = Tensor(a, requires_grad=True)
    np.testing.assert_array_equal(x[index].numpy(), a[index])
    expected = np.zeros_like(a)
    np.add.at(expected, index, 1)
    if a[index].size:
        x[index].sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_boolean_mask_selects() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(Tensor(a)[Tensor(a > 2)].numpy(), a[a > 2])
    with pytest.raises(IndexError, match="out of range"):
        Tensor(a)[5]


def test_methods_agree_with_numpy() -> None:
    a = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    x = Tensor(a)
    for made, expected in [
        (x.sum(), a.sum()), (x.sum(1), a.sum(1)), (x.mean((0, 2), keepdim=True), a.mean((0, 2), keepdims=True)),
        (x.max(-1), a.max(-1)), (x.min(), a.min()), (x.argmax(1), a.argmax(1)), (x.argmax(), a.argmax()),
        (x.reshape(3, -1), a.reshape(3, -1)), (x.transpose(2, 0, 1), a.transpose(2, 0, 1)),
        (x.transpose(0, 1), a.swapaxes(0, 1)), (x.T, a.T), (x.flatten(1), a.reshape(2, -1)),
        (x.unsqueeze(1), a[:, None]), (x.unsqueeze(1).squeeze(1), a), (x.var(0), a.var(0, ddof=1)),
        (x.clip(-0.5, 0.5), a.clip(-0.5, 0.5)), (x.exp().log(), a), (engine.stack([x, x], 1), np.stack([a, a], 1)),
        (engine.cat([x, x], 2), np.concatenate([a, a], 2)), (engine.maximum(x, 0.0), np.maximum(a, 0)),
    ]:  # fmt: skip
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_check_grads_finds_a_wrong_rule_of_each_order() -> None:
    def wrong_first(x: Tensor) -> Tensor:
        return x * x + (x * 0.5).detach()

    def wrong_second(x: Tensor) -> Tensor:
        # Right value and gradient, but the gradient forgets that it depends on x.
        return x * (x.detach() * 2.0) - (x * x).detach()

    point = np.array([0.3, 0.7])
    check_grads(lambda x: (x.exp() * x).sum(), point, order=3)
    with pytest.raises(AssertionError, match="order 1, argument 0"):
        check_grads(wrong_first, point, order=1)
    with pytest.raises(AssertionError, match="order 2, argument 0"):
        check_grads(wrong_second, point)


def test_extreme_values_stay_finite() -> None:
    x = tensor([-1e4, -100.0, 0.0, 100.0, 1e4], requires_grad=True)
    for function in (
        engine.functional.sigmoid, engine.functional.softplus, engine.functional.log_softmax,
        engine.functional.softmax, engine.functional.tanh, engine.functional.gelu, engine.logsumexp,
    ):  # fmt: skip
        x.clear_grad()
        y = function(x)
        y.sum().backward()
        assert np.isfinite(y.numpy()).all(), function.__name__
        assert np.isfinite(x.grad.numpy()).all(), function.__name__


def test_public_names_exist_and_are_listed() -> None:
    assert len(engine.__all__) == len(set(engine.__all__))
    for name in engine.__all__:
        assert hasattr(engine, name), name
    for module in (engine.nn, engine.functional, engine.optim, engine.data, engine.nn.functional):
        for name in module.__all__:
            assert hasattr(module, name), name


def test_half_precision_is_summed_in_float32() -> None:
    a = np.full((1, 4096), 0.1, np.float16)
    total = Tensor(a) @ Tensor(np.ones((4096, 1), np.float16))
    assert total.dtype == np.float16
    assert abs(float(total) - 409.5) < 0.5
