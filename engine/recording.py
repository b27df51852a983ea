"""The recording of a run: every primitive that was applied, in order, with the line of the user's code behind it.

``frontend`` turns a Recording into an IR graph, `edgec.engine.replay` runs it again. Values are real while recording,
the function simply runs on example arrays; what must not happen is Python deciding something by them, and
`refuse_value` catches that. A branch or a loop is a node whose attributes hold the Recordings of its bodies.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from edgec.engine.errors import TraceError
from edgec.engine.modes import AlreadyQuiet, state

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

__all__ = [
    "DRAWING",
    "RecordedNode",
    "Recording",
    "active",
    "record",
    "record_body",
    "refuse_value",
    "suspended",
    "user_line",
]


# What they give is known as little as an input; and they must run again even if nothing reads it, for the generator to
# stand where it stood.
DRAWING = frozenset({"Dropout", "RandomNormal", "RandomUniform", "edgec.RandomIntegers"})


@dataclass(frozen=True)
class RecordedNode:
    """One applied primitive.

    Attributes:
        op_type: ONNX operator name; names that start with ``edgec.`` are the engine's own.
        inputs: Its inputs in ONNX order, None for an omitted optional one.
        attributes: Its attributes by their ONNX names, as they were given; a body is a Recording.
        outputs: The tensors it made.
        source: ``path.py:12``, the user's line that led to it.
        is_noted: Whether the call was made with gradients enabled.
    """

    op_type: str
    inputs: tuple[Tensor | None, ...]
    attributes: dict[str, object]
    outputs: tuple[Tensor, ...]
    source: str
    is_noted: bool = True

    def bodies(self) -> list[Recording]:
        return [value for value in self.attributes.values() if isinstance(value, Recording)]

    def reads(self) -> list[Tensor]:
        """Every tensor it depends on: its inputs, and what its bodies take from outside."""
        return [
            *(tensor for tensor in self.inputs if tensor is not None),
            *(tensor for body in self.bodies() for tensor in body.captures()),
        ]


@dataclass
class Recording:
    """The nodes of one run, in execution order.

    Attributes:
        inputs: The tensors that stand for the inputs of the function.
        nodes: The calls.
        outputs: What a body of a branch or loop gives; empty for a whole function.
        parent: The recording that a body belongs to.
        is_replayed: Whether it is made to be run again, by `edgec.engine.to_static`.
    """

    inputs: tuple[Tensor, ...]
    nodes: list[RecordedNode] = field(default_factory=list)
    outputs: tuple[Tensor, ...] = ()
    parent: Recording | None = field(default=None, repr=False)
    is_replayed: bool = False
    # The nodes hold every traced tensor alive, so an id cannot be given to another tensor meanwhile.
    _traced: set[int] = field(default_factory=set, repr=False)
    _made: set[int] = field(default_factory=set, repr=False)
    # A tensor that was changed in place, and the recorded tensor whose value it has now.
    _changed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    _revalued: set[int] = field(default_factory=set, repr=False)
    _before: dict[int, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._traced.update(id(tensor) for tensor in self.inputs)
        self._made.update(self._traced)

    def is_traced(self, tensor: Tensor) -> bool:
        """Whether the tensor was computed from the recording's inputs."""
        return id(self.resolve(tensor)) in self._traced or (self.parent is not None and self.parent.is_traced(tensor))

    def resolve(self, tensor: Tensor) -> Tensor:
        """The recorded tensor that has the value of `tensor`: another one if `tensor` was changed in place."""
        changed = self._changed.get(id(tensor))
        if changed is not None:
            return changed[1]
        return tensor if self.parent is None else self.parent.resolve(tensor)

    def changes(self) -> list[tuple[Tensor, Tensor, bool]]:
        """Tensors from outside that were changed in place, what they became, and whether only their values changed."""
        return [
            (tensor, became, key in self._revalued)
            for key, (tensor, became) in self._changed.items()
            if became is not tensor and (key not in self._made or any(tensor is given for given in self.inputs))
        ]

    def captures(self) -> list[Tensor]:
        """What is read here but was neither given as an input nor made here."""
        made = {id(tensor) for tensor in self.inputs}
        found: dict[int, Tensor] = {}
        for node in self.nodes:
            for tensor in node.reads():
                if id(tensor) not in made:
                    found.setdefault(id(tensor), tensor)
            made.update(id(tensor) for tensor in node.outputs)
        for tensor in self.outputs:
            if id(tensor) not in made:
                found.setdefault(id(tensor), tensor)
        return list(found.values())

    def append(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        attributes: Mapping[str, object],
        outputs: tuple[Tensor, ...],
        is_noted: bool | None = None,
    ) -> None:
        frame = _user_frame()
        source = "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
        read = tuple(None if tensor is None else self.resolve(tensor) for tensor in inputs)
        noted = state.grad_enabled if is_noted is None else is_noted
        node = RecordedNode(op_type, read, dict(attributes), outputs, source, noted)
        self.nodes.append(node)
        self._made.update(id(tensor) for tensor in outputs)
        if op_type in DRAWING or any(self.is_traced(tensor) for tensor in node.reads()):
            self._traced.update(id(tensor) for tensor in outputs)

    def equate(self, tensor: Tensor, became: Tensor, keeps_place: bool) -> None:
        """From now on `tensor` has the value that the recorded tensor `became` has, and its place in the graph or not.

        Raises:
            TraceError: A body changes a tensor from outside; ONNX's branches and loops cannot do that.
        """
        if self.parent is not None and not self._is_own(tensor):
            raise TraceError(
                f"a tensor of shape {tensor.shape} from outside is changed in place in the body of a traced cond, "
                "while_loop or scan",
                where=user_line(),
                fix="return the new value from the body, and change the tensor after the call",
            )
        self._before.setdefault(
            id(tensor), (tensor, tensor.array, tensor.node, tensor.node_output, tensor._requires_grad, tensor.version)
        )
        self._changed[id(tensor)] = (tensor, self.resolve(became))
        if keeps_place:
            self._revalued.add(id(tensor))
        else:
            self._revalued.discard(id(tensor))

    def undo_changes(self) -> None:
        """Give tensors that were changed in place their former values and places in the graph."""
        for tensor, *before in self._before.values():
            tensor.array, tensor.node, tensor.node_output, tensor._requires_grad, tensor.version = before

    def watch(self, owned: Sequence[Tensor]) -> None:
        """Count parameters and buffers as traced too: their values will change from run to run."""
        self._traced.update(id(tensor) for tensor in owned)

    def alias(self, new: Tensor, tensor: Tensor) -> None:
        """`new` was made outside the primitives and has the value of `tensor`."""
        self._made.add(id(new))
        self._changed[id(new)] = (new, self.resolve(tensor))

    def _is_own(self, tensor: Tensor) -> bool:
        return id(tensor) in self._made or id(tensor) in self._changed


