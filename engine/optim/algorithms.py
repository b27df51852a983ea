"""The optimizers. Parameters are updated in place, in their own dtype; formulas and defaults are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgec.engine.arrays import Array
from edgec.engine.optim.optimizer import Optimizer, ParameterGroup, Parameters
from edgec.engine.tensor import Tensor

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lamb", "RMSprop"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 weight decay.

    v = momentum v + (1 - dampening) g, from v = g;  w -= lr v, or lr (g + momentum v) with Nesterov.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov needs a momentum above 0 and no dampening")
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "dampening": dampening}
        super().__init__(parameters, settings)
        self.nesterov = nesterov

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if decay:
            gradient = gradient + decay * parameter.data
        if momentum:
            velocity = state.get("velocity")
            if velocity is None:
                velocity = state["velocity"] = np.array(gradient)
            else:
                dampening = group["dampening"]
                velocity *= momentum
                velocity += (1.0 - dampening) * gradient if dampening else gradient
            gradient = gradient + momentum * velocity if self.nesterov else velocity
        parameter.data -= lr * gradient


class Adam(Optimizer):
    """Adam; weight decay is added to the gradient.

    Source: Kingma and Ba 2015, algorithm 1; Reddi et al. 2018, algorithm 2 (`amsgrad`).
    """

    _decay_is_decoupled = False

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, settings)
        self.amsgrad = amsgrad

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        lr, decay = group["lr"], group["weight_decay"]
        if decay and self._decay_is_decoupled:
            parameter.data *= 1.0 - lr * decay
        elif decay:
            gradient = gradient + decay * parameter.data
        count, mean, square = _moments(parameter, gradient, group, state)
        if self.amsgrad:
            highest = state.setdefault("highest", np.zeros_like(square))
            square = np.maximum(highest, square, out=highest)
        denominator = np.asarray(np.sqrt(square))  # of no axes it would be a scalar
        denominator *= 1.0 / math.sqrt(1.0 - group["beta2"] ** count)
        denominator += group["eps"]
        np.divide(mean, denominator, out=denominator)
        denominator *= lr / (1.0 - group["beta1"] ** count)
        parameter.data -= denominator


def _moments(
    parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]
) -> tuple[int, Array, Array]:
    """Adam's step count and its moving means of the gradient and of its square, moved on by `gradient`."""
    if not state:
        state["step"] = np.zeros((), np.int64)
        state["mean"], state["square"] = np.zeros_like(parameter.data), np.zeros_like(parameter.data)
    state["step"] = state["step"] + 1
    mean, square, beta1, beta2 = state["mean"], state["square"], group["beta1"], group["beta2"]
    mean *= beta1
    mean += (1.0 - beta1) * gradient
    square *= beta2
    squared = np.square(gradient)
    squared *= 1.0 - beta2
    square += squared
    return int(state["step"]), mean, square


class AdamW(Adam):
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter 2019, algorithm 2."""

    _decay_is_decoupled = True

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, amsgrad)


class Lamb(Optimizer):
    """Adam whose step is scaled to the length of each parameter, for large batches.

    r = m̂ / (sqrt(v̂) + eps) + decay w;  w -= lr |w| / |r| r, with the ratio 1 where a norm is 0, as Paddle has it.

    Args:
        parameters: Tensors or groups.
        lr: Learning rate.
        betas: Of the moving means.
        eps: Added to the denominator.
        weight_decay: Decoupled.
        without_decay: Says for a parameter whether it does not decay (biases and norms, usually).

    Source: You et al. 2020, algorithm 2.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        without_decay: Callable[[Tensor], bool] | None = None,
    ) -> None:
        settings = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, settings)
        self.without_decay = without_decay

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        count, mean, square = _moments(parameter, gradient, group, state)
        direction = mean / (1.0 - group["beta1"] ** count)
        direction /= np.sqrt(square / (1.0 - group["beta2"] ** count)) + group["eps"]
        if group["weight_decay"] and not (self.without_decay is not None and self.without_decay(parameter)):
            direction += group["weight_decay"] * parameter.data
        length, step = _norm(parameter.data), _norm(direction)
        ratio = length / step if length > 0 and step > 0 else 1.0
        parameter.data -= (group["lr"] * ratio) * direction


def _norm(values: Array) -> float:
    return math.sqrt(float(np.vdot(values, values)))


class RMSprop(Optimizer):
    """The gradient over the root of its moving mean square.

    `centered` subtracts the squared moving mean first. (Paddle's RMSProp adds `eps` under the root.)

    Source: Tieleman and Hinton 2012, lecture 6.5; Graves 2013, eq. 38 to 45 (`centered`).
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(parameters, settings)
        self.centered = centered

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        alpha, momentum = group["alpha"], group["momentum"]
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * parameter.data
        square = state.setdefault("square", np.zeros_like(parameter.data))
        square *= alpha
        square += (1.0 - alpha) * np.square(gradient)
        if self.centered:
            mean = state.setdefault("mean", np.zeros_like(parameter.data))
            mean *= alpha
            mean += (1.0 - alpha) * gradient
            root = np.sqrt(square - np.square(mean))
        else:
            root = np.sqrt(square)
        root += group["eps"]
        step = gradient / root
        if momentum:
            velocity = state.setdefault("velocity", np.zeros_like(parameter.data))
            velocity *= momentum
            velocity += step
            step = velocity
        parameter.data -= group["lr"] * step


class Adagrad(Optimizer):
    """The gradient over the root of the sum of all its squares. Source: Duchi et al. 2011."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        settings = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        super().__init__(parameters, settings)
        self.initial_accumulator_value = initial_accumulator_value

    def update(self, parameter: Tensor, gradient: Array, group: ParameterGroup, state: dict[str, Array]) -> None:
        if group["weight_decay"]:
            gradient = gradient + group["weight_decay"] * parameter.data
        if not state:
            state["step"] = np.zeros((), np.int64)
            state["sum"] = np.full_like(parameter.data, self.initial_accumulator_value)
        rate = group["lr"] / (1.0 + float(state["step"]) * group["lr_decay"])
        state["step"] = state["step"] + 1
        state["sum"] += np.square(gradient)
        parameter.data -= rate * (gradient / (np.sqrt(state["sum"]) + group["eps"]))
