"""The recording of a run: every primitive that was applied, in order, with the line of the user's code behind it.

``frontend`` turns a Recording into an IR graph. Values are real while recording, the function simply runs on example
arrays; what must not happen is Python deciding something by them, and `refuse_value` catches that.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from edgec.engine.errors import TraceError

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

__all__ = ["RecordedNode", "Recording", "active", "record", "refuse_value", "suspended"]


@dataclass(frozen=True)
class RecordedNode:
    """One applied primitive.

    Attributes:
        op_type: ONNX operator name; names that start with ``edgec.`` are the engine's own.
        inputs: Its inputs in ONNX order, None for an omitted optional one.
        attributes: Its attributes by their ONNX names, as they were given.
        outputs: The tensors it made.
        source: ``path.py:12``, the user's line that led to it.
    """

    op_type: str
    inputs: tuple[Tensor | None, ...]
    attributes: dict[str, object]
    outputs: tuple[Tensor, ...]
    source: str


@dataclass
class Recording:
    """The nodes of one run, in execution order."""

    inputs: tuple[Tensor, ...]
    nodes: list[RecordedNode] = field(default_factory=list)
    # The nodes hold every traced tensor alive, so an id cannot be given to another tensor meanwhile.
    _traced: set[int] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self._traced.update(id(tensor) for tensor in self.inputs)

    def is_traced(self, tensor: Tensor) -> bool:
        """Whether the tensor was computed from the recording's inputs."""
        return id(tensor) in self._traced

    def append(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, object],
        outputs: tuple[Tensor, ...],
    ) -> None:
        frame = _user_frame()
        source = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
        self.nodes.append(RecordedNode(op_type, tuple(inputs), dict(attributes), outputs, source))
        if any(tensor is not None and self.is_traced(tensor) for tensor in inputs):
            self._traced.update(id(tensor) for tensor in outputs)


class _State(threading.local):
    recording: Recording | None = None


_state = _State()


def active() -> Recording | None:
    """The recording of this thread, or None."""
    return _state.recording


@contextmanager
def record(inputs: Sequence[Tensor]) -> Iterator[Recording]:
    """Record every primitive applied in the ``with`` block by this thread.

    Args:
        inputs: The tensors that stand for the inputs of the function; what is computed from them is traced.

    Raises:
        TraceError: A recording is already active in this thread.
    """
    if _state.recording is not None:
        raise TraceError(
            "a recording is already active in this thread",
            fix="trace the inner function first, or call it directly instead of tracing it",
        )
    _state.recording = Recording(tuple(inputs))
    try:
        yield _state.recording
    finally:
        _state.recording = None


@contextmanager
def suspended() -> Iterator[None]:
    """Inside, nothing is recorded: for the inner calls of a primitive that is recorded as a whole."""
    before, _state.recording = _state.recording, None
    try:
        yield
    finally:
        _state.recording = before


def refuse_value(tensor: Tensor, access: str) -> None:
    """Raise TraceError if `tensor` is traced: `access` (as in ``bool()``) needs its value."""
    recording = _state.recording
    if recording is None or not recording.is_traced(tensor):
        return
    frame = _user_frame()
    where = None
    if frame is not None:
        path, line = frame.f_code.co_filename, frame.f_lineno
        where = f"{path}:{line}, in {frame.f_code.co_name}: {linecache.getline(path, line).strip()}"
    raise TraceError(
        f"{access} was called on a traced tensor of shape {tensor.shape}: its value is not known in the compiled model",
        where=where,
        fix="decide by shape, ndim or dtype (they are static), or select with edgec.engine.where(condition, a, b)",
    )


def _user_frame() -> FrameType | None:
    """The innermost frame outside edgec; networks in edgec.models count as the user's code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        is_edgec = module == "edgec" or module.startswith("edgec.")
        if module.startswith("edgec.models") or not (is_edgec or module in ("contextlib", "functools")):
            return frame
        frame = frame.f_back
    return None
