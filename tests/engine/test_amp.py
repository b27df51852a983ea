"""Mixed precision, clipping, recomputation, and the same numbers under the same seed."""

from __future__ import annotations

import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import Tensor, amp, nn, tensor
from edgec.engine import functional as F  # noqa: N812
from edgec.engine.clip_grad import clip_grad_norm_, clip_grad_value_
from edgec.engine.recompute import kept_bytes

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.fixture
def torch():
    """PyTorch; without it the test is skipped, except on CI, where it must be there."""
    if os.environ.get("CI") == "true":
        import torch

        return torch
    return pytest.importorskip("torch", reason="compares with PyTorch")


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return Tensor(rng.standard_normal((8, 2, 6, 6)).astype(np.float32)), Tensor(np.arange(8) % 3)


def network() -> nn.Sequential:
    engine.seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )  # fmt: skip


# --- auto_cast ---


@pytest.mark.parametrize("name", DTYPES)
def test_operators_run_in_the_dtype_of_their_list(name: str) -> None:
    a, w = engine.rand(3, 4), tensor(np.ones((4, 4), np.float32), requires_grad=True)
    narrow = DTYPES[name]
    with amp.auto_cast(dtype=name):
        product = a @ w
        assert product.dtype == narrow
        assert product.relu().dtype == narrow  # in no list: what it is given
        assert product.exp().dtype == np.float32
        assert product.softmax().dtype == np.float32
        assert (product + a).dtype == np.float32  # the wider of the two
        with amp.auto_cast(enable=False):
            assert (a @ w).dtype == np.float32
        assert (tensor(np.ones((4, 4))) @ tensor(np.ones((4, 4)))).dtype == np.float64
        assert engine.arange(3).dtype == np.int64
    assert (a @ w).dtype == np.float32
    product.exp().sum().backward()
    assert w.grad.dtype == np.float32
    with amp.autocast(dtype=name, custom_white_list={"Exp"}, custom_black_list=["MatMul"]):
        assert (a @ w).dtype == np.float32
        assert a.exp().dtype == narrow
    with amp.auto_cast(dtype=name, level="O2"):
        assert (a + a).dtype == narrow
        assert a.sum().dtype == np.float32
    with amp.auto_cast(level="O0"):
        assert (a @ w).dtype == np.float32


def test_arguments_of_auto_cast_are_checked() -> None:
    for arguments in ({"dtype": "float8"}, {"level": "O3"}, {"custom_white_list": "A", "custom_black_list": "A"}):
        with pytest.raises(ValueError, match=r"auto_cast|dtype must be"):
            amp.auto_cast(**arguments)


def test_the_reverse_pass_is_not_cast() -> None:
    """A gradient has the dtype of its forward, also if backward is called inside the block."""
    w = tensor(np.full((2, 2), 0.1, np.float32), requires_grad=True)
    x = tensor(np.full((2, 2), 3.0, np.float32))
    results = []
    for is_inside in (True, False):
        w.grad = None
        with amp.auto_cast():
            loss = ((x @ w).float() * 1e-3).sum()
            if is_inside:
                loss.backward()
        if not is_inside:
            loss.backward()
        results.append(w.grad.numpy())
    np.testing.assert_array_equal(*results)


def test_auto_cast_agrees_with_pytorch(torch) -> None:
    rng = np.random.default_rng(0)
    a, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 32), (8, 32), (8,)))
    results = []
    for library in (torch, engine):
        tensors = [library.tensor(array, requires_grad=True) for array in (a, w, b)]
        if library is torch:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = torch.nn.functional.linear(*tensors)
                loss = torch.nn.functional.log_softmax(y, 1).square().mean()
            y = y.float()
        else:
            with amp.auto_cast(dtype="bfloat16"):
                y = F.linear(*tensors)
                loss = F.log_softmax(y, 1).square().mean()
        loss.backward()
        results.append([np.asarray(y.detach().numpy(), np.float32), loss.item(), *(t.grad.numpy() for t in tensors)])
    for theirs, ours in zip(*results, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=1e-2 * scale)


@pytest.mark.parametrize("name", DTYPES)
def test_training_in_mixed_precision_follows_float32(name: str) -> None:
    losses = {}
    for enable in (False, True):
        net = network()
        optimizer = engine.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        scaler = amp.GradScaler(enable=enable and name == "float16", init_loss_scaling=1024.0)
        x, target = images()
        losses[enable] = []
        for _ in range(8):
            optimizer.zero_grad()
            with amp.auto_cast(enable, dtype=name):
                loss = F.cross_entropy(net(x), target)
            scaler.scale(loss).backward()
            assert all(parameter.grad.dtype == np.float32 for parameter in net.parameters())
            assert scaler.step(optimizer)
            scaler.update()
            losses[enable].append(loss.item())
    np.testing.assert_allclose(losses[True], losses[False], atol=0.03)
    assert losses[True][-1] < 0.5 * losses[True][0]


