"""Static mode: run a Python function once, keep the graph, and run that from then on."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import random, tree
from edgec.engine.errors import TraceError
from edgec.engine.inplace import become
from edgec.engine.modes import state
from edgec.engine.recording import Recording, record
from edgec.engine.replay import Plan

if TYPE_CHECKING:
    from edgec.engine.nn.module import Module
    from edgec.engine.tensor import Tensor

__all__ = ["StaticFunction", "to_static"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M", bound="Module")


class _Graph:
    """What one signature leads to: the plan, the shape of what is returned, the tensors that are changed."""

    def __init__(self, recording: Recording, returned: object) -> None:
        leaves, self._shape = tree.flatten(returned)
        changes = recording.changes()
        self._targets = [(tensor, keeps_place) for tensor, _, keeps_place in changes]
        # An argument that is changed is another tensor in every call: remember which one it is.
        self._places = [
            next((place for place, given in enumerate(recording.inputs) if given is tensor), None)
            for tensor, _ in self._targets
        ]
        self._plan = Plan(recording, [*leaves, *(became for _, became, _ in changes)])
        self._count = len(leaves)

    def run(self, inputs: list[Tensor]) -> object:
        made = self._plan.run(inputs)
        for (target, keeps_place), place, became in zip(self._targets, self._places, made[self._count :], strict=True):
            changed = target if place is None else inputs[place]
            if keeps_place:
                changed.set_value(became)
            else:
                become(changed, became)
        return tree.rebuild(self._shape, made[: self._count])


class StaticFunction(Generic[_P, _R]):
    """A function that is traced once per input signature; see `to_static`.

    Attributes:
        traces: How many signatures were traced.
    """

    def __init__(self, function: Callable[_P, _R], module: Module | None = None) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._module = module
        self._graphs: dict[object, _Graph] = {}
        self._bound: weakref.WeakKeyDictionary[Any, StaticFunction[Any, _R]] = weakref.WeakKeyDictionary()

    def __get__(self, instance: object, owner: type | None = None) -> StaticFunction[Any, _R]:
        """A method of a class that was decorated: one set of traces per instance."""
        if instance is None:
            return self
        if instance not in self._bound:
            self._bound[instance] = StaticFunction(_weakly_bound(self._function, instance))
        return self._bound[instance]

    @property
    def traces(self) -> int:
        return len(self._graphs)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if state.recording is not None:  # part of a larger trace
            return self._function(*args, **kwargs)
        given = _as_tensors((args, kwargs))
        inputs, key_shape = tree.flatten(given, static=_as_key)
        modules = self._modules(args, kwargs)
        key = (
            key_shape,
            tuple((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in inputs),
            tuple(module.training for module in modules),
            state.grad_enabled,
            None if state.autocast is None else state.autocast.key,
        )
        try:
            graph = self._graphs.get(key)
        except TypeError as err:
            raise TypeError(f"to_static: arguments that are no tensors must be hashable: {err}") from err
        if graph is None:
            graph = self._graphs[key] = self._traced(given, modules)
        # The casts are part of the graph.
        autocast, state.autocast = state.autocast, None
        try:
            return graph.run(inputs)  # type: ignore[return-value]
        finally:
            state.autocast = autocast

    def _traced(self, given: object, modules: list[Module]) -> _Graph:
        """Run the function while recording, and undo what that did: the graph then does it again."""
        leaves, shape = tree.flatten(given)
        # Stand-ins, so that the arguments themselves cannot be changed, nor their graph grow.
        inputs = [tensors.Tensor(tensor.array, tensor.requires_grad) for tensor in leaves]
        arguments: Any = tree.rebuild(shape, inputs)
        args, kwargs = arguments
        owned = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        gradients = [tensor.grad for tensor in owned]
        with random.preserved(), record(inputs, is_replayed=True) as recording:
            recording.watch(owned)
            try:
                returned = self._function(*args, **kwargs)
            finally:
                recording.undo_changes()
        if any(tensor.grad is not gradient for tensor, gradient in zip(owned, gradients, strict=True)):
            for tensor, gradient in zip(owned, gradients, strict=True):
                tensor.grad = gradient
            raise TraceError(
                "backward() was called inside a function of to_static: adding to .grad is no part of the graph",
                where=f"function {getattr(self._function, '__name__', self._function)}",
                fix="return the loss and call backward() on it, or return engine.grad(loss, parameters)",
            )
        return _Graph(recording, returned)

    def _modules(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Module]:
        """The modules that the function can be seen to use: its own, its arguments, its closure and globals."""
        roots = [] if self._module is None else [self._module]
        roots += [value for value in (*args, *kwargs.values()) if _is_module(value)]
        roots += _found_in(self._function)
        seen: dict[int, Module] = {}
        for root in roots:
            for module in root.modules():
                seen.setdefault(id(module), module)
        return list(seen.values())


@overload
def to_static(function: _M) -> _M: ...  # type: ignore[overload-overlap]
@overload
def to_static(function: Callable[_P, _R]) -> StaticFunction[_P, _R]: ...
@overload
def to_static(function: None = None) -> Callable[[Callable[_P, _R]], StaticFunction[_P, _R]]: ...
def to_static(function: Any = None) -> Any:
    """Trace a function or module once per input signature, and run the graph in later calls.

    The signature is shapes, dtypes and whether gradients are wanted, the values of arguments that are no tensors, and
    the training mode of the modules that the function uses. Results and gradients are those of the function itself, to
    the bit. Parameters and buffers are read when the graph runs, so an optimizer's steps are seen; running statistics
    move, and dropout draws, as they do eagerly. Python beside the tensors (printing, appending to a list) happens only
    while tracing.

    A module is changed, and returned; of a function, a `StaticFunction` is. Also a decorator, with or without ().

    Raises:
        TraceError: The function branches on a value, or otherwise looks at one, or calls backward().

    Example::

        net = engine.to_static(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        loss = net(x).square().mean()
        loss.backward()
    """
    if function is None:
        return to_static
    if _is_module(function):
        if not isinstance(vars(function).get("forward"), StaticFunction):
            function.forward = StaticFunction(_weakly_bound(type(function).forward, function), function)
        return function
    return StaticFunction(function)


def _weakly_bound(method: Callable[..., _R], instance: object) -> Callable[..., _R]:
    # The instance holds the static function; holding it back would keep both until the garbage collector comes.
    reference = weakref.ref(instance)

    @functools.wraps(method)
    def bound(*args: Any, **kwargs: Any) -> _R:
        return method(reference(), *args, **kwargs)

    bound.__signature__ = inspect.signature(method.__get__(instance))  # type: ignore[attr-defined]
    return bound


def _is_module(value: object) -> bool:
    from edgec.engine.nn.module import Module

    return isinstance(value, Module)


def _found_in(function: Callable[..., object]) -> Iterator[Any]:
    owner = getattr(function, "__self__", None)
    if _is_module(owner):
        yield owner
    plain = inspect.unwrap(function)
    plain = getattr(plain, "__func__", plain)
    code = getattr(plain, "__code__", None)
    for cell in getattr(plain, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if _is_module(value):
            yield value
    if code is not None:
        names = getattr(plain, "__globals__", {})
        yield from (names[name] for name in code.co_names if _is_module(names.get(name)))


def _as_tensors(value: Any) -> Any:
    """Arrays count as tensors, so that their values are no part of the signature."""
    if isinstance(value, np.ndarray):
        return tensors.Tensor(value)
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_as_tensors(item) for item in value)
    if isinstance(value, dict):
        return {name: _as_tensors(item) for name, item in value.items()}
    return value


def _as_key(value: object) -> object:
    """1, 1.0 and True are equal, but not the same argument."""
    return weakref.ref(value) if _is_module(value) else (type(value), value)
