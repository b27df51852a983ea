"""The table of primitives and `apply`, the only door to them.

A primitive is an ONNX operator at opset 22: arrays come positionally in ONNX input order, attributes by their ONNX
names. It is declared in one block of a file under ``ops/``::

    @primitive("Relu", keeps_inputs=(), keeps_outputs=(0,))
    def relu(x: Array) -> Array:
        return np.maximum(x, 0)

    @relu.gradient
    def _(call: Node, dy: Tensor) -> Gradients:
        return (dy * p.cast(call.output(0) > 0, dy.dtype),)

    relu.samples = lambda: [Sample([normal(2, 3)])]

The gradient rule is written in primitives, so it can be differentiated, recorded and compiled like anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine.anomaly import check_results
from edgec.engine.arrays import Array
from edgec.engine.modes import state
from edgec.engine.node import Node
from edgec.engine.recording import user_line
from edgec.errors import UnsupportedError

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

__all__ = ["PRIMITIVES", "Forward", "Gradients", "Primitive", "Rule", "Sample", "apply", "primitive"]

Gradients: TypeAlias = "Sequence[Tensor | None]"
Forward: TypeAlias = Callable[..., "Array | tuple[Array, ...]"]
Rule: TypeAlias = Callable[..., Gradients]

_NO_ATTRIBUTES: Mapping[str, object] = MappingProxyType({})


@dataclass
class Sample:
    """One call of a primitive, from which the tests make value, gradient and dtype checks.

    Attributes:
        inputs: Arrays in ONNX order, None for an omitted one. Floating ones are float32 here.
        attributes: By ONNX name.
        outputs: How many outputs the node has.
        varied: Inputs to differentiate by; None means every floating one.
        order: How often to differentiate in the gradient check.
        tolerance: Allowed error against the reference, relative and absolute.
        reference: "onnxruntime", or "onnx" where ONNX Runtime lacks the operator or type, or "" for none.
    """

    inputs: Sequence[Array | np.generic | None]
    attributes: Mapping[str, object] = field(default_factory=dict)
    outputs: int = 1
    varied: Sequence[int] | None = None
    order: int = 2
    tolerance: float = 1e-5
    reference: str = "onnxruntime"


class Primitive:
    """One operator: its forward in NumPy, its gradient rule, its samples.

    Attributes:
        name: ONNX op_type, or ``edgec.Name`` for the few of the engine's own.
        forward: Arrays in, array or tuple of arrays out; attributes are its keyword-only parameters.
        rule: ``rule(call, *output_gradients)`` gives one gradient or None per input; None if not differentiable.
        differentiable: False only where that was declared.
        keeps_inputs: Indices of the inputs whose values the rule reads; None means all.
        reads: For rules where it depends: input to differentiate by -> inputs whose values that takes.
        keeps_outputs: Indices of the outputs whose values the rule reads.
        carries_integers: Whether integer outputs can carry a gradient, a floating one: those of QuantizeLinear, and of
            what only moves them.
        expansion: The operator in terms of others, for one newer than opset 22: a recording gets those in its place.
        defaults: Attribute name to default value, for those that have one.
        samples: Makes the calls that the tests check.
    """

    def __init__(
        self,
        name: str,
        forward: Forward,
        *,
        differentiable: bool = True,
        keeps_inputs: Sequence[int] | Mapping[int, Sequence[int]] | None = None,
        keeps_outputs: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.forward = forward
        self.rule: Rule | None = None
        self.differentiable = differentiable
        self.reads = keeps_inputs if isinstance(keeps_inputs, Mapping) else None
        self.keeps_inputs = (
            None if keeps_inputs is None or isinstance(keeps_inputs, Mapping) else frozenset(keeps_inputs)
        )
        self.keeps_outputs = tuple(keeps_outputs)
        self.carries_integers = False
        self.expansion: Callable[..., Tensor | Sequence[Tensor]] | None = None
        self.samples: Callable[[], list[Sample]] = list
        code = getattr(forward, "__code__", None)
        keywords: tuple[str, ...] = ()
        if code is not None:
            first = code.co_argcount
            keywords = code.co_varnames[first : first + code.co_kwonlyargcount]
        self.defaults: Mapping[str, object] = dict(getattr(forward, "__kwdefaults__", None) or {})
        # A forward with this parameter is told how many outputs the node has, and may skip the others.
        self.counts_outputs = "output_count" in keywords
        self.attribute_names = frozenset(keywords) - {"output_count"}

    def __repr__(self) -> str:
        return f"Primitive({self.name!r})"

    def gradient(self, rule: Rule) -> Rule:
        """Decorator: `rule` is this primitive's gradient."""
        if not self.differentiable:
            raise ValueError(f"{self.name} was declared not differentiable")
        self.rule = rule
        return rule