def test_master_weights_take_steps_that_half_precision_would_lose() -> None:
    results = {}
    for has_masters in (True, False):
        net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.LayerNorm(1))
        optimizer = engine.optim.SGD(net.parameters(), lr=1e-4)
        net[0].weight.set_value(np.ones((1, 2), np.float32))
        models, optimizers = amp.decorate(net, optimizer, level="O2", master_weight=has_masters)
        assert models is net
        assert optimizers is optimizer
        weight = net[0].weight
        assert weight.dtype == np.float16
        assert net[1].weight.dtype == np.float32
        for _ in range(50):
            weight.grad = tensor(np.ones((1, 2), np.float16))
            optimizer.step()
        results[has_masters] = weight.numpy().astype(np.float64)
        if has_masters:
            saved = optimizer.state_dict()
            np.testing.assert_allclose(saved["state"][0]["master"], 1 - 50e-4, rtol=1e-6)
    np.testing.assert_allclose(results[True], 1 - 50e-4, rtol=1e-3)
    np.testing.assert_array_equal(results[False], 1.0)  # 1 - 1e-4 rounds back to 1


def test_master_weights_with_adam_follow_float32() -> None:
    x, target = engine.rand(6, 4), Tensor(np.arange(6) % 2)
    losses = []
    for level in ("O0", "O2"):
        engine.seed(5)
        net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        optimizer = engine.optim.AdamW(net.parameters(), lr=0.02)
        amp.decorate(net, optimizer, level=level, dtype="bfloat16")
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            with amp.auto_cast(level=level, dtype="bfloat16"):
                loss = F.cross_entropy(net(x), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    np.testing.assert_allclose(losses[1], losses[0], atol=0.02)


# --- GradScaler ---


def test_the_scaler_adapts_and_skips() -> None:
    w = engine.Parameter(np.ones(2, np.float32))
    optimizer = engine.optim.SGD([w], lr=0.5)
    scaler = amp.GradScaler(init_loss_scaling=8.0, incr_ratio=4.0, decr_ratio=0.5, incr_every_n_steps=2)
    made = []
    for slope in (1.0, np.inf, 1.0, 1.0, np.nan, 1.0):
        optimizer.zero_grad()
        scaler.scale((w * tensor([slope, 1.0])).sum()).backward()
        before = w.numpy().copy()
        is_made = scaler.step(optimizer)
        np.testing.assert_array_equal(w.numpy(), before - 0.5 if is_made else before)
        scaler.update()
        made.append((is_made, scaler.get_scale()))
    assert made == [(True, 8.0), (False, 4.0), (True, 4.0), (True, 16.0), (False, 8.0), (True, 8.0)]
    other = amp.GradScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.get_loss_scaling() == 8.0
    assert other.state_dict() == scaler.state_dict() == {"scale": 8.0, "good_steps": 1, "bad_steps": 0}


def test_unscaled_gradients_can_be_clipped() -> None:
    w = engine.Parameter(np.zeros(2, np.float32))
    optimizer = engine.optim.SGD([w], lr=1.0)
    scaler = amp.GradScaler(init_scale=1024.0, growth_interval=10)
    scaler.scale((w * tensor([3.0, 4.0])).sum()).backward()
    np.testing.assert_array_equal(w.grad.numpy(), [3072.0, 4096.0])
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already called"):
        scaler.unscale_(optimizer)
    assert clip_grad_norm_([w], 1.0) == 5.0
    scaler.minimize(optimizer)
    np.testing.assert_allclose(w.numpy(), [-0.6, -0.8], rtol=1e-6)
    with pytest.raises(TypeError, match="no argument speed"):
        amp.GradScaler(speed=3)


def test_small_float16_gradients_survive_only_when_scaled() -> None:
    x = tensor(np.full((1, 4), 1e-4, np.float32))
    slopes = []
    for scale in (1.0, 2.0**14):
        w = tensor(np.ones((4, 1), np.float32), requires_grad=True)
        scaler = amp.GradScaler(init_loss_scaling=scale)
        with amp.auto_cast():
            loss = ((x @ w).float() * 1e-5).sum()
        scaler.scale(loss).backward()
        optimizer = engine.optim.SGD([w], lr=1.0)
        scaler.unscale_(optimizer)
        slopes.append(w.grad.numpy())
    assert not slopes[0].any()
    np.testing.assert_allclose(slopes[1], 1e-9, rtol=2e-2)


# --- clipping ---


@pytest.mark.parametrize("norm_type", [2.0, 1.0, np.inf])
def test_clipping_agrees_with_pytorch(norm_type: float, torch) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5,))]
    for limit in (0.7, 1000.0):
        ours = [engine.Parameter(np.zeros_like(g)) for g in gradients]
        theirs = [torch.nn.Parameter(torch.zeros(g.shape)) for g in gradients]
        for a, b, g in zip(ours, theirs, gradients, strict=True):
            a.grad, b.grad = tensor(g), torch.tensor(g)
        norm = nn.utils.clip_grad_norm_(ours, limit, norm_type)
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(theirs, limit, norm_type)), rel=1e-5)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-7)
        clip_grad_value_(ours, 0.1)
        torch.nn.utils.clip_grad_value_(theirs, 0.1)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (nn.ClipGradByValue(3.5), [[3.0, 3.5], [0.0, 3.5]]),
        (nn.ClipGradByValue(3.5, 1.0), [[3.0, 3.5], [1.0, 3.5]]),
        (nn.ClipGradByNorm(6.0), [[3.0, 4.0], [0.0, 6.0]]),
        (nn.ClipGradByGlobalNorm(6.5), [[1.5, 2.0], [0.0, 6.0]]),
    ],
)
def test_an_optimizer_clips_before_its_step(clip: object, expected: list[list[float]]) -> None:
    weights = [engine.Parameter(np.zeros(2, np.float32)) for _ in range(2)]
    optimizer = engine.optimizer.SGD(learning_rate=1.0, parameters=weights, grad_clip=clip)
    for weight, slope in zip(weights, ([3.0, 4.0], [0.0, 12.0]), strict=True):
        weight.grad = tensor(slope)
    optimizer.step()
    np.testing.assert_allclose([-weight.numpy() for weight in weights], expected, rtol=1e-6)


