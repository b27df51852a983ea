"""Changes in place: they give what PyTorch and NumPy give, and none corrupts a gradient."""

from __future__ import annotations

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import GradientError, Tensor, no_grad, tensor


def leaf(*values: float) -> Tensor:
    return tensor(list(values), requires_grad=True)


def test_a_leaf_that_requires_a_gradient_is_protected() -> None:
    w = leaf(1.0)
    with pytest.raises(GradientError, match="mul_: a leaf that requires a gradient") as caught:
        w.mul_(2.0)
    assert "no_grad" in caught.value.fix
    with no_grad():
        w.mul_(2.0)
    w.set_value(w.numpy() + 1)
    assert w.requires_grad
    assert w.is_leaf
    assert w.item() == 3.0


METHODS = {
    "add_": lambda t, o: t.add_(o), "sub_": lambda t, o: t.sub_(o), "mul_": lambda t, o: t.mul_(o),
    "div_": lambda t, o: t.div_(o), "zero_": lambda t, _o: t.zero_(), "fill_": lambda t, _o: t.fill_(2.5),
    "copy_": lambda t, o: t.copy_(o), "relu_": lambda t, _o: t.relu_(),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_in_place_agree_with_pytorch(name: str, torch) -> None:
    results = []
    for make in (torch.tensor, tensor):
        x, other = make([[1.0, -2.0], [3.0, 0.5]], requires_grad=True), make([[2.0, 4.0]], requires_grad=True)
        y = x * 2.0
        given = y.relu_() if name == "relu_" else METHODS[name](y, other)
        assert given is y
        (y * y).sum().backward() if y.requires_grad else None
        gradients = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in (x, other)]
        results.append((y.detach().numpy(), *gradients))
    for ours, theirs in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


INDICES = [0, slice(1, None), (slice(None), 1), (..., None, 0), np.array([2, 0]), (slice(None, None, 2), slice(0, 1))]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_assignment_to_an_index_agrees_with_numpy(index: object) -> None:
    a = np.arange(12, dtype=np.float32).reshape(4, 3)
    x, v = Tensor(a.copy(), requires_grad=True), Tensor(np.full(a[index].shape, 99, np.float32), requires_grad=True)
    y = x * 1.0
    y[index] = v
    expected = a.copy()
    expected[index] = 99
    np.testing.assert_array_equal(y.numpy(), expected)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected != 99)
    np.testing.assert_array_equal(v.grad.numpy(), np.ones(v.shape))
    plain = Tensor(a.copy())
    plain[index] = 99
    np.testing.assert_array_equal(plain.numpy(), expected)


def test_assignment_through_a_mask() -> None:
    x = leaf(-1.0, 2.0, -3.0)
    y = x * 1.0
    y[y < 0.0] = 0.0
    np.testing.assert_array_equal(y.numpy(), [0.0, 2.0, 0.0])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("change", "operator"),
    [
        (lambda x: x.add_(1.0), "Mul"),
        (lambda x: x.zero_(), "Mul"),
        (lambda x: x.__setitem__(0, 5.0), "Mul"),
        (lambda x: x.set_value(np.ones(2, np.float32)), "Mul"),
        (lambda x: setattr(x, "data", np.ones(2, np.float32)), "Mul"),
    ],
)
def test_a_change_that_would_corrupt_a_gradient_is_refused(change: object, operator: str) -> None:
    w, x = leaf(2.0, 3.0), tensor([1.0, 2.0])
    y = (w * x).sum()
    with no_grad():
        change(x)
    with pytest.raises(GradientError, match=f"the gradient of {operator} needs its input 1, which was changed"):
        y.backward()


def test_an_output_that_is_read_and_changed_is_refused_and_others_are_not() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = y.sum()
    y.add_(1.0)
    with pytest.raises(GradientError, match="the gradient of Exp needs its output"):
        z.backward()
    h = x * 2.0
    s = h.sum()  # keeps no values
    h.add_(1.0)
    (s + h.sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [4.0, 4.0])


def test_an_optimizer_step_between_forward_and_backward_is_found_through_a_view() -> None:
    w = engine.Parameter(np.ones((2, 2), np.float32))
    x = leaf(1.0, 2.0)
    y = (w.T @ x).sum()
    y.backward(retain_graph=True)
    engine.optim.SGD([w], lr=0.1).step()
    with pytest.raises(GradientError, match="the gradient of MatMul needs its input 0"):
        y.backward()


def test_changes_leave_views_and_detached_tensors_alone() -> None:
    x = tensor([[1.0, 2.0], [3.0, 4.0]])
    flat, apart = x.reshape(4), x.detach()
    before = x.numpy()
    x.add_(1.0)
    for other in (flat, apart):
        np.testing.assert_array_equal(other.numpy().reshape(-1), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(before, [[1.0, 2.0], [3.0, 4.0]])


def test_shapes_and_dtypes_cannot_change_in_place() -> None:
    x = tensor([1.0])
    with pytest.raises(ValueError, match=r"add_ would change the shape from \(1,\) to \(3,\)"):
        x.add_(tensor([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="set_value"):
        x.set_value(np.ones(2))
    i = tensor([1, 2])
    i.mul_(1.5)
    assert i.dtype == np.int64