def active() -> Recording | None:
    """The recording of this thread, or None."""
    return state.recording


@contextmanager
def record(inputs: Sequence[Tensor], is_replayed: bool = False) -> Iterator[Recording]:
    """Record every primitive applied in the ``with`` block by this thread.

    Args:
        inputs: The tensors that stand for the inputs of the function; what is computed from them is traced.
        is_replayed: See `Recording`.

    Raises:
        TraceError: A recording is already active in this thread.
    """
    if state.recording is not None:
        raise TraceError(
            "a recording is already active in this thread",
            fix="trace the inner function first, or call it directly instead of tracing it",
        )
    with _recorded(Recording(tuple(inputs), is_replayed=is_replayed)) as recording:
        yield recording


@contextmanager
def record_body(inputs: Sequence[Tensor]) -> Iterator[Recording]:
    """Record the body of a branch or loop apart, within the active recording."""
    parent = state.recording
    with _recorded(
        Recording(tuple(inputs), parent=parent, is_replayed=parent is not None and parent.is_replayed)
    ) as recording:
        yield recording


@contextmanager
def suspended() -> Iterator[None]:
    """For a forward that is itself written in primitives: they are no calls of the user's, and are not written down."""
    before = state.recording, state.autocast, state.finds_anomalies, state.quiet
    state.recording, state.autocast, state.finds_anomalies, state.quiet = None, None, False, AlreadyQuiet()
    state.refresh()
    try:
        yield
    finally:
        state.recording, state.autocast, state.finds_anomalies, state.quiet = before
        state.refresh()


@contextmanager
def _recorded(recording: Recording) -> Iterator[Recording]:
    state.recording = recording
    state.refresh()
    try:
        yield recording
    finally:
        state.recording = recording.parent
        state.refresh()


def refuse_value(tensor: Tensor, access: str) -> None:
    """Raise TraceError if `tensor` is traced: `access` (as in ``bool()``) needs its value."""
    recording = state.recording
    if recording is None or not recording.is_traced(tensor):
        return
    raise TraceError(
        f"{access} was called on a traced tensor of shape {tensor.shape}: its value is not known in the compiled model",
        where=user_line(),
        fix="decide by shape, ndim or dtype (they are static), select with edgec.engine.where(condition, a, b), or "
        "branch and loop with edgec.engine.cond(pred, true_fn, false_fn) and while_loop(cond_fn, body_fn, loop_vars)",
    )


def refuse_hook(tensor: Tensor) -> None:
    """Raise TraceError if `tensor` is traced by `to_static`, whose graph has tensors of its own."""
    recording = state.recording
    if recording is not None and recording.is_replayed and recording.is_traced(tensor):
        raise TraceError(
            "a hook or retain_grads() inside a function of to_static would be gone when its graph is run",
            where=user_line(),
            fix="return the tensor and register the hook outside, or write a custom operator (edgec.engine.PyLayer)",
        )


def user_line() -> str | None:
    """The user's line that is being run, for an error: ``path.py:12, in function: text``."""
    frame = _user_frame()
    if frame is None:
        return None
    path, line = frame.f_code.co_filename, frame.f_lineno
    return f"{path}:{line}, in {frame.f_code.co_name}: {linecache.getline(path, line).strip()}"


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