PRIMITIVES: dict[str, Primitive] = {}


def primitive(
    name: str,
    *,
    differentiable: bool = True,
    keeps_inputs: Sequence[int] | Mapping[int, Sequence[int]] | None = None,
    keeps_outputs: Sequence[int] = (),
) -> Callable[[Forward], Primitive]:
    """Decorator that registers a forward function as the primitive `name`.

    `keeps_inputs` says which inputs' values the rule reads: all (None), those of the indices, or, as in
    ``{0: (1,), 1: (0,)}`` for a product, which ones the gradient of each input takes.
    """

    def register(forward: Forward) -> Primitive:
        if name in PRIMITIVES:
            raise ValueError(f"primitive {name} is already registered")
        made = Primitive(
            name, forward, differentiable=differentiable, keeps_inputs=keeps_inputs, keeps_outputs=keeps_outputs
        )
        PRIMITIVES[name] = made
        return made

    return register


def apply(
    op_type: str,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, object] = _NO_ATTRIBUTES,
    *,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Run a primitive, note it on the tape if an input wants a gradient, and add it to the active recording.

    Args:
        op_type: ONNX operator name.
        inputs: In ONNX order; None is an omitted optional input.
        attributes: By ONNX name: int, float, str, lists of those, arrays for tensors.
        outputs: How many outputs the node has; omitted trailing optional ones are not counted.

    Raises:
        UnsupportedError: There is no such primitive.
        TypeError: An attribute that the operator does not have.
    """
    made_by = PRIMITIVES.get(op_type)
    if made_by is None:
        raise UnsupportedError(
            f"operator {op_type} is not a primitive of the engine",
            fix="express it with the operators in edgec.engine.PRIMITIVES",
        )
    if attributes and not made_by.attribute_names.issuperset(attributes):
        unknown = ", ".join(sorted(set(attributes) - made_by.attribute_names))
        known = ", ".join(sorted(made_by.attribute_names)) or "none"
        raise TypeError(f"{op_type} has no attribute {unknown} (it has: {known})")
    if state.is_special and state.recording is not None and made_by.expansion is not None:
        expanded = made_by.expansion(*inputs, **attributes)
        return (expanded,) if isinstance(expanded, tensors.Tensor) else tuple(expanded)[:outputs]
    if state.is_special and state.autocast is not None:
        inputs = state.autocast.inputs_of(op_type, inputs)
    arrays = [None if tensor is None else tensor.array for tensor in inputs]
    if made_by.counts_outputs:
        result = state.quiet.run(made_by.forward, *arrays, output_count=outputs, **attributes)
    else:
        result = state.quiet.run(made_by.forward, *arrays, **attributes)
    results = result if isinstance(result, tuple) else (result,)
    if outputs > len(results):
        raise ValueError(f"{op_type} has {len(results)} outputs, {outputs} were asked for")
    node = None
    if made_by.differentiable and state.grad_enabled:
        for tensor in inputs:
            if tensor is not None and tensor._requires_grad:
                node = Node(made_by, inputs, attributes, results)
                break
    made = tuple([tensors.wrap(np.asarray(results[index]), node, index) for index in range(outputs)])
    if node is not None and made_by.keeps_outputs:
        node.watch(made)
    if state.is_special:
        _observe(made_by, inputs, attributes, made, node)
    return made


def _observe(
    made_by: Primitive,
    inputs: Sequence[Tensor | None],
    attributes: Mapping[str, object],
    made: tuple[Tensor, ...],
    node: Node | None,
) -> None:
    """What the rare modes do with a finished call: write it down, and look for NaN."""
    if state.recording is not None:
        state.recording.append(made_by.name, inputs, attributes, made)
    if state.finds_anomalies:
        if node is not None:
            node.source = user_line()
        arrays = [None if tensor is None else tensor.array for tensor in inputs]
        check_results(made_by.name, arrays, [tensor.array for tensor in made])
