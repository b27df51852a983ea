"""One file that holds all of a training: model, optimizer, schedule, generator, loaders, epoch and history."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from edgec.engine import random
from edgec.engine.arrays import Array
from edgec.engine.errors import StateDictError
from edgec.engine.files import read_safetensors, write_safetensors
from edgec.engine.nn.module import Module
from edgec.engine.optim.optimizer import Optimizer

__all__ = ["Stateful", "load_training_state", "save_training_state"]

_VERSION = 1
_FIX = "resume with the model, optimizer and settings the training was started with"


@runtime_checkable
class Stateful(Protocol):
    """What a schedule, a loader or a loss scaler offers: its state as plain values that JSON can hold."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Any) -> None: ...


def save_training_state(
    path: str | os.PathLike[str],
    model: Module,
    optimizer: Optimizer | None = None,
    parts: Mapping[str, Stateful] | None = None,
    values: Mapping[str, Any] | None = None,
    arrays: Mapping[str, Array] | None = None,
) -> None:
    """Write everything that a training needs to go on exactly, with the state of the engine's generator.

    The file is written under another name and renamed: an interrupted call leaves the one before.

    Args:
        path: A safetensors file; the parameters are in it under "model/".
        model: Its parameters and buffers.
        optimizer: Its state and settings.
        parts: Schedules, loaders, scalers, by names of your own.
        values: Anything that JSON can hold: epoch, history. Floats come back exactly.
        arrays: Further arrays.
    """
    tensors = {f"model/{name}": tensor.data for name, tensor in model.state_dict().items()}
    tensors.update({f"extra/{name}": array for name, array in (arrays or {}).items()})
    header: dict[str, Any] = {
        "version": _VERSION,
        "random": random.get_state(),
        "parts": {name: part.state_dict() for name, part in (parts or {}).items()},
        "values": dict(values or {}),
    }
    if optimizer is not None:
        state = optimizer.state_dict()
        header["groups"] = state["groups"]
        header["parameters"] = len(state["state"])
        for index, own in enumerate(state["state"]):
            tensors.update({f"optimizer/{index}/{name}": array for name, array in own.items()})
    write_safetensors(path, tensors, {"edgec.training": json.dumps(header)})


def load_training_state(
    path: str | os.PathLike[str],
    model: Module,
    optimizer: Optimizer | None = None,
    parts: Mapping[str, Stateful] | None = None,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Put everything back, the engine's generator too, and give the saved values and arrays.

    Raises:
        StateDictError: The file is no training state, or was saved with another model, optimizer or other parts.
    """
    tensors, metadata = read_safetensors(path)
    if "edgec.training" not in metadata:
        raise StateDictError("the file holds no training state", where=str(path), fix="pass one that a training saved")
    header = json.loads(metadata["edgec.training"])
    if header["version"] != _VERSION:
        raise StateDictError(
            f"the training state has version {header['version']}, this edgec reads {_VERSION}", where=str(path)
        )
    given = dict(parts or {})
    if set(given) != set(header["parts"]) or (optimizer is not None) != ("groups" in header):
        raise StateDictError(
            f"the training was saved with {_named(header['parts'], 'groups' in header)}, "
            f"not {_named(given, optimizer is not None)}",
            where=str(path),
            fix=_FIX,
        )
    model.load_state_dict(_below("model/", tensors))
    if optimizer is not None:
        state: list[dict[str, Array]] = [
            _below(f"optimizer/{index}/", tensors) for index in range(header["parameters"])
        ]
        optimizer.load_state_dict({"state": state, "groups": header["groups"]})
    for name, part in given.items():
        part.load_state_dict(header["parts"][name])
    random.set_state(header["random"])
    return header["values"], _below("extra/", tensors)


def _below(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _named(parts: Mapping[str, object], has_optimizer: bool) -> str:
    return ", ".join([*(["optimizer"] if has_optimizer else []), *sorted(parts)]) or "a model alone"
