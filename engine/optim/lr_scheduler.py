"""Learning-rate schedules: call step() after each epoch, or after each batch, as the numbers were chosen.

The rate is a function of the number of steps alone (but for `ReduceLROnPlateau`), so a schedule continues exactly from
its `state_dict`. Names and arguments are PyTorch's.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from edgec.engine.optim.optimizer import Optimizer

__all__ = [
    "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR",
    "MultiStepLR", "OneCycleLR", "PolynomialLR", "ReduceLROnPlateau", "SequentialLR", "StepLR", "WarmupLR",
]  # fmt: skip


class LRScheduler:
    """Base: a subclass gives `rate`, the learning rate of a group that started with `start`, after `count` steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.count = optimizer, 0
        self.starts = [group["lr"] for group in optimizer.groups]
        self._set()

    def rate(self, start: float, count: int) -> float:
        raise NotImplementedError

    def step(self) -> None:
        self.count += 1
        self._set()

    def _set(self) -> None:
        for group, start in zip(self.optimizer.groups, self.starts, strict=True):
            group["lr"] = self.rate(start, self.count)

    def get_last_lr(self) -> list[float]:
        """The learning rate of every group."""
        return [group["lr"] for group in self.optimizer.groups]

    def state_dict(self) -> dict[str, object]:
        """Plain values that JSON can hold."""
        return {"count": self.count, "starts": list(self.starts)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue where another schedule with the same settings stopped."""
        count, starts = state["count"], state["starts"]
        assert isinstance(count, int)
        assert isinstance(starts, list)
        self.count, self.starts = count, [float(start) for start in starts]
        self._set()


class LambdaLR(LRScheduler):
    """The start times a function of the number of steps."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.factor = lr_lambda
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        return start * self.factor(count)


class StepLR(LRScheduler):
    """Times `gamma` every `step_size` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        return start * float(self.gamma ** (count // self.step_size))


class MultiStepLR(LRScheduler):
    """Times `gamma` at each of the milestones."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        return start * float(self.gamma ** bisect.bisect_right(self.milestones, count))


class ExponentialLR(LRScheduler):
    """Times `gamma` every step."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        return start * float(self.gamma**count)


class PolynomialLR(LRScheduler):
    """Down to zero in `total_iters` steps, as a power of what is left."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        return start * float((1.0 - min(count, self.total_iters) / self.total_iters) ** self.power)


class LinearLR(LRScheduler):
    """From one factor of the start to another, in `total_iters` steps."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3.0, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        share = min(count, self.total_iters) / self.total_iters
        return start * (self.start_factor + (self.end_factor - self.start_factor) * share)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the start rate to `eta_min` over `T_max` steps, flat afterwards (PyTorch's goes up again).

    Source: Loshchilov and Hutter 2017, eq. 5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.length, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        share = 0.5 * (1.0 + math.cos(math.pi * min(count / self.length, 1.0)))
        return self.eta_min + (start - self.eta_min) * share


class CosineAnnealingWarmRestarts(LRScheduler):
    """`CosineAnnealingLR` that starts again after `T_0` steps, then each time after `T_mult` times as many."""

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> None:
        self.first, self.growth, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:
        length = self.first
        while count >= length:
            count -= length
            length *= self.growth
        return self.eta_min + (start - self.eta_min) * 0.5 * (1.0 + math.cos(math.pi * count / length))


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, and down to a `final_div_factor`-th of the start, in `total_steps`.

    Momentum is left alone (PyTorch's `cycle_momentum=False`).

    Source: Smith and Topin 2018, section 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'anneal_strategy must be "cos" or "linear", not {anneal_strategy!r}')
        self.max_lr, self.total_steps, self.is_cosine = max_lr, total_steps, anneal_strategy == "cos"
        self.initial, self.peak = max_lr / div_factor, pct_start * total_steps - 1
        self.final = self.initial / final_div_factor
        super().__init__(optimizer)

    def rate(self, start: float, count: int) -> float:  # noqa: ARG002 - every group has the same cycle
        last = self.total_steps - 1
        count = min(count, last)
        if count <= self.peak:
            return self._between(self.initial, self.max_lr, count / self.peak if self.peak > 0 else 1.0)
        return self._between(self.max_lr, self.final, (count - self.peak) / (last - self.peak))

    def _between(self, first: float, last: float, share: float) -> float:
        return last + (first - last) * (0.5 * (1.0 + math.cos(math.pi * share)) if self.is_cosine else 1.0 - share)


class SequentialLR(LRScheduler):
    """One schedule after the other: schedule i + 1 begins, from its own step 0, at milestone i."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted(milestones):
            raise ValueError(f"{len(schedulers)} schedules need {len(schedulers) - 1} rising milestones")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)
        # The schedules have already set rates of their own.
        self.starts = list(self.schedulers[0].starts)
        self._set()

    def rate(self, start: float, count: int) -> float:
        index = bisect.bisect_right(self.milestones, count)
        return self.schedulers[index].rate(start, count - (self.milestones[index - 1] if index else 0))


class WarmupLR(LRScheduler):
    """Linear from `start_factor` times the rate up to it in `steps` steps, then the schedule `after`, or constant."""

    def __init__(
        self, optimizer: Optimizer, steps: int, start_factor: float = 0.0, after: LRScheduler | None = None
    ) -> None:
        self.steps, self.start_factor, self.after = steps, start_factor, after
        super().__init__(optimizer)
        if after is not None:
            self.starts = list(after.starts)
            self._set()

    def rate(self, start: float, count: int) -> float:
        beyond = max(count - self.steps, 0)
        rate = start if self.after is None else self.after.rate(start, beyond)
        if count >= self.steps:
            return rate
        return rate * (self.start_factor + (1.0 - self.start_factor) * count / self.steps)


class ReduceLROnPlateau:
    """Times `factor` when a figure has not got better for more than `patience` steps; give the figure to step()."""

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not 0.0 < factor < 1.0:
            raise ValueError(f"the factor must lie between 0 and 1, not {factor}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown = threshold, threshold_mode, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.best: float | None = None
        self.bad_steps = self.cooling = 0

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        sign = 1.0 if self.mode == "max" else -1.0
        margin = self.threshold * (abs(self.best) if self.threshold_mode == "rel" else 1.0)
        return sign * value > sign * self.best + margin

    def step(self, value: float) -> None:
        if self._is_better(value):
            self.best, self.bad_steps = value, 0
        else:
            self.bad_steps += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad_steps = 0
        if self.bad_steps > self.patience:
            for group in self.optimizer.groups:
                lowered = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - lowered > self.eps:
                    group["lr"] = lowered
            self.cooling, self.bad_steps = self.cooldown, 0

    def state_dict(self) -> dict[str, object]:
        """Plain values that JSON can hold; the rates themselves are in the optimizer's state."""
        return {"best": self.best, "bad_steps": self.bad_steps, "cooling": self.cooling}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        best, bad_steps, cooling = state["best"], state["bad_steps"], state["cooling"]
        assert best is None or isinstance(best, int | float)
        assert isinstance(bad_steps, int)
        assert isinstance(cooling, int)
        self.best, self.bad_steps, self.cooling = best, bad_steps, cooling
