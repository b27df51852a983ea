"""Static mode: the traced graph gives what the function gives, to the bit, and goes on with it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import Tensor, TraceError, nn, no_grad, tensor
from edgec.engine import functional as F  # noqa: N812

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 3, 8, 8)).astype(np.float32)
CLASSES = np.arange(6) % 4


class Network(nn.Module):
    """Everything with a state: running statistics, dropout, a branch and a loop on values."""

    def __init__(self) -> None:
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.features(x).mean(axis=(2, 3))
        hidden = engine.cond(hidden.mean() > 0.2, lambda: hidden * 2.0, lambda: hidden - 1.0)
        _, hidden = engine.while_loop(
            lambda i, h: (i < 4) & (h.square().sum() < 50.0), lambda i, h: [i + 1, h * 1.3], [tensor(0), hidden]
        )
        carry, rows = engine.scan(lambda c, row: (c * 0.5 + row, c + row), hidden[0], hidden)
        return self.head(hidden + rows + carry)


def network() -> Network:
    engine.seed(3)
    return Network()


def test_training_in_static_mode_is_the_same_to_the_bit() -> None:
    nets = [network(), engine.to_static(network())]
    optimizers = [engine.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    for step in range(6):
        losses, gradients = [], []
        for net, optimizer in zip(nets, optimizers, strict=True):
            engine.seed(step)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(Tensor(IMAGES + 0.2 * step)), Tensor(CLASSES))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            gradients.append([parameter.grad.numpy() for parameter in net.parameters()])
            losses.append(float(engine.rand(1)))  # dropout has drawn as often in both
        assert losses[:2] == losses[2:], step
        for eager, static in zip(*gradients, strict=True):
            np.testing.assert_array_equal(static, eager)
    for (name, eager), (_, static) in zip(nets[0].state_dict().items(), nets[1].state_dict().items(), strict=True):
        np.testing.assert_array_equal(static.numpy(), eager.numpy(), err_msg=name)
    assert nets[1].forward.traces == 1
    for net in nets:
        net.eval()
    with no_grad():
        outputs = [net(Tensor(IMAGES)).numpy() for net in nets]
    np.testing.assert_array_equal(*outputs)
    assert nets[1].forward.traces == 2


def test_a_static_loss_is_the_same_to_the_bit() -> None:
    """With the loss inside, whose short eager way a trace cannot take."""
    results = []
    for make in (lambda function: function, engine.to_static):
        engine.seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4))
        optimizer = engine.optim.Adam(net.parameters(), lr=0.01)
        loss = make(lambda x, target, net=net: F.cross_entropy(net(x), target))
        for _ in range(3):
            optimizer.zero_grad()
            value = loss(Tensor(IMAGES), Tensor(CLASSES))
            value.backward()
            optimizer.step()
        results.append([value.numpy(), *(parameter.numpy() for parameter in net.parameters())])
    for eager, static in zip(*results, strict=True):
        np.testing.assert_array_equal(static, eager)


def test_the_function_runs_once_per_signature() -> None:
    calls = []

    @engine.to_static
    def scaled(x: Tensor, factor: float, *, shift: float = 0.0) -> dict[str, Tensor]:
        calls.append(x.shape)
        return {"y": x * factor + shift}

    x, y = tensor([1.0, 2.0]), tensor([3.0, 4.0])
    np.testing.assert_array_equal(scaled(x, 2.0)["y"].numpy(), [2.0, 4.0])
    np.testing.assert_array_equal(scaled(y, 2.0)["y"].numpy(), [6.0, 8.0])
    assert len(calls) == 1
    for args, options in [
        ((x, 3.0), {}), ((x, 2.0), {"shift": 1.0}), ((tensor([1.0]), 2.0), {}), ((x.double(), 2.0), {}),
        ((tensor([1.0, 2.0], requires_grad=True), 2.0), {}), ((x, 2), {}),
    ]:  # fmt: skip
        expected = args[0].numpy() * args[1] + options.get("shift", 0.0)
        np.testing.assert_array_equal(scaled(*args, **options)["y"].numpy(), expected)
    assert len(calls) == scaled.traces == 7
    with no_grad():
        assert not scaled(tensor([1.0, 2.0], requires_grad=True), 2.0)["y"].requires_grad
    np.testing.assert_array_equal(scaled(np.ones(2, np.float32), 2.0)["y"].numpy(), [2.0, 2.0])
    with pytest.raises(TypeError, match="hashable"):
        scaled(x, {1, 2})


def test_gradients_reach_arguments_captures_and_what_is_behind_them() -> None:
    w = engine.Parameter(np.array([2.0, 3.0], np.float32))

    def loss(pair: tuple[Tensor, list[Tensor]]) -> Tensor:
        a, (b,) = pair
        return (a * b * w).sum() + a.detach().sum()

    results = []
    for function in (loss, engine.to_static(loss)):
        x, b = tensor([1.0, 2.0], requires_grad=True), tensor([5.0, 6.0], requires_grad=True)
        w.grad = None
        value = function((x * x, [b]))
        (slope,) = engine.grad(value, x, create_graph=True)
        slope.square().sum().backward()
        results.append([value.item(), x.grad.numpy(), b.grad.numpy(), w.grad.numpy()])
    for eager, static in zip(*results, strict=True):
        np.testing.assert_array_equal(static, eager)


def test_gradients_inside_the_function() -> None:
    def penalty(x: Tensor) -> Tensor:
        y = engine.cond(x.sum() > 0.0, lambda: (x**3).sum(), lambda: (x * x).sum())
        (slope,) = engine.grad(y, x, create_graph=True)
        carry, _ = engine.scan(lambda c, row: (c + row * c, row), tensor(1.0), slope)
        (again,) = engine.grad(carry, slope)
        return (slope * slope).sum() + again.sum()

    static = engine.to_static(penalty)
    for sign in (1.0, -1.0):
        results = []
        for function in (penalty, static):
            x = tensor([0.5 * sign, 1.5 * sign], requires_grad=True)
            value = function(x)
            value.backward()
            results.append((value.item(), x.grad.numpy()))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
        np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-6)
    assert static.traces == 1


def test_a_branch_on_data_says_how_to_mend_it() -> None:
    @engine.to_static
    def decide(x: Tensor) -> Tensor:
        if x.sum() > 0.0:
            return x
        return -x

    with pytest.raises(TraceError) as caught:
        decide(tensor([1.0]))
    assert "in decide: if x.sum() > 0.0:" in caught.value.where
    assert "engine.cond(" in caught.value.fix
    assert "engine.where(" in caught.value.fix


def test_values_of_parameters_count_as_data() -> None:
    net = nn.Linear(2, 2)

    @engine.to_static
    def frozen(x: Tensor) -> Tensor:
        return x * float(net.weight.sum())

    with pytest.raises(TraceError, match=r"float\(\) was called on a traced tensor"):
        frozen(tensor([1.0]))


def test_backward_inside_is_refused() -> None:
    net = nn.Linear(2, 1)

    @engine.to_static
    def step(x: Tensor) -> Tensor:
        loss = net(x).sum()
        loss.backward()
        return loss

    with pytest.raises(TraceError, match="backward"):
        step(tensor([[1.0, 2.0]]))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_tensors_changed_in_place_go_on_changing() -> None:
    total, count = engine.zeros(2), tensor(0)

    def add_up(x: Tensor) -> Tensor:
        with no_grad():
            total.add_(x)
            count.set_value(count + 1)
        x.mul_(2.0)
        return x + total

    static = engine.to_static(add_up)
    for expected in ([3.0, 6.0], [4.0, 8.0], [5.0, 10.0]):
        x = tensor([1.0, 2.0])
        np.testing.assert_array_equal(static(x).numpy(), expected)
        np.testing.assert_array_equal(x.numpy(), [2.0, 4.0])
    np.testing.assert_array_equal(total.numpy(), [3.0, 6.0])
    assert count.item() == 3


def test_random_tensors_are_drawn_anew() -> None:
    noisy = engine.to_static(lambda x: x + engine.randn(2, 3) * engine.rand(3))
    x = engine.zeros(2, 3)
    engine.seed(0)
    expected = [(engine.randn(2, 3) * engine.rand(3)).numpy() for _ in range(2)]
    engine.seed(0)
    for values in expected:
        np.testing.assert_array_equal(noisy(x).numpy(), values)


def test_a_decorated_method_and_a_static_module_in_a_larger_trace() -> None:
    from edgec.frontend import trace

    class Doubling(nn.Module):
        def __init__(self, factor: float) -> None:
            self.factor = factor
            self.weight = engine.Parameter(np.full(2, factor, np.float32))

        @engine.to_static
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight * self.factor

    nets = [Doubling(2.0), Doubling(3.0)]
    for net, expected in zip(nets, (4.0, 9.0), strict=True):
        np.testing.assert_array_equal(net(tensor([1.0, 1.0])).numpy(), [expected] * 2)
    net = engine.to_static(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    assert engine.to_static(net) is net
    assert [node.op_type for node in trace(net, np.ones((1, 2), np.float32)).graph] == ["Gemm", "Relu"]
    assert [value.name for value in trace(net, np.ones((1, 2), np.float32)).graph.inputs] == ["x"]
    gc.collect()
    gone = weakref.ref(net)
    net(tensor([[1.0, 2.0]]))
    del net
    gc.collect()
    assert gone() is None


def test_autocast_is_part_of_the_signature() -> None:
    net = nn.Linear(3, 2)
    static = engine.to_static(lambda x: net(x))
    x = engine.ones(1, 3)
    with engine.amp.auto_cast():
        half = static(x)
    assert half.dtype == np.float16
    assert static(x).dtype == np.float32
    assert static.traces == 2


def test_an_anomaly_in_a_graph_names_the_line_of_the_operator() -> None:
    @engine.to_static
    def root(x: Tensor) -> Tensor:
        y = x - 1.0
        return y.sqrt()

    line = root.__wrapped__.__code__.co_firstlineno + 3
    with engine.detect_anomaly():
        root(tensor([2.0], requires_grad=True))
        with pytest.raises(engine.AnomalyError, match="Sqrt produced NaN") as forward:
            root(tensor([0.0], requires_grad=True))
        y = root(tensor([1.0], requires_grad=True))
        with pytest.raises(engine.AnomalyError, match="gradient of Sqrt produced Inf") as backward:
            y.backward()
    assert forward.value.where == backward.value.where == f"{__file__}:{line}"


def test_hooks_inside_are_refused() -> None:
    @engine.to_static
    def hooked(x: Tensor) -> Tensor:
        y = x * 2.0
        y.register_hook(lambda g: g * 2.0)
        return y

    with pytest.raises(TraceError, match="a hook or retain_grads"):
        hooked(tensor([1.0], requires_grad=True))
