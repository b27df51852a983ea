"""Hooks, in-place changes, what is kept and freed, anomalies, custom operators, derivatives of functions."""

from __future__ import annotations

import gc
import os
import weakref

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import AnomalyError, GradientError, Tensor, TraceError, autograd, functional, grad, no_grad, tensor


@pytest.fixture
def torch():
    """PyTorch; without it the test is skipped, except on CI, where it must be there."""
    if os.environ.get("CI") == "true":
        import torch

        return torch
    return pytest.importorskip("torch", reason="compares with PyTorch")


def leaf(*values: float) -> Tensor:
    return tensor(list(values), requires_grad=True)


def forward_node(result: Tensor, name: str):
    node = result.node
    while node.primitive.name != name:
        node = next(edge[0] for edge in node.edges if edge is not None)
    return node


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


# --- changes in place ---


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


# --- custom operators ---


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
