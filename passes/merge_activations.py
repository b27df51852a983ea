"""Merge activation functions that are written out into the operators that stand for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import is_default_op, only_consumer, static_shape
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import remove_unread, replace_node, scalar_of

__all__ = ["MergeActivations"]

_TOLERANCE = 1e-6
"""Relative; constants in float32 are off by 6e-8."""


class _Product(NamedTuple):
    """What a value is the product of: values that are no constants, and a number."""

    values: list[ir.Value]
    factor: float


@dataclass(frozen=True)
class MergeActivations(InPlacePass):
    """Merges activations that exporters write out, products and quotients in any order.

    1. s · Clip(x + b, 0, 1/s): HardSigmoid.
    2. x · HardSigmoid(x) with slope 1/6 and offset 1/2, or x · Clip(x + 3, 0, 6) / 6: HardSwish.
    3. x / 2 · (1 + erf(x / √2)): Gelu.
    4. x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))): Gelu with its tanh approximation.
    """

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if not is_default_op(node, "Mul", "Div"):
                continue
            merged = _merged(node)
            if merged is not None and static_shape(merged.inputs[0]) == static_shape(node.outputs[0]) is not None:
                merged.name = f"{node.name}_{merged.op_type.lower()}"
                unread = list(node.inputs)
                replace_node(node, merged)
                remove_unread(unread)
                tally.count(merged.op_type)
        return tally.result(model)


def _merged(node: ir.Node) -> ir.Node | None:
    """The operator that ``node`` ends the expression of."""
    product = _product(node.outputs[0], is_root=True)
    if len(product.values) == 1:
        return _hard_sigmoid(product.values[0], product.factor)
    if len(product.values) == 2:
        for x, gate in (product.values, product.values[::-1]):
            for match in (_hard_swish, _gelu):
                found = match(x, gate, product.factor)
                if found is not None:
                    return found
    return None


def _hard_sigmoid(clipped: ir.Value, slope: float) -> ir.Node | None:
    inner = _clipped_sum(clipped, slope)
    if inner is None:
        return None
    return ir.node("HardSigmoid", [inner[0]], {"alpha": slope, "beta": inner[1] * slope})


def _hard_swish(x: ir.Value, gate: ir.Value, factor: float) -> ir.Node | None:
    inner = _clipped_sum(gate, factor)
    node = _only_maker(gate)
    source: ir.Value | None
    if inner is not None:
        source, slope, offset = inner[0], factor, inner[1] * factor
    elif node is not None and is_default_op(node, "HardSigmoid") and _is(factor, 1):
        slope, offset = (node.attributes.get_float(name, value) for name, value in (("alpha", 0.2), ("beta", 0.5)))
        source = node.inputs[0]
    else:
        return None
    return ir.node("HardSwish", [x]) if source is x and _is(slope, 1 / 6) and _is(offset, 0.5) else None


def _clipped_sum(value: ir.Value, factor: float) -> tuple[ir.Value, float] | None:
    """Find x and b where ``value`` is Clip(x + b, 0, 1 / ``factor``)."""
    clip = _only_maker(value)
    if clip is None or not is_default_op(clip, "Clip") or len(clip.inputs) != 3 or clip.inputs[0] is None:
        return None
    low, high = scalar_of(clip.inputs[1]), scalar_of(clip.inputs[2])
    return _plus_number(clip.inputs[0]) if low == 0 and high is not None and _is(high * factor, 1) else None


def _gelu(x: ir.Value, gate: ir.Value, factor: float) -> ir.Node | None:
    one_more = _plus_number(gate)
    if one_more is None or not (_is(one_more[1], 1) and _is(factor, 0.5)):
        return None
    function = _only_maker(one_more[0])
    if function is None or not is_default_op(function, "Erf", "Tanh") or function.inputs[0] is None:
        return None
    argument = _product(function.inputs[0])
    if len(argument.values) != 1:
        return None
    if function.op_type == "Erf":
        return ir.node("Gelu", [x]) if argument.values[0] is x and _is(argument.factor, math.sqrt(0.5)) else None
    is_cubic = _is(argument.factor, math.sqrt(2 / math.pi)) and _is_cubic(argument.values[0], x)
    return ir.node("Gelu", [x], {"approximate": "tanh"}) if is_cubic else None


def _is_cubic(value: ir.Value, x: ir.Value) -> bool:
    """Whether ``value`` is x + 0.044715 · x³."""
    add = _only_maker(value)
    if add is None or not is_default_op(add, "Add") or not any(operand is x for operand in add.inputs):
        return False
    cube = add.inputs[0] if add.inputs[1] is x else add.inputs[1]
    if cube is None:
        return False
    values, factor = _product(cube)
    power = _only_maker(values[0])
    if len(values) == 1 and power is not None and is_default_op(power, "Pow") and scalar_of(power.inputs[1]) == 3:
        values = [source for source in power.inputs[:1] if source is not None] * 3
    return len(values) == 3 and all(factor_ is x for factor_ in values) and _is(factor, 0.044715)


def _plus_number(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Find x and b where ``value`` is x + b."""
    add = _only_maker(value)
    if add is None or not is_default_op(add, "Add"):
        return None
    for x, number in (add.inputs, add.inputs[::-1]):
        b = scalar_of(number)
        if x is not None and b is not None:
            return x, b
    return None


def _product(value: ir.Value, *, is_root: bool = False) -> _Product:
    """``value`` as a product, through Mul and Div by a number whose results nothing else reads."""
    node = value.producer() if is_root else _only_maker(value)
    if node is None or not is_default_op(node, "Mul", "Div") or None in node.inputs:
        return _Product([value], 1.0)
    left, right = node.inputs
    assert left is not None and right is not None
    number = scalar_of(right)
    if number and node.op_type == "Div":
        inner = _product(left)
        return _Product(inner.values, inner.factor / number)
    if node.op_type == "Div":
        return _Product([value], 1.0)
    factors = [(side, scalar_of(side)) for side in (left, right)]
    parts = [_product(side) if known is None else _Product([], known) for side, known in factors]
    return _Product([*parts[0].values, *parts[1].values], parts[0].factor * parts[1].factor)


def _only_maker(value: ir.Value) -> ir.Node | None:
    """The node that makes ``value`` for one other node alone."""
    return None if only_consumer(value) is None else value.producer()


def _is(number: float, expected: float) -> bool:
    return math.isclose(number, expected, rel_tol=_TOLERANCE)
