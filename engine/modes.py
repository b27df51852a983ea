"""What holds for the calls of one thread: gradients noted or not, a recording, autocast, anomaly checks."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from edgec.engine.amp import Autocast
    from edgec.engine.recording import Recording

__all__ = [
    "GradMode", "ReverseMode", "enable_grad", "is_first_order", "is_grad_enabled", "no_grad", "set_grad_enabled",
    "state",
]  # fmt: skip

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _quiet_context() -> contextvars.Context:
    """A context without NumPy's floating-point warnings; running in it costs a tenth of entering np.errstate."""
    with np.errstate(all="ignore"):
        return contextvars.copy_context()


class AlreadyQuiet:
    """Stands for the quiet context while it is entered, which cannot be done twice."""

    def run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return function(*args, **kwargs)


class State(threading.local):
    """One thread's modes. `is_special` is set if any of the rare ones is on, so that `apply` looks at one flag.

    Attributes:
        grad_enabled: Whether calls are noted for a reverse pass.
        recording: Where calls are written down, if anywhere.
        autocast: Which dtypes the operators compute in, if not in those of their inputs.
        finds_anomalies: Whether every result is searched for NaN and Inf.
        is_recomputing: Whether a checkpointed part runs a second time; its side effects have already happened.
        quiet: Where forwards run: a context of this thread's own in which NumPy does not warn.
    """

    grad_enabled: bool = True
    recording: Recording | None = None
    autocast: Autocast | None = None
    finds_anomalies: bool = False
    is_recomputing: bool = False
    is_special: bool = False

    def __init__(self) -> None:
        self.quiet: contextvars.Context | AlreadyQuiet = _quiet_context()

    def refresh(self) -> None:
        """Call after a change of a rare mode."""
        self.is_special = self.recording is not None or self.autocast is not None or self.finds_anomalies


state = State()


class GradMode:
    """Context manager and decorator that switches the noting of calls on or off."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(state.grad_enabled)
        state.grad_enabled = self._enabled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state.grad_enabled = self._before.pop()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with GradMode(self._enabled):
                return function(*args, **kwargs)

        return wrapped


class ReverseMode:
    """How gradient rules run: noted or not, in the dtypes they find, and checked for NaN by the reverse pass itself."""

    def __init__(self, create_graph: bool) -> None:
        self._create_graph = create_graph

    def __enter__(self) -> None:
        self._before = (state.grad_enabled, state.autocast, state.finds_anomalies)
        # Rules that compute arrays themselves overflow as quietly as the forwards do.
        self._quiet = np.errstate(all="ignore")
        self._quiet.__enter__()
        state.grad_enabled, state.autocast, state.finds_anomalies = self._create_graph, None, False
        state.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quiet.__exit__(kind, error, trace)
        state.grad_enabled, state.autocast, state.finds_anomalies = self._before
        state.refresh()


@overload
def no_grad() -> GradMode: ...
@overload
def no_grad(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
def no_grad(function: Callable[_P, _R] | None = None) -> GradMode | Callable[_P, _R]:
    """Calls inside are not noted, as a block or as a decorator, with or without parentheses."""
    return GradMode(False) if function is None else GradMode(False)(function)


@overload
def enable_grad() -> GradMode: ...
@overload
def enable_grad(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
def enable_grad(function: Callable[_P, _R] | None = None) -> GradMode | Callable[_P, _R]:
    """The opposite of `no_grad`, for a block inside one."""
    return GradMode(True) if function is None else GradMode(True)(function)


def set_grad_enabled(mode: bool) -> GradMode:
    """`enable_grad` or `no_grad`, by a condition; unlike PyTorch's it has no effect before ``with``."""
    return GradMode(mode)


def is_grad_enabled() -> bool:
    """Whether this thread notes calls for a reverse pass."""
    return state.grad_enabled


def is_first_order() -> bool:
    """Whether a gradient rule may compute its arrays at once: nothing notes its calls, and nothing records them."""
    return not state.grad_enabled and state.recording is None
