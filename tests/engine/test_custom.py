"""Custom operators: forward and gradient of the user's own, eager and static."""

from __future__ import annotations

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import GradientError, Tensor, no_grad, tensor


def leaf(*values: float) -> Tensor:
    return tensor(list(values), requires_grad=True)


class Cube(engine.PyLayer):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x * x * x * scale

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensor()
        return dy * x * x * (3.0 * ctx.scale)


class Exp(engine.Function):
    """PyTorch's conventions: an output is saved, and one gradient per argument is returned."""

    @staticmethod
    def forward(ctx, x, _unused):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return dy * y, None


def test_custom_operators_differentiate_to_any_order() -> None:
    engine.check_grads(lambda x: Cube.apply(x, 2.0).sum(), np.array([0.3, -0.7]), order=3)
    engine.check_grads(lambda x: Exp.apply(x, "text").sum(), np.array([0.3, -0.7]), order=3)
    x = leaf(2.0)
    y = Cube.apply(x, 1.0)
    assert y.node.primitive.name == "Cube"
    y.backward()
    assert x.grad.item() == 12.0
    with no_grad():
        assert not Cube.apply(x, 1.0).requires_grad


def test_a_straight_through_estimator_uses_the_users_gradient_also_when_static() -> None:
    class Round(engine.Function):
        @staticmethod
        def forward(_ctx, x):
            return engine.apply("Round", [x])[0]

        @staticmethod
        def backward(_ctx, dy):
            return dy * 5.0

    def loss(x: Tensor) -> Tensor:
        return (Round.apply(x * 2.0) * 3.0).sum()

    for function in (loss, engine.to_static(loss)):
        x = leaf(0.4, 1.4)
        y = function(x)
        y.backward()
        assert y.item() == 12.0
        np.testing.assert_array_equal(x.grad.numpy(), [30.0, 30.0])


def test_custom_operators_with_several_outputs_and_their_errors() -> None:
    class Pair(engine.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.mark_non_differentiable()
            return a * 2.0, a, b + 1.0

        @staticmethod
        def backward(ctx, da, same, _db):
            assert ctx.needs_input_grad == (True, False)
            return da * 2.0 + same, None

    a, b = leaf(1.0), tensor([1.0])
    first, second, third = Pair.apply(a, b)
    assert second is not a
    assert third.requires_grad
    (first + second).backward()
    assert a.grad.item() == 3.0

    class Wrong(engine.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a)
            return a + b

        @staticmethod
        def backward(ctx, dy):
            return ctx.saved_tensors[0] * dy, dy, dy

    with pytest.raises(GradientError, match="returned 3 gradients for 2 tensor arguments"):
        Wrong.apply(a, b).backward()
    c = a * 1.0
    y = Wrong.apply(c, b)
    c.add_(1.0)
    with pytest.raises(GradientError, match="gradient of Wrong needs a saved tensor"):
        y.backward()
    with pytest.raises(NotImplementedError, match="static method forward"):
        type("Empty", (engine.Function,), {}).apply(a)
