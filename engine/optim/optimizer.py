"""What all optimizers share: parameter groups, state, and how both are saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypedDict

from edgec.engine.arrays import Array
from edgec.engine.errors import StateDictError
from edgec.engine.tensor import Tensor

__all__ = ["Optimizer", "OptimizerState", "ParameterGroup", "Parameters"]

Parameters: TypeAlias = "Iterable[Tensor] | Iterable[Mapping[str, object]]"


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

    # Called with the parameters before every step; see edgec.engine.clip_grad.
    grad_clip: Callable[[Iterable[Tensor]], None] | None = None

    def __init__(self, parameters: Parameters, settings: Mapping[str, float]) -> None:
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
        self.defaults = dict(settings)
        self.state: dict[int, dict[str, Array]] = {}
        self._refuse_twice()

    def add_param_group(self, group: Mapping[str, object]) -> None:
        """Train more parameters: ``{"params": [...], "lr": 0.01}``; settings that are left out are the defaults."""
        self._add_group(group, self.defaults)
        self._refuse_twice()

    def _refuse_twice(self) -> None:
        if len({id(tensor) for tensor in self._all()}) != len(self._all()):
            raise ValueError("a parameter appears twice in the optimizer")

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
        if self.grad_clip is not None:
            self.grad_clip(self._all())
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
