"""Optimizers. Parameters are updated in place, in their own dtype."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from edgec.engine.arrays import Array
from edgec.engine.errors import StateDictError
from edgec.engine.tensor import Tensor

__all__ = ["SGD", "Adam", "AdamW", "CosineAnnealingLR", "Optimizer", "OptimizerState", "clip_grad_norm_"]


class OptimizerState(TypedDict):
    """What `Optimizer.state_dict` gives: arrays per parameter (in order), settings per group."""

    state: list[dict[str, Array]]
    groups: list[dict[str, float]]


class ParameterGroup:
    """Parameters that share their settings; ``group["lr"]`` reads and writes one."""

    def __init__(self, parameters: Sequence[Tensor], settings: Mapping[str, float]) -> None:
        self.parameters = list(parameters)
        self.settings = dict(settings)

    def __getitem__(self, name: str) -> float:
        return self.settings[name]

    def __setitem__(self, name: str, value: float) -> None:
        if name not in self.settings:
            raise KeyError(f"no setting {name!r}; there are {', '.join(self.settings)}")
        self.settings[name] = value


class Optimizer:
    """Base: subclasses give the settings and `update`.

    Args:
        parameters: Tensors, or groups as mappings ``{"params": [...], "lr": 0.01}`` whose other keys override the
            settings.
        settings: Defaults of all groups.
    """

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, object]], settings: Mapping[str, float]
    ) -> None:
        if settings["lr"] < 0:
            raise ValueError(f"the learning rate must not be negative, it is {settings['lr']}")
        given = list(parameters)
        if not given:
            raise ValueError("the optimizer got no parameters")
        self.groups: list[ParameterGroup] = []
        plain = [item for item in given if isinstance(item, Tensor)]
        if plain:
            self.groups.append(ParameterGroup(plain, settings))
        for item in given:
            if isinstance(item, Mapping):
                self._add_group(item, settings)
        if len({id(tensor) for tensor in self._all()}) != len(self._all()):
            raise ValueError("a parameter appears twice in the optimizer")
        self.state: dict[int, dict[str, Array]] = {}

    def _add_group(self, group: Mapping[str, object], settings: Mapping[str, float]) -> None:
        unknown = set(group) - set(settings) - {"params"}
        if unknown:
            raise TypeError(f"unknown settings of a parameter group: {', '.join(sorted(unknown))}")
        tensors = group["params"]
        if not isinstance(tensors, Iterable):
            raise TypeError("params of a parameter group must be tensors")
        own = {name: float(str(group[name])) for name in settings if name in group}
        self.groups.append(ParameterGroup(list(tensors), {**settings, **own}))

    def _all(self) -> list[Tensor]:
        return [tensor for group in self.groups for tensor in group.parameters]

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        """Change `parameter.data` in place; `state` belongs to this parameter and starts empty."""
        raise NotImplementedError

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            for parameter in group.parameters:
                if parameter.grad is not None:
                    if not parameter.data.flags.writeable:
                        parameter.data = parameter.data.copy()
                    state = self.state.setdefault(id(parameter), {})
                    self.update(parameter, parameter.grad.data, group, state)

    def zero_grad(self) -> None:
        for parameter in self._all():
            parameter.grad = None

    clear_grad = zero_grad

    @property
    def lr(self) -> float:
        """The learning rate of the first group; writing sets that of all."""
        return self.groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.groups:
            group["lr"] = value

    def state_dict(self) -> OptimizerState:
        return {
            "state": [
                {name: array.copy() for name, array in self.state.get(id(parameter), {}).items()}
                for parameter in self._all()
            ],
            "groups": [dict(group.settings) for group in self.groups],
        }

    def load_state_dict(self, state: OptimizerState) -> None:
        """Continue where another optimizer of the same kind stopped.

        Raises:
            StateDictError: The number of groups or parameters, their settings or shapes differ.
        """
        parameters = self._all()
        fits = len(state["state"]) == len(parameters) and len(state["groups"]) == len(self.groups)
        if not fits:
            raise StateDictError(
                f"the state is of {len(state['state'])} parameters in {len(state['groups'])} groups, the optimizer "
                f"has {len(parameters)} in {len(self.groups)}",
                fix="build the optimizer over the same module with the same groups",
            )
        for parameter, arrays in zip(parameters, state["state"], strict=True):
            for name, array in arrays.items():
                if array.ndim and array.shape != parameter.shape:
                    raise StateDictError(f"{name} has shape {array.shape}, its parameter {parameter.shape}")
        for group, settings in zip(self.groups, state["groups"], strict=True):
            if set(settings) != set(group.settings):
                raise StateDictError(f"the state has settings {sorted(settings)}, not {sorted(group.settings)}")
        for group, settings in zip(self.groups, state["groups"], strict=True):
            group.settings = dict(settings)
        for parameter, arrays in zip(parameters, state["state"], strict=True):
            self.state[id(parameter)] = {name: array.copy() for name, array in arrays.items()}


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 weight decay.

    v = momentum v + g;  w -= lr v, or lr (g + momentum v) with Nesterov.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, object]],
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and momentum <= 0:
            raise ValueError("Nesterov needs a momentum above 0")
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.nesterov = nesterov

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if decay:
            gradient = gradient + decay * parameter.data
        if momentum:
            velocity = state.get("velocity")
            if velocity is None:
                velocity = state["velocity"] = gradient.copy()
            else:
                velocity *= momentum
                velocity += gradient
            gradient = gradient + momentum * velocity if self.nesterov else velocity
        parameter.data -= lr * gradient


class Adam(Optimizer):
    """Adam; weight decay is added to the gradient. Source: Kingma and Ba 2015, algorithm 1."""

    _decay_is_decoupled = False

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, object]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, settings)

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        lr, beta1, beta2, decay = group["lr"], group["beta1"], group["beta2"], group["weight_decay"]
        if decay and self._decay_is_decoupled:
            parameter.data *= 1.0 - lr * decay
        elif decay:
            gradient = gradient + decay * parameter.data
        if not state:
            state["step"] = np.zeros((), np.int64)
            state["mean"], state["square"] = np.zeros_like(parameter.data), np.zeros_like(parameter.data)
        state["step"] = state["step"] + 1
        count = int(state["step"])
        mean, square = state["mean"], state["square"]
        mean *= beta1
        mean += (1.0 - beta1) * gradient
        square *= beta2
        square += (1.0 - beta2) * np.square(gradient)
        denominator = np.sqrt(square)
        denominator *= 1.0 / math.sqrt(1.0 - beta2**count)
        denominator += group["eps"]
        parameter.data -= lr / (1.0 - beta1**count) * (mean / denominator)


class AdamW(Adam):
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter 2019, algorithm 2."""

    _decay_is_decoupled = True

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, object]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


class CosineAnnealingLR:
    """Half a cosine from the start rate to `eta_min` over `T_max` calls of step(), flat afterwards.

    Source: Loshchilov and Hutter 2017, eq. 5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.optimizer, self.length, self.eta_min, self.count = optimizer, T_max, eta_min, 0
        self._start = [group["lr"] for group in optimizer.groups]

    def step(self) -> None:
        self.count += 1
        share = 0.5 * (1.0 + math.cos(math.pi * min(self.count / self.length, 1.0)))
        for group, start in zip(self.optimizer.groups, self._start, strict=True):
            group["lr"] = self.eta_min + (start - self.eta_min) * share


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients in place so that their common norm is at most `max_norm`; gives the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = math.sqrt(sum(float(np.vdot(gradient.data, gradient.data)) for gradient in gradients))
    if norm > max_norm:
        for gradient in gradients:
            gradient.data *= max_norm / norm
    return norm