# --- recomputation ---


def deep(blocks: int, is_checkpointed: bool) -> tuple[nn.Module, object]:
    engine.seed(0)
    net = nn.ModuleList(
        [nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.Tanh(), nn.Dropout(0.2)) for _ in range(blocks)]
    )

    def run(x: Tensor) -> Tensor:
        for block in net:
            x = engine.checkpoint(block, x) if is_checkpointed else block(x)
        return x.square().mean()

    return net, run


def test_recomputation_gives_the_same_gradients_and_statistics() -> None:
    results = []
    for is_checkpointed in (False, True):
        net, run = deep(3, is_checkpointed)
        x = tensor(np.random.default_rng(0).standard_normal((16, 256)).astype(np.float32), requires_grad=True)
        engine.seed(7)
        for _ in range(2):
            loss = run(x)
            loss.backward()
        drawn = engine.rand(3).numpy()
        state = {name: value.numpy() for name, value in net.state_dict().items()}
        state |= {f"{name}.grad": parameter.grad.numpy() for name, parameter in net.named_parameters()}
        results.append({**state, "x": x.grad.numpy(), "loss": loss.numpy(), "drawn": drawn})
    for name, expected in results[0].items():
        np.testing.assert_array_equal(results[1][name], expected, err_msg=name)


def test_recomputation_of_higher_orders_and_by_grad() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return engine.checkpoint(lambda a: (a.exp() * w).tanh() * a, x)

    engine.check_grads(function, np.array([0.2, -0.4]), np.array([0.7, 1.1]), order=3)
    x = tensor([0.5], requires_grad=True)
    y = function(x, tensor([1.0]))
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == pytest.approx(2 * engine.grad(function(x, tensor([1.0])), x)[0].item())
    with engine.no_grad():
        assert not function(x, x).requires_grad


def test_recomputation_under_autocast_and_with_changes_in_place() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w
        y.add_(1.0)
        y.mul_(y.sigmoid())
        return y.exp()

    results = []
    for function in (body, lambda x, w: engine.checkpoint(body, x, w)):
        x, w = tensor([[0.1, 0.2]], requires_grad=True), tensor([[0.3], [0.4]], requires_grad=True)
        with amp.auto_cast():
            y = function(x, w)
        y.backward()
        results.append((y.numpy(), x.grad.numpy(), w.grad.numpy()))
    for plain, again in zip(*results, strict=True):
        np.testing.assert_array_equal(again, plain)


def test_recomputation_saves_memory() -> None:
    """Of eight blocks only the borders stay, and one block's values at a time come back."""
    blocks, batch = 8, 512
    peaks, kept = [], []
    for is_checkpointed in (False, True):
        net, run = deep(blocks, is_checkpointed)
        x = tensor(np.zeros((batch, 256), np.float32), requires_grad=True)
        tracemalloc.start()
        loss = run(x)
        kept.append(kept_bytes(loss))
        loss.backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del net
    activation = batch * 256 * 4
    parameters = blocks * 256 * 258 * 4
    assert kept[1] - parameters <= (blocks + 2) * activation
    assert kept[0] - parameters >= 3 * blocks * activation
    assert peaks[1] < 0.6 * peaks[0], peaks


def test_a_function_that_computes_something_else_the_second_time_is_refused() -> None:
    calls = []

    def fickle(x: Tensor) -> Tensor:
        calls.append(1)
        return x.exp().cos() if len(calls) == 1 else x.exp().sin()

    y = engine.checkpoint(fickle, tensor([1.0], requires_grad=True))
    with pytest.raises(engine.GradientError, match="did not compute the same") as caught:
        y.backward()
    assert "first Exp, Cos; then Exp, Sin" in caught.value.where


# --- determinism ---


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        net, run = deep(2, True)
        optimizer = engine.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            run(engine.randn(8, 256)).backward()
            optimizer.step()
        runs.append(np.concatenate([value.numpy().reshape(-1) for value in net.state_dict().values()]))
    np.testing.assert_array_equal(*runs)
