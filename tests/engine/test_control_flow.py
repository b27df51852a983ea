"""cond, while_loop and scan: eager, their gradients, and what a trace refuses."""

from __future__ import annotations

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import Tensor, TraceError, check_grads, record, tensor


def test_cond_runs_one_branch_only() -> None:
    x = tensor([2.0], requires_grad=True)

    def fails() -> Tensor:
        raise AssertionError("the other branch ran")

    y = engine.cond(x.sum() > 0.0, lambda: x * 3.0, fails)
    y.backward()
    assert x.grad.item() == 3.0
    assert engine.cond(False, fails) is None
    assert engine.cond(tensor(True), lambda a, b: (a, [b]), fails, (1, x)) == (1, [x])


def test_while_loop_and_its_gradients() -> None:
    def power(x: Tensor) -> Tensor:
        _, y = engine.while_loop(lambda i, _y: i < 4, lambda i, y: [i + 1, y * x], [tensor(0), x])
        return y.sum()

    assert power(tensor([2.0])).item() == 32.0
    check_grads(power, np.array([0.9, -1.3]), order=2)
    same = tensor([1.0])
    assert engine.while_loop(lambda i, _v: i < 0, lambda i, v: [i + 1, v * 2], [tensor(0), same])[1] is same
    with pytest.raises(ValueError, match="as many values"):
        engine.while_loop(lambda i: i < 1, lambda i: [i + 1, i], [tensor(0)])


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_and_its_gradients(reverse: bool) -> None:
    def filtered(x: Tensor, w: Tensor, start: Tensor) -> tuple[Tensor, ...]:
        (carry, count), ys = engine.scan(
            lambda carry, row: ((carry[0].tanh() * w + row, carry[1] + 1), {"y": carry[0] * row}),
            (start, tensor(0)),
            x,
            reverse=reverse,
        )
        assert count.item() == 4
        return carry, ys["y"]

    rng = np.random.default_rng(0)
    x, w, start = rng.standard_normal((4, 3)), rng.standard_normal(3), rng.standard_normal(3)
    carry, rows = start, np.zeros_like(x)
    for index in range(4)[:: -1 if reverse else 1]:
        rows[index] = carry * x[index]
        carry = np.tanh(carry) * w + x[index]
    final, ys = filtered(*map(Tensor, (x, w, start)))
    np.testing.assert_allclose(final.numpy(), carry)
    np.testing.assert_allclose(ys.numpy(), rows)
    check_grads(filtered, x, w, start, order=2)


def test_scan_of_nothing_and_of_unequal_lengths() -> None:
    carry, ys = engine.scan(lambda c, x: (c + x, (c * x).sum()), tensor([1.0, 2.0]), engine.zeros(0, 2))
    np.testing.assert_array_equal(carry.numpy(), [1.0, 2.0])
    assert ys.shape == (0,)
    with pytest.raises(ValueError, match="one length"):
        engine.scan(lambda c, x: (c, x), tensor(0.0), (engine.zeros(2), engine.zeros(3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: engine.cond(x.sum() > 0.0, lambda: x, lambda: x.sum()), "float32 .2,. and float32 .."),
        (lambda x: engine.cond(x.sum() > 0.0, lambda: x, lambda: (x, x)), "not alike"),
        (lambda x: engine.cond(x.sum() > 0.0, lambda: x), "needs a false_fn"),
        (
            lambda x: engine.while_loop(lambda y: y.sum() < 9.0, lambda y: [engine.concat([y, y])], [x]),
            "loop variable and its new value are not alike",
        ),
        (lambda x: engine.scan(lambda c, r: ((c + r).double(), r), tensor(0.0), x), "the carry and the new one"),
        (lambda x: (lambda y: engine.cond(x.sum() > 0.0, lambda: y.add_(1.0), lambda: y))(x * 2.0), "changed in place"),
        (lambda x: engine.while_loop(lambda y: bool(y.sum() < 9.0), lambda y: [y * 2], [x]), r"bool\(\) was called"),
        (
            lambda x: engine.grad(engine.while_loop(lambda y: y.sum() < 9.0, lambda y: [y * 2.0], [x])[0].sum(), x),
            "gradient of a while_loop cannot be traced",
        ),
    ],
)
def test_what_a_trace_refuses(function: object, message: str) -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    with record([x]), pytest.raises(TraceError, match=message):
        function(x)
    with record([x]):
        pass  # closed, also those of the bodies


def test_a_condition_that_is_known_chooses_while_tracing() -> None:
    x = tensor([1.0])
    with record([x]) as recording:
        y = engine.cond(tensor(1) > 0, lambda: x * 2.0, lambda: x.exp())
    assert [node.op_type for node in recording.nodes] == ["Greater", "Mul"]
    assert recording.is_traced(y)


def test_branches_of_a_trace_do_not_move_the_random_numbers() -> None:
    x = engine.ones(3)
    engine.seed(1)
    with record([x]):
        engine.cond(x.sum() > 0.0, lambda: x + engine.rand(3), lambda: x - engine.rand(3))
        after = engine.rand(1)
    engine.seed(1)
    assert after.numpy() == engine.rand(1).numpy()
