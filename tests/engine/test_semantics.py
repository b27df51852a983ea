"""Hooks, what is kept and freed, anomalies, derivatives of functions, modes."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import AnomalyError, GradientError, Tensor, TraceError, autograd, functional, grad, tensor


def leaf(*values: float) -> Tensor:
    return tensor(list(values), requires_grad=True)


# --- hooks and gradients of computed tensors ---


def test_hooks_see_and_replace_the_whole_gradient() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3.0
    seen = []
    y.register_hook(lambda g: seen.append(g.numpy().copy()))
    y.register_hook(lambda g: g * 2.0)
    handle = x.register_hook(lambda g: g + 1.0)
    (y + y * y).sum().backward(retain_graph=True)
    np.testing.assert_array_equal(seen, [[7.0, 13.0]])  # 1 + 2 y, both uses summed before the hook
    np.testing.assert_array_equal(x.grad.numpy(), np.array([7.0, 13.0]) * 2 * 3 + 1)
    handle.remove()
    handle.remove()
    x.clear_grad()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6.0, 6.0])


def test_hooks_run_in_grad_too_and_a_wrong_shape_is_refused() -> None:
    x = leaf(1.0, 2.0)
    y = x * x
    y.register_hook(lambda g: g * 10.0)
    x.register_hook(lambda g: g * 2.0)
    (dy,) = grad(y.sum(), y, retain_graph=True)
    (dx,) = grad(y.sum(), x, retain_graph=True)
    np.testing.assert_array_equal(dy.numpy(), [10.0, 10.0])
    np.testing.assert_array_equal(dx.numpy(), [40.0, 80.0])
    assert x.grad is None
    with x.register_hook(lambda g: g.sum()), pytest.raises(ValueError, match="a hook returned float32 of shape"):
        y.sum().backward()
    with pytest.raises(ValueError, match="does not require"):
        tensor([1.0]).register_hook(lambda g: g)


def test_hooks_agree_with_pytorch(torch) -> None:
    a = torch.tensor([1.0, -2.0], requires_grad=True)
    b = leaf(1.0, -2.0)
    results = []
    for x, stack in ((a, torch), (b, engine)):
        h = stack.exp(x)
        h.retain_grad()
        h.register_hook(lambda g: g * 3.0)
        x.register_hook(lambda g: g - 1.0)
        (h * h).sum().backward()
        results.append((x.grad.numpy(), h.grad.numpy()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-6)


def test_retain_grads_fills_grad_of_a_computed_tensor() -> None:
    x = leaf(3.0)
    y = x * x
    z = y * 2.0
    assert not y.retains_grad
    y.retain_grads()
    assert y.retains_grad
    z.backward(retain_graph=True)
    z.backward()
    np.testing.assert_array_equal(y.grad.numpy(), [4.0])  # accumulated
    assert z.grad is None
    x.retain_grads()  # a leaf has its gradient anyway
    node = weakref.ref(y.node)
    del y, z
    assert node() is None  # the hook does not close a circle


# --- what is kept, and for how long ---


@pytest.mark.parametrize(
    ("compute", "kept"),
    [
        (lambda w, x: w + x, 0),
        (lambda w, x: w * x, 1),
        (lambda _w, x: x * 2.0, 0),
        (lambda w, _x: w * w, 2),
        (lambda w, x: w @ x, 1),
        (lambda w, _x: w.exp(), 1),
        (lambda w, _x: w.relu(), 1),
        (lambda w, _x: w.sum(), 0),
        (lambda w, _x: w.reshape(-1), 0),
        (lambda w, _x: w.transpose(1, 0), 0),
        (lambda w, x: functional.linear(w, x), 1),
        (lambda w, x: functional.linear(x, w), 1),
        (lambda w, x: functional.conv2d(w.reshape(1, 1, 4, 4), x.reshape(1, 1, 4, 4)), 1),
        (lambda w, x: functional.conv2d(x.reshape(1, 1, 4, 4), w.reshape(1, 1, 4, 4)), 1),
        (lambda w, _x: engine.where(w > 0.0, w, -w), 1),
        (lambda w, _x: w.softmax(), 1),
    ],
)
def test_rules_keep_the_least_they_need(compute: object, kept: int) -> None:
    w = Tensor(np.ones((4, 4), np.float32), requires_grad=True)
    x = Tensor(np.ones((4, 4), np.float32))
    made = compute(w, x)
    assert (0 if made.node is None else len(made.node.kept_arrays())) == kept


def test_the_graph_is_freed_while_the_pass_goes_back() -> None:
    x = leaf(1.0)
    first = x * 1.0
    hidden = first * first
    y = (hidden * hidden).sum()
    is_freed = []
    y_node, hidden_node = y.node, hidden.node
    first.register_hook(lambda _g: is_freed.append((y_node.is_freed, hidden_node.is_freed)))
    y.backward()
    assert is_freed == [(True, True)]
    with pytest.raises(GradientError, match="freed by an earlier"):
        y.backward()


def test_a_graph_has_no_circles() -> None:
    class Double(engine.PyLayer):
        @staticmethod
        def forward(ctx, x):
            y = x * 2.0
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(_ctx, dy):
            return dy * 2.0

    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0)
        y = engine.checkpoint(lambda v: Double.apply(v.exp()).relu(), x)
        y.add_(1.0)
        gone = weakref.ref(y.node)
        del y
        assert gone() is None
    finally:
        gc.enable()


# --- anomalies ---


def test_the_first_operator_that_made_nan_is_named_with_its_line() -> None:
    def step(x: Tensor) -> Tensor:
        return (x - 2.0).log()

    with engine.detect_anomaly(), pytest.raises(AnomalyError, match="Log produced NaN") as caught:
        step(leaf(1.0)) * 2.0
    line = step.__code__.co_firstlineno + 1
    assert caught.value.where == f"{__file__}:{line}, in step: return (x - 2.0).log()"
    step(leaf(1.0))  # outside nothing is checked


def test_the_gradient_that_made_inf_is_named_with_the_line_of_the_forward() -> None:
    def root(x: Tensor) -> Tensor:
        return x.sqrt()

    x = leaf(0.0, 1.0)
    with engine.detect_anomaly():
        y = (root(x) * 3.0).sum()
        with pytest.raises(AnomalyError, match="the gradient of Sqrt produced Inf") as caught:
            y.backward()
    assert f"{__file__}:{root.__code__.co_firstlineno + 1}, in root" in caught.value.where


def test_an_infinity_that_came_in_is_no_anomaly() -> None:
    mask = tensor([0.0, -np.inf])
    x = leaf(1.0, 2.0)
    with engine.detect_anomaly():
        y = (x + mask).softmax()
        (y * y).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    with engine.detect_anomaly(), engine.detect_anomaly(False):
        (leaf(-1.0)).log()


# --- derivatives of functions ---


def rosenbrock(x):
    return ((1.0 - x[:-1]) ** 2).sum() + 100.0 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


def residuals(x, y):
    return x[:2] * y.sum(), (x * x).sum() + y


def test_derivatives_agree_with_pytorch(torch) -> None:
    from torch.autograd import functional as theirs

    ours = autograd.functional
    a, b = np.array([0.3, -1.2, 0.7], np.float64), np.array([1.5, 0.2], np.float64)
    va, vb = np.array([1.0, 2.0, -1.0]), np.array([0.5, 3.0])
    x, y, v, u = (Tensor(array) for array in (a, b, va, vb))
    tx, ty, tv, tu = (torch.tensor(array) for array in (a, b, va, vb))
    pairs = [
        (ours.jacobian(rosenbrock, x), theirs.jacobian(rosenbrock, tx)),
        (ours.jacobian(residuals, (x, y)), theirs.jacobian(residuals, (tx, ty))),
        (ours.hessian(rosenbrock, x), theirs.hessian(rosenbrock, tx)),
        (
            ours.hessian(lambda x, y: (x[:2] * y).sum() ** 2, (x, y)),
            theirs.hessian(lambda x, y: (x[:2] * y).sum() ** 2, (tx, ty)),
        ),
        (ours.hvp(rosenbrock, x, v), theirs.hvp(rosenbrock, tx, tv)),
        (ours.vhp(rosenbrock, x, v), theirs.vhp(rosenbrock, tx, tv)),
        (ours.vjp(residuals, (x, y), (u, u)), theirs.vjp(residuals, (tx, ty), (tu, tu))),
        (ours.jvp(residuals, (x, y), (v, u)), theirs.jvp(residuals, (tx, ty), (tv, tu))),
    ]

    def compare(one: object, other: object) -> None:
        if isinstance(one, tuple):
            assert len(one) == len(other)
            for a, b in zip(one, other, strict=True):
                compare(a, b)
        else:
            assert one.shape == tuple(other.shape)
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-12)

    for one, other in pairs:
        compare(one, other)


def test_jacobian_of_computed_outputs_and_of_batches() -> None:
    x = Tensor(np.arange(6, dtype=np.float64).reshape(2, 3), requires_grad=True)
    y = x * x
    rows = engine.jacobian(y, x, batch_axis=0)
    np.testing.assert_array_equal(rows.numpy(), [np.diag(2 * row) for row in x.numpy()])
    full = engine.jacobian(y, x)
    assert full.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(full.numpy().reshape(6, 6), np.diag(2 * x.numpy().reshape(-1)))
    again = engine.jacobian(lambda z: z * z * z, x, create_graph=True)
    (second,) = grad(again.sum(), x)
    np.testing.assert_array_equal(second.numpy(), 6 * x.numpy())
    with pytest.raises(ValueError, match="one tensor of one element"):
        engine.hessian(lambda z: z * z, x)


# --- modes and values ---


@pytest.mark.parametrize("access", [lambda t: t.data, np.asarray, np.array, lambda t: np.add(1, np.asarray(t))])
def test_arrays_of_traced_tensors_are_refused(access: object) -> None:
    x = tensor([1.0, 2.0])
    with engine.record([x]):
        y = x * 2.0
        with pytest.raises(TraceError, match="traced tensor"):
            access(y)
        assert len(y) == 2
        assert y.shape == (2,)
    access(y)


def test_set_grad_enabled_and_paddles_modules() -> None:
    x = leaf(1.0)
    with engine.set_grad_enabled(False):
        assert not (x * 2.0).requires_grad
    paddle = engine
    paddle.seed(2024)
    assert paddle.jit.to_static is engine.to_static
    assert issubclass(paddle.io.DataLoader, object)
    assert paddle.nn.Layer is engine.nn.Module
    net = paddle.nn.Linear(2, 1)
    clip = engine.nn.ClipGradByGlobalNorm(1e-3)
    adam = paddle.optimizer.Adam(learning_rate=0.1, parameters=net.parameters(), beta1=0.8, grad_clip=clip)
    assert adam.groups[0]["beta1"] == 0.8
    net(tensor([[1.0, 2.0]])).sum().backward()
    adam.step()
    total = sum(float((parameter.grad.numpy() ** 2).sum()) for parameter in net.parameters())
    assert total**0.5 == pytest.approx(1e-3, rel=1e-4)


def test_seed_example_traced_gives_the_same_numbers() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    import onnx_ir as ir

    from edgec.frontend import execute, trace

    def loss_and_gradients(w, b, x):
        y = w * x + b
        loss = (y - 10.0) ** 2
        dw, db = engine.grad(loss, [w, b])
        return loss, dw, db

    w, b, x = leaf(2.0), leaf(1.0), tensor([3.0])
    eager = [value.numpy() for value in loss_and_gradients(w, b, x)]
    np.testing.assert_array_equal(np.concatenate(eager), [9.0, -18.0, -6.0])
    model = trace(loss_and_gradients, w, b, x)
    arrays = [t.numpy() for t in (w, b, x)]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(zip("wbx", arrays, strict=True)))
    for one, other, reference in zip(outputs, eager, execute(model, arrays).values(), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(reference, other)
