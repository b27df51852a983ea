"""Operators with a forward and a backward of the user's own: PyTorch's Function, Paddle's PyLayer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import primitives as p
from edgec.engine import tree
from edgec.engine.arrays import is_float
from edgec.engine.control_flow import RUNNERS
from edgec.engine.errors import GradientError
from edgec.engine.modes import no_grad, state
from edgec.engine.node import Node
from edgec.engine.registry import Gradients, Primitive
from edgec.engine.tensor import Tensor

__all__ = ["Context", "Function", "PyLayer"]

_CALL = "edgec.Call"


class Context:
    """What forward leaves for backward. Attributes of any name can be set; tensors belong in `save_for_backward`.

    Attributes:
        needs_input_grad: Per tensor argument of forward, whether its gradient is wanted.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.needs_input_grad = tuple(tensor.requires_grad for tensor in inputs)
        self._saved: list[Tensor | int | None] = []
        self._materializes = True
        self._fixed: set[int] = set()
        self._call: Node | None = None

    def save_for_backward(self, *saved: Tensor | None) -> None:
        """Keep inputs, outputs or other tensors; a change in place of one is then found."""
        self._saved = list(saved)
        self._versions = [0 if tensor is None else tensor.version for tensor in saved]

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        if self._call is not None and self._call.is_freed:
            raise GradientError("the saved tensors were freed by an earlier backward()", fix="pass retain_graph=True")
        found: list[Tensor | None] = []
        for saved, version in zip(self._saved, self._versions, strict=True):
            if isinstance(saved, int):
                assert self._call is not None
                found.append(self._call.output(saved))
                continue
            if saved is not None and saved.version != version:
                name = "a custom operator" if self._call is None else self._call.primitive.name
                raise GradientError(
                    f"the gradient of {name} needs a saved tensor, which was changed in place after the call",
                    where=repr(saved),
                    fix="compute a new tensor instead, or make the change after backward()",
                )
            found.append(saved)
        return tuple(found)

    def saved_tensor(self) -> tuple[Tensor | None, ...]:
        """`saved_tensors` under Paddle's name."""
        return self.saved_tensors

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        self._fixed.update(id(tensor) for tensor in outputs)

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (True) or None for an output that nothing depends on."""
        self._materializes = value

    def release_outputs(self, outputs: Sequence[Tensor]) -> None:
        # An output holds the node, the node this context: held here as a number, it does not close the circle.
        places = {id(tensor): index for index, tensor in enumerate(outputs)}
        self._saved = [saved if saved is None else places.get(id(saved), saved) for saved in self._saved]


class Function:
    """Base of custom operators: subclass it with static methods `forward` and `backward`, call ``apply``.

    ``forward(ctx, *args)`` computes without being noted; ``backward(ctx, *gradients)`` gives one gradient (or None)
    per tensor argument, or per argument. Written in tensor operations, backward can be differentiated again.

    Example::

        class Cube(engine.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x * x

            @staticmethod
            def backward(ctx, dy):
                (x,) = ctx.saved_tensors
                return dy * 3.0 * x * x

        y = Cube.apply(x)
    """

    _primitive: ClassVar[Primitive | None] = None

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a custom operator needs a static method forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("a custom operator needs a static method backward(ctx, ...)")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run forward, and note the call with `backward` as its gradient."""
        inputs, shape = tree.flatten((args, kwargs))
        ctx = Context(inputs)
        with no_grad():
            returned = cls.forward(ctx, *args, **kwargs)
            made, returned_shape = tree.flatten(returned)
            # An input that is returned, or one tensor returned twice, needs an identity of its own.
            taken = {id(tensor) for tensor in inputs}
            outputs = []
            for tensor in made:
                is_new = id(tensor) not in taken and tensor.node is None and not tensor.requires_grad
                outputs.append(tensor if is_new else tensor.clone())
                taken.add(id(outputs[-1]))
        if state.grad_enabled and any(ctx.needs_input_grad):
            floats = [is_float(tensor.dtype) and id(tensor) not in ctx._fixed for tensor in outputs]
            ctx.release_outputs(outputs)
            attributes = {"context": ctx, "function": cls, "arguments": _places(args)}
            results = tuple(tensor.array for tensor in outputs)
            node = Node(cls._as_primitive(), inputs, attributes, results)
            node._kept = {index: results[index] for index in ctx._saved if isinstance(index, int)}
            for index, tensor in enumerate(outputs):
                if floats[index]:
                    tensor.node, tensor.node_output, tensor._requires_grad = node, index, True
            node.watch(outputs)
        if state.recording is not None:
            attributes = {"function": cls, "shape": shape}
            state.recording.append(_CALL, inputs, attributes, tuple(outputs))
        return tree.rebuild(returned_shape, outputs)

    @classmethod
    def _as_primitive(cls) -> Primitive:
        if "_primitive" not in vars(cls) or cls._primitive is None:
            made = Primitive(cls.__name__, cls.forward, keeps_inputs=())
            made.gradient(_rule)
            cls._primitive = made
        return cls._primitive


PyLayer = Function


def _places(args: Sequence[object]) -> list[bool]:
    return [isinstance(argument, tensors.Tensor) for argument in args]


def _rule(call: Node, *gradients: Tensor | None) -> Gradients:
    ctx, cls = call.attributes["context"], call.attributes["function"]
    assert isinstance(ctx, Context)
    given = [
        p.zeros(call.output_shape(index), call.output_dtype(index))
        if gradient is None and ctx._materializes and is_float(np.dtype(call.output_dtype(index)))
        else gradient
        for index, gradient in enumerate(gradients)
    ]
    ctx._call = call
    try:
        made = cls.backward(ctx, *given)  # type: ignore[attr-defined]
    finally:
        ctx._call = None
    found = list(made) if isinstance(made, tuple | list) else [made]
    is_tensor = call.attributes["arguments"]
    assert isinstance(is_tensor, list)
    if len(found) == len(is_tensor) != call.input_count:  # one per argument, None for those that are no tensors
        found = [gradient for gradient, keep in zip(found, is_tensor, strict=True) if keep]
    if len(found) != call.input_count:
        raise GradientError(
            f"{call.primitive.name}.backward returned {len(found)} gradients for {call.input_count} tensor arguments",
            fix="return one gradient or None per tensor argument of forward",
        )
    for index, gradient in enumerate(found):
        if gradient is not None and call.wants(index) and gradient.shape != call.shape(index):
            raise GradientError(
                f"{call.primitive.name}.backward returned a gradient of shape {gradient.shape} for argument {index} "
                f"of shape {call.shape(index)}",
            )
    return found


def _run_call(inputs: Sequence[Tensor | None], attributes: Any) -> Sequence[Tensor]:
    given: Any = tree.rebuild(attributes["shape"], [tensor for tensor in inputs if tensor is not None])
    args, kwargs = given
    return tree.flatten(attributes["function"].apply(*args, **kwargs))[0]


# In a recording the calls inside forward stand for themselves, for a graph to be exported; one more node stands for the
# operator as a whole, so that running the recording again has the user's gradient.
RUNNERS[_CALL] = _run_call
