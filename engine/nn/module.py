"""Module: a tree of parameters, buffers and further modules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np

from edgec.engine.arrays import Array, DTypeLike, is_float
from edgec.engine.errors import StateDictError
from edgec.engine.files import read_safetensors, write_safetensors
from edgec.engine.tensor import Parameter, Tensor

__all__ = ["Module"]

_M = TypeVar("_M", bound="Module")


class Module:
    """Base of all networks and layers.

    What is assigned to an attribute is found by its kind: a Parameter is trained, another Tensor is a buffer (saved
    but not trained), a Module is a child. Everything else is plain Python. A list of modules must be a ModuleList.

    Example::

        class Net(Module):
            def __init__(self) -> None:
                self.hidden = Linear(2, 8)
                self.output = Linear(8, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.output(relu(self.hidden(x)))
    """

    training: bool = True
    # What forward takes and gives is the subclass's own business.
    forward: Callable[..., Tensor]

    def __call__(self, *inputs: Tensor, **options: object) -> Tensor:
        return self.forward(*inputs, **options)

    # --- the tree ---

    def named_children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module under the name `prefix`, then everything below; a shared module comes once."""
        seen: set[int] = set()
        waiting = [(prefix, self)]
        while waiting:
            path, module = waiting.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            children = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
            waiting.extend(reversed(children))

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _named_tensors(self, is_parameter: bool) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and isinstance(value, Parameter) == is_parameter and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Dotted path and parameter; a shared parameter comes once, under its first path."""
        for name, value in self._named_tensors(is_parameter=True):
            assert isinstance(value, Parameter)
            yield name, value

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return self._named_tensors(is_parameter=False)

    def buffers(self) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers())

    def apply(self: _M, function: Callable[[Module], object]) -> _M:
        """Call `function` on every module of the tree."""
        for module in list(self.modules()):
            function(module)
        return self

    # --- the names of PyTorch and Paddle for what assigning an attribute does ---

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module) -> Module:
        setattr(self, name, module)
        return module

    add_parameter, add_sublayer = register_parameter, add_module
    sublayers, named_sublayers = modules, named_modules

    # --- state ---

    def train(self: _M, mode: bool = True) -> _M:
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: _M) -> _M:
        return self.train(False)

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.grad = None

    clear_gradients = zero_grad

    def requires_grad_(self: _M, value: bool = True) -> _M:
        for parameter in self.parameters():
            parameter.requires_grad = value
        return self

    def to(self: _M, dtype: DTypeLike) -> _M:
        """Change the dtype of all floating parameters and buffers in place."""
        for tensor in [*self.parameters(), *self.buffers()]:
            if is_float(tensor.dtype):
                tensor.data, tensor.grad = tensor.data.astype(dtype), None
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by dotted path; the memory is shared."""
        return {name: Tensor(tensor.data) for name, tensor in (*self.named_parameters(), *self.named_buffers())}

    def load_state_dict(self, state: Mapping[str, Tensor | Array], strict: bool = True) -> None:
        """Copy values in. Nothing is changed if anything does not fit.

        Raises:
            StateDictError: A shape differs, or (with `strict`) a name is missing or unexpected.
        """
        own: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        arrays = {name: value.data if isinstance(value, Tensor) else np.asarray(value) for name, value in state.items()}
        problems = [
            f"{name} has shape {arrays[name].shape}, the module needs {tensor.shape}"
            for name, tensor in own.items()
            if name in arrays and arrays[name].shape != tensor.shape
        ]
        if strict:
            problems += [f"{name} is missing" for name in own if name not in arrays]
            problems += [f"{name} is not in the module" for name in arrays if name not in own]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise StateDictError(
                f"the state does not fit {type(self).__name__}: {shown}",
                fix="build the module with the settings it was saved with, or pass strict=False to take what fits",
            )
        for name, tensor in own.items():
            if name in arrays:
                tensor.data = arrays[name].astype(tensor.dtype, copy=True)

    set_state_dict = load_state_dict

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as a safetensors file; an interrupted call leaves the old file."""
        write_safetensors(path, {name: tensor.data for name, tensor in self.state_dict().items()})

    def load(self, path: str | os.PathLike[str], strict: bool = True) -> None:
        """Read what `save` wrote.

        Raises:
            StateDictError: The file is no safetensors file, or does not fit.
        """
        state, _ = read_safetensors(path)
        self.load_state_dict(state, strict)

    # --- text ---

    def describe(self) -> str:
        """The arguments shown in the module's line of repr()."""
        return ""

    def __repr__(self) -> str:
        children = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.describe()})"
        return f"{type(self).__name__}({self.describe()}\n" + "\n".join(children) + "\n)"
