"""Optimizers and learning-rate schedules against PyTorch, over many steps, and continued from their states."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.engine import Parameter, Tensor, optim

SHAPES = [(4, 3), (5,), ()]

# Name and options are the same here and in PyTorch.
OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "betas": (0.5, 0.6)}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True}),
    ("RMSprop", {"lr": 0.02}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "momentum": 0.7, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.02, "centered": True, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
]
IDS = [f"{i}-{name}" for i, (name, _) in enumerate(OPTIMIZERS)]


def arrays(dtype: type = np.float64) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [np.asarray(random.standard_normal(shape), dtype) for shape in SHAPES]


def gradients(step: int, dtype: type = np.float64) -> list[np.ndarray]:
    random = np.random.default_rng(100 + step)
    return [np.asarray(random.standard_normal(shape), dtype) for shape in SHAPES]


def give(parameters: list[Parameter], step: int) -> None:
    for parameter, gradient in zip(parameters, gradients(step, parameters[0].dtype.type), strict=True):
        parameter.grad = Tensor(gradient)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=IDS)
def test_optimizer_agrees_with_pytorch(torch: ModuleType, name: str, options: dict[str, Any], dtype: type) -> None:
    own = [Parameter(array) for array in arrays(dtype)]
    peers = [torch.nn.Parameter(torch.tensor(array)) for array in arrays(dtype)]
    slow = {**options, "lr": options["lr"] / 10}
    optimizer = getattr(optim, name)([{"params": own[:1]}, {"params": own[1:], "lr": slow["lr"]}], **options)
    peer = getattr(torch.optim, name)([{"params": peers[:1]}, {"params": peers[1:], "lr": slow["lr"]}], **options)
    for step in range(15):
        give(own, step)
        for parameter, gradient in zip(peers, gradients(step, dtype), strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
        peer.step()
        for parameter, expected in zip(own, peers, strict=True):
            assert parameter.dtype == dtype
            tolerance = 1e-11 if dtype is np.float64 else 2e-5
            np.testing.assert_allclose(parameter.data, expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), [*OPTIMIZERS, ("Lamb", {"lr": 0.1})], ids=[*IDS, "Lamb"])
def test_state_continues_exactly(name: str, options: dict[str, Any]) -> None:
    def run(stop: int) -> list[np.ndarray]:
        parameters = [Parameter(array) for array in arrays(np.float32)]
        optimizer = getattr(optim, name)(parameters, **options)
        for step in range(8):
            if step == stop:
                state = optimizer.state_dict()
                optimizer = getattr(optim, name)(parameters, **options)
                optimizer.lr = 99.0
                optimizer.load_state_dict(state)
            give(parameters, step)
            optimizer.step()
        return [parameter.data for parameter in parameters]

    for one, other in zip(run(-1), run(4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_lamb_follows_its_formula() -> None:
    """Paddle's: bias-corrected moments, trust ratio of whole parameters, 1 where a norm is zero."""
    own = [Parameter(array) for array in [*arrays()[:2], np.zeros(3)]]
    optimizer = optim.Lamb(own, 0.1, (0.9, 0.99), 1e-6, 0.05, without_decay=lambda parameter: parameter.shape == (5,))
    expected = [parameter.data.copy() for parameter in own]
    means, squares = ([np.zeros_like(array) for array in expected] for _ in range(2))
    for step in range(1, 11):
        given = [*gradients(step)[:2], np.ones(3) * step]
        for parameter, gradient in zip(own, given, strict=True):
            parameter.grad = Tensor(gradient)
        optimizer.step()
        for index, g in enumerate(given):
            w = expected[index]
            means[index] = 0.9 * means[index] + 0.1 * g
            squares[index] = 0.99 * squares[index] + 0.01 * g * g
            r = means[index] / (1 - 0.9**step) / (np.sqrt(squares[index] / (1 - 0.99**step)) + 1e-6)
            r = r + (0.0 if w.shape == (5,) else 0.05) * w
            norms = np.linalg.norm(w), np.linalg.norm(r)
            expected[index] = w - 0.1 * (norms[0] / norms[1] if min(norms) > 0 else 1.0) * r
    for parameter, array in zip(own, expected, strict=True):
        np.testing.assert_allclose(parameter.data, array, rtol=1e-11)


def test_parameters_without_gradient_stay_and_more_can_be_added() -> None:
    one, other = Parameter(np.ones(2)), Parameter(np.ones(2))
    optimizer = optim.Adam([one], lr=0.1)
    optimizer.step()
    assert one.data.tolist() == [1.0, 1.0]
    optimizer.add_param_group({"params": [other], "lr": 0.5})
    other.grad = Tensor(np.ones(2))
    optimizer.step()
    np.testing.assert_allclose(other.data, 0.5, rtol=1e-6)
    with pytest.raises(ValueError, match="appears twice"):
        optimizer.add_param_group({"params": [one]})
    with pytest.raises(ValueError, match="Nesterov"):
        optim.SGD([one], nesterov=True, momentum=0.9, dampening=0.1)


# --- schedules ---


def optimizer_pair(torch: ModuleType) -> tuple[optim.Optimizer, Any]:
    groups = [Parameter(np.ones(1)) for _ in range(2)]
    peers = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    own = optim.SGD([{"params": groups[:1]}, {"params": groups[1:], "lr": 0.03}], lr=0.1)
    peer = torch.optim.SGD([{"params": peers[:1]}, {"params": peers[1:], "lr": 0.03}], lr=0.1)
    return own, peer


