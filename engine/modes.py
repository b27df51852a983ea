"""Whether calls are noted for a reverse pass: a switch per thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar, overload

__all__ = ["GradMode", "enable_grad", "is_grad_enabled", "no_grad"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _State(threading.local):
    grad_enabled: bool = True


_state = _State()


class GradMode:
    """Context manager and decorator that switches the noting of calls on or off."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(_state.grad_enabled)
        _state.grad_enabled = self._enabled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _state.grad_enabled = self._before.pop()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with GradMode(self._enabled):
                return function(*args, **kwargs)

        return wrapped


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


def is_grad_enabled() -> bool:
    """Whether this thread notes calls for a reverse pass."""
    return _state.grad_enabled
