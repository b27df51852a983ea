"""nn, losses, optimizers and data: against hand-written formulas, then together in small trainings."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

import edgec.engine as engine
from edgec.engine import Parameter, StateDictError, Tensor, check_grads, nn, optim, tensor
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.data import DataLoader, TensorDataset

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Net(nn.Module):
    def __init__(self) -> None:
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.flatten(self.features(x)))


def test_names_are_dotted_paths() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == [
        "features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias", "head.weight", "head.bias",
    ]  # fmt: skip
    assert [name for name, _ in net.named_buffers()] == ["features.1.running_mean", "features.1.running_var"]
    assert [name for name, _ in net.named_modules()][:3] == ["", "features", "features.0"]


def test_shared_parameters_and_modules_come_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            self.one = nn.Linear(2, 2)
            self.other = self.one
            self.weight = self.one.weight

    assert [name for name, _ in Tied().named_parameters()] == ["weight", "one.bias"]


def test_module_list_and_repr() -> None:
    layers = nn.ModuleList([nn.Linear(2, 3), nn.ReLU()])
    assert len(layers) == 2
    assert isinstance(layers[1], nn.ReLU)
    assert "(0): Linear(2, 3, bias=True)" in repr(layers)


def test_train_and_eval_reach_every_module() -> None:
    net = Net()
    assert net.features[1].training
    net.eval()
    assert not any(module.training for module in net.modules())


def test_state_goes_through_a_file(tmp_path: Path) -> None:
    engine.seed(1)
    one, other = Net(), Net()
    x = Tensor(array(2, 1, 8, 8))
    one(x)  # moves the running statistics
    path = tmp_path / "net.safetensors"
    one.save(path)
    other.load(path)
    np.testing.assert_array_equal(one.eval()(x).numpy(), other.eval()(x).numpy())
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_wrong_state_is_named_and_changes_nothing(tmp_path: Path) -> None:
    net = nn.Linear(2, 3)
    before = net.weight.data.copy()
    with pytest.raises(StateDictError, match=r"weight has shape \(2, 3\), the module needs \(3, 2\)"):
        net.load_state_dict({"weight": np.zeros((2, 3)), "bias": np.zeros(3)})
    with pytest.raises(StateDictError, match="bias is missing; extra is not in the module"):
        net.load_state_dict({"weight": np.zeros((3, 2)), "extra": np.zeros(1)})
    np.testing.assert_array_equal(net.weight.data, before)
    net.load_state_dict({"weight": np.zeros((3, 2)), "extra": np.zeros(1)}, strict=False)
    assert not net.weight.data.any()
    assert net.weight.dtype == np.float32
    (tmp_path / "bad").write_bytes(b"no tensors")
    with pytest.raises(StateDictError, match="cannot read the state"):
        net.load(tmp_path / "bad")


def test_seed_fixes_the_initial_values() -> None:
    def weights() -> np.ndarray:
        engine.seed(7)
        return nn.Linear(3, 4).weight.numpy()

    np.testing.assert_array_equal(weights(), weights())


@pytest.mark.parametrize(
    ("initializer", "std"),
    [
        (nn.init.kaiming_normal_, math.sqrt(2 / (64 * 9))),
        (nn.init.kaiming_uniform_, math.sqrt(2 / (64 * 9))),
        (nn.init.xavier_normal_, math.sqrt(2 / ((64 + 32) * 9))),
        (nn.init.xavier_uniform_, math.sqrt(2 / ((64 + 32) * 9))),
    ],
)
def test_initializers_have_their_deviation(initializer: object, std: float) -> None:
    engine.seed(0)
    filled = initializer(Parameter(np.zeros((32, 64, 3, 3), np.float32)))
    assert filled.dtype == np.float32
    assert filled.numpy().std() == pytest.approx(std, rel=0.02)
    assert abs(filled.numpy().mean()) < 0.02 * std * 5


def test_batch_norm_trains_on_the_batch_and_infers_on_the_running_values() -> None:
    norm, x = nn.BatchNorm2d(3), array(8, 3, 4, 4) * 2 + 5
    y = norm(Tensor(x)).numpy()
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.1 * x.mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.9 + 0.1 * x.var((0, 2, 3), ddof=1), rtol=1e-4)
    frozen = norm.running_mean.numpy().copy()
    expected = (x - frozen[:, None, None]) / np.sqrt(norm.running_var.numpy()[:, None, None] + 1e-5)
    np.testing.assert_allclose(norm.eval()(Tensor(x)).numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(norm.running_mean.numpy(), frozen)


def test_dropout_keeps_the_mean_and_vanishes_in_eval() -> None:
    engine.seed(0)
    drop, x = nn.Dropout(0.25), Tensor(np.ones((200, 200), np.float32), requires_grad=True)
    y = drop(x)
    assert (y.numpy() == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert y.numpy().mean() == pytest.approx(1.0, abs=0.01)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert drop.eval()(x) is x


def test_losses_agree_with_their_formulas() -> None:
    logits, target = array(5, 4), np.array([0, 3, 1, 1, 2])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    picked = -logs[np.arange(5), target]
    x, t = Tensor(logits), Tensor(target)
    smoothed = 0.9 * picked - 0.1 * logs.mean(1)
    onehot = np.eye(4, dtype=np.float32)[target]
    yes = 1 / (1 + np.exp(-logits))
    for made, expected in [
        (F.cross_entropy(x, t), picked.mean()),
        (F.cross_entropy(x, t, reduction="none"), picked),
        (F.cross_entropy(x, t, label_smoothing=0.1), smoothed.mean()),
        (F.cross_entropy(x, Tensor(onehot)), picked.mean()),
        (F.cross_entropy(x, Tensor(onehot), label_smoothing=0.1, reduction="sum"), smoothed.sum()),
        (F.nll_loss(Tensor(logs), t), picked.mean()),
        (F.mse_loss(x, Tensor(onehot)), ((logits - onehot) ** 2).mean()),
        (F.l1_loss(x, Tensor(onehot), "sum"), abs(logits - onehot).sum()),
        (
            F.binary_cross_entropy_with_logits(x, Tensor(onehot)),
            -(onehot * np.log(yes) + (1 - onehot) * np.log(1 - yes)).mean(),
        ),
        (
            F.binary_cross_entropy(Tensor(yes), Tensor(onehot)),
            -(onehot * np.log(yes) + (1 - onehot) * np.log(1 - yes)).mean(),
        ),
        (F.kl_div(x, Tensor(onehot), "batchmean"), -(onehot * logits).sum() / 5),
    ]:
        np.testing.assert_allclose(made.numpy(), expected, rtol=1e-5)
        assert made.dtype == np.float32


def test_losses_stay_finite_at_extremes() -> None:
    x = tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    for loss in (
        F.cross_entropy(x, tensor([1, 1])),
        F.binary_cross_entropy_with_logits(x, tensor([[0.0, 1.0], [1.0, 0.0]])),
    ):
        x.clear_grad()
        loss.backward()
        assert np.isfinite(loss.item())
        assert np.isfinite(x.grad.numpy()).all()


def test_losses_and_layers_differentiate_twice() -> None:
    target = np.array([1, 0])
    check_grads(lambda x: F.cross_entropy(x, Tensor(target), label_smoothing=0.1), array(2, 3))
    check_grads(lambda x, y: F.smooth_l1_loss(x, y, beta=0.5), array(2, 3), array(2, 3))
    check_grads(lambda x, w, b: F.linear(x, w, b), array(2, 3, 4), array(5, 4), array(5))
    check_grads(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), array(1, 1, 3, 3), order=1)


def test_spatial_cross_entropy() -> None:
    logits, target = array(2, 3, 4, 4), RNG.integers(0, 3, (2, 4, 4))
    flat = F.cross_entropy(Tensor(logits.transpose(0, 2, 3, 1).reshape(-1, 3)), Tensor(target.reshape(-1)))
    assert F.cross_entropy(Tensor(logits), Tensor(target)).item() == pytest.approx(flat.item(), rel=1e-5)


# --- optimizers ---

GRADIENTS = [np.array([0.5, -1.0]), np.array([0.25, 2.0]), np.array([-1.0, 0.1])]
START = np.array([1.0, -2.0])


def steps(make: object) -> np.ndarray:
    parameter = Parameter(START.copy())
    optimizer = make([parameter])
    for gradient in GRADIENTS:
        parameter.grad = Tensor(gradient.copy())
        optimizer.step()
    return parameter.numpy()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_follows_its_formula(nesterov: bool, decay: float) -> None:
    w, velocity = START.copy(), np.zeros(2)
    for gradient in GRADIENTS:
        g = gradient + decay * w
        velocity = 0.9 * velocity + g
        w = w - 0.1 * (g + 0.9 * velocity if nesterov else velocity)
    made = steps(lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=decay, nesterov=nesterov))
    np.testing.assert_allclose(made, w, rtol=1e-12)
    plain = steps(lambda p: optim.SGD(p, 0.1))
    np.testing.assert_allclose(plain, START - 0.1 * sum(GRADIENTS), rtol=1e-12)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_follows_its_formula(decoupled: bool) -> None:
    w, m, v, lr, decay = START.copy(), np.zeros(2), np.zeros(2), 0.01, 0.1
    for count, gradient in enumerate(GRADIENTS, 1):
        g = gradient if decoupled else gradient + decay * w
        if decoupled:
            w = w - lr * decay * w
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        w = w - lr * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.99**count)) + 1e-8)
    kind = optim.AdamW if decoupled else optim.Adam
    made = steps(lambda p: kind(p, lr, betas=(0.9, 0.99), weight_decay=decay))
    np.testing.assert_allclose(made, w, rtol=1e-10)


def test_optimizers_keep_float32() -> None:
    for make in (lambda p: optim.SGD(p, 0.1, 0.9, 0.1), lambda p: optim.AdamW(p, 0.1)):
        parameter = Parameter(START.astype(np.float32))
        optimizer = make([parameter])
        for gradient in GRADIENTS:
            parameter.grad = Tensor(gradient.astype(np.float32))
            optimizer.step()
        assert parameter.dtype == np.float32
        assert all(a.dtype in (np.float32, np.int64) for a in optimizer.state_dict()["state"][0].values())


def test_groups_have_their_own_settings() -> None:
    a, b = Parameter(np.ones(1)), Parameter(np.ones(1))
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    a.grad, b.grad = Tensor(np.ones(1)), Tensor(np.ones(1))
    optimizer.step()
    assert (a.item(), b.item()) == (pytest.approx(0.9), pytest.approx(0.5))
    with pytest.raises(TypeError, match="unknown settings of a parameter group: rate"):
        optim.SGD([{"params": [a], "rate": 1.0}])
    with pytest.raises(ValueError, match="appears twice"):
        optim.SGD([a, a])
    with pytest.raises(ValueError, match="no parameters"):
        optim.SGD([])


def test_optimizer_state_continues_a_run() -> None:
    def run(interrupted: bool) -> np.ndarray:
        parameter = Parameter(START.copy())
        optimizer = optim.Adam([parameter], 0.1)
        for index, gradient in enumerate(GRADIENTS):
            if interrupted and index == 2:
                state = optimizer.state_dict()
                optimizer = optim.Adam([parameter], 99.0)
                optimizer.load_state_dict(state)
            parameter.grad = Tensor(gradient)
            optimizer.step()
        return parameter.numpy()

    np.testing.assert_array_equal(run(False), run(True))
    with pytest.raises(StateDictError, match="state is of 1 parameters in 1 groups"):
        optim.Adam([Parameter(START), Parameter(START)]).load_state_dict(optim.Adam([Parameter(START)]).state_dict())


def test_cosine_schedule_and_clipping() -> None:
    parameter = Parameter(np.array([3.0, 4.0]))
    optimizer = optim.SGD([parameter], lr=1.0)
    schedule, rates = optim.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.2), []
    for _ in range(5):
        schedule.step()
        rates.append(optimizer.lr)
    np.testing.assert_allclose(rates, [0.2 + 0.4 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4, 4)])
    parameter.grad = Tensor(np.array([3.0, 4.0]))
    assert optim.clip_grad_norm_([parameter], 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(parameter.grad.numpy(), [0.6, 0.8])


# --- data ---


def test_loader_cuts_shuffles_and_repeats() -> None:
    data = TensorDataset(np.arange(10), np.arange(10, dtype=np.float32) * 2)
    batches = [x.numpy().tolist() for x, _ in DataLoader(data, 4)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(DataLoader(data, 4, drop_last=True)) == len(list(DataLoader(data, 4, drop_last=True))) == 2
    loader, same = (DataLoader(data, 5, shuffle=True, seed=3) for _ in range(2))
    first, second = ([x.numpy().tolist() for x, _ in loader] for _ in range(2))
    assert sorted(itertools.chain(*first)) == list(range(10))
    assert first != second
    assert first == [x.numpy().tolist() for x, _ in same]
    for x, y in loader:
        np.testing.assert_array_equal(x.numpy() * 2, y.numpy())
    with pytest.raises(ValueError, match="one length"):
        TensorDataset(np.zeros(2), np.zeros(3))


def test_loader_takes_any_dataset() -> None:
    class Squares:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[float, int]:
            return float(index), index * index

    x, y = next(iter(DataLoader(Squares(), 3)))
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert y.numpy().tolist() == [0, 1, 4]


# --- together ---


def test_a_small_cnn_learns_bars() -> None:
    """Horizontal bars, vertical bars, and noise: three classes that a linear model cannot tell apart."""
    engine.seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 256)
    images = random.standard_normal((256, 1, 8, 8)).astype(np.float32) * 0.3
    for image, label in zip(images, labels, strict=True):
        place = random.integers(0, 8)
        if label == 0:
            image[0, place, :] += 1.5
        elif label == 1:
            image[0, :, place] += 1.5
    net = Net()
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    for _ in range(6):
        for x, target in DataLoader(TensorDataset(images, labels), 32, shuffle=True, seed=0):
            loss = F.cross_entropy(net(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    with engine.no_grad():
        accuracy = (net(Tensor(images)).argmax(1).numpy() == labels).mean()
    assert accuracy > 0.95


def test_training_is_repeatable() -> None:
    def loss_after_three_steps() -> float:
        engine.seed(5)
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.GELU(), nn.Linear(8, 1))
        optimizer = optim.AdamW(net.parameters())
        x, y = Tensor(np.ones((6, 4), np.float32)), Tensor(np.ones((6, 1), np.float32))
        for _ in range(3):
            optimizer.clear_grad()
            loss = nn.MSELoss()(net(x), y)
            loss.backward()
            optimizer.step()
        return float(loss)

    assert loss_after_three_steps() == loss_after_three_steps()


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 7), (2, 6, 4, 4)),
        (nn.Conv2d(1, 2, (3, 5), padding="same", dilation=2), (1, 1, 9, 9), (1, 2, 9, 9)),
        (nn.Conv1d(2, 3, 3), (1, 2, 8), (1, 3, 6)),
        (nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (1, 3, 4, 4), (1, 2, 8, 8)),
        (nn.AvgPool2d(3, 2, 1), (1, 2, 7, 7), (1, 2, 4, 4)),
        (nn.MaxPool2d(3, 2, ceil_mode=True), (1, 2, 6, 6), (1, 2, 3, 3)),
        (nn.AdaptiveAvgPool2d(2), (1, 2, 6, 4), (1, 2, 2, 2)),
        (nn.LayerNorm(5), (2, 3, 5), (2, 3, 5)),
        (nn.BatchNorm1d(5), (4, 5), (4, 5)),
        (nn.Hardswish(), (2, 3), (2, 3)),
    ],
)
def test_layers_give_their_shapes(layer: nn.Module, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    x = Tensor(array(*shape), requires_grad=True)
    y = layer(x)
    assert y.shape == expected
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.shape == shape
    assert all(parameter.grad is not None for parameter in layer.parameters())