SCHEDULES: list[tuple[str, dict[str, Any], int]] = [
    ("StepLR", {"step_size": 4, "gamma": 0.3}, 30),
    ("MultiStepLR", {"milestones": [3, 7, 20], "gamma": 0.2}, 30),
    ("ExponentialLR", {"gamma": 0.9}, 50),
    ("PolynomialLR", {"total_iters": 20, "power": 1.7}, 30),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.8, "total_iters": 12}, 30),
    ("CosineAnnealingLR", {"T_max": 25, "eta_min": 0.01}, 25),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2, "eta_min": 0.001}, 60),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 41, "cycle_momentum": False}, 40),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 20, "pct_start": 0.4, "anneal_strategy": "linear"}, 19),
    ("LambdaLR", {"lr_lambda": lambda count: 0.9**count + count / 100}, 20),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "steps"), SCHEDULES, ids=[case[0] for case in SCHEDULES])
def test_schedule_agrees_with_pytorch(torch: ModuleType, name: str, options: dict[str, Any], steps: int) -> None:
    own, peer = optimizer_pair(torch)
    settings = {key: value for key, value in options.items() if key != "cycle_momentum"}
    schedule = getattr(optim, name)(own, **settings)
    if name == "OneCycleLR":
        options = {**options, "cycle_momentum": False}
    peer_schedule = getattr(torch.optim.lr_scheduler, name)(peer, **options)
    for _ in range(steps):
        peer.step()  # PyTorch warns without
        schedule.step()
        peer_schedule.step()
        np.testing.assert_allclose(schedule.get_last_lr(), peer_schedule.get_last_lr(), rtol=1e-9, atol=1e-15)


def test_sequence_of_schedules_agrees_with_pytorch(torch: ModuleType) -> None:
    own, peer = optimizer_pair(torch)
    schedule = optim.SequentialLR(
        own, [optim.LinearLR(own, 0.1, total_iters=5), optim.ExponentialLR(own, 0.9), optim.StepLR(own, 3)], [6, 15]
    )
    kinds = torch.optim.lr_scheduler
    parts = [kinds.LinearLR(peer, 0.1, total_iters=5), kinds.ExponentialLR(peer, 0.9), kinds.StepLR(peer, 3)]
    peer_schedule = kinds.SequentialLR(peer, parts, [6, 15])
    rates, expected = [], []
    for step in range(25):
        rates.append(own.lr)
        expected.append(peer.param_groups[0]["lr"])
        peer.step()
        schedule.step()
        peer_schedule.step()
        if step == 10:
            state = json.loads(json.dumps(schedule.state_dict()))
            schedule.load_state_dict(state)
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2, "factor": 0.5},
        {"mode": "max", "patience": 1, "cooldown": 2, "threshold_mode": "abs", "threshold": 0.05, "min_lr": 0.004},
    ],
)
def test_reduction_on_a_plateau_agrees_with_pytorch(torch: ModuleType, options: dict[str, Any]) -> None:
    own, peer = optimizer_pair(torch)
    schedule = optim.ReduceLROnPlateau(own, **options)
    peer_schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(peer, **options)
    values = np.random.default_rng(4).normal(1.0, 0.2, 60)
    for index, value in enumerate(values):
        if index == 30:
            state = json.loads(json.dumps(schedule.state_dict()))
            schedule = optim.ReduceLROnPlateau(own, **options)
            schedule.load_state_dict(state)
        schedule.step(float(value))
        peer_schedule.step(float(value))
        np.testing.assert_allclose([group["lr"] for group in own.groups], peer_schedule.get_last_lr(), rtol=1e-12)
    assert own.lr < 0.1


def test_warmup_comes_before_a_schedule() -> None:
    optimizer = optim.SGD([Parameter(np.ones(1))], lr=1.0)
    schedule = optim.WarmupLR(optimizer, 4, after=optim.CosineAnnealingLR(optimizer, 10))
    rates = [optimizer.lr]
    for _ in range(14):
        schedule.step()
        rates.append(optimizer.lr)
    np.testing.assert_allclose(rates[:5], [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(rates[4:], [0.5 * (1 + np.cos(np.pi * k / 10)) for k in range(11)], atol=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: optim.StepLR(optimizer, 3),
        lambda optimizer: optim.OneCycleLR(optimizer, 1.0, 12),
        lambda optimizer: optim.WarmupLR(optimizer, 3, after=optim.PolynomialLR(optimizer, 6)),
    ],
)
def test_schedule_continues_exactly(make: Callable[[optim.Optimizer], optim.LRScheduler]) -> None:
    def rates(stop: int) -> list[float]:
        optimizer = optim.SGD([Parameter(np.ones(1))], lr=0.1)
        schedule, seen = make(optimizer), []
        for step in range(10):
            if step == stop:
                states = optimizer.state_dict(), json.loads(json.dumps(schedule.state_dict()))
                optimizer = optim.SGD([Parameter(np.ones(1))], lr=0.1)
                schedule = make(optimizer)
                optimizer.load_state_dict(states[0])
                schedule.load_state_dict(states[1])
            schedule.step()
            seen.append(optimizer.lr)
        return seen

    assert rates(-1) == rates(5)
