"""Compute in float16 what does not suffer from it, or in float32 what came as float16."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass

from edgec.frontend.values import Array, array_of, is_default_op
from edgec.passes.report import CountedResult, Tally
from edgec.passes.rewiring import new_constant

__all__ = ["KEPT_IN_FLOAT32", "PRODUCTS", "RECURRENT", "ConvertPrecision"]

_SUM = "adds up more numbers than 11 bits can count"
_WIDE = "its results leave the range of float16 (6e-5 to 65504) for ordinary arguments"
_STATISTICS = "a mean of squares leaves the range of float16"
_STATE = "rounds its state at every step"

RECURRENT = ("LSTM", "GRU", "RNN")

KEPT_IN_FLOAT32 = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "LogSumExp", "CumSum", "Einsum"), _SUM),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "LpPool", "GlobalLpPool"), _SUM),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _SUM),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp"), _SUM),
    **dict.fromkeys(("Exp", "Log", "Pow", "Reciprocal", "Sqrt", "Div", "Mod", "Sin", "Cos"), _WIDE),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), _STATISTICS),
    **dict.fromkeys(("RMSNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN"), _STATISTICS),
    "BatchNormalization": _STATISTICS,
    **dict.fromkeys(RECURRENT, _STATE),
}
"""Operators that are computed in float32, and why."""

_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2")
_MOVEMENTS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "Identity", "DepthToSpace")
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_SUMS = ("Add", "Sub", "Where")
_CONVERSIONS = ("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_LARGEST, _LEAST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class ConvertPrecision(InPlacePass):
    """Makes float32 and float16 tensors inside a graph tensors of ``dtype``; inputs and outputs keep their types.

    1. Constants are rounded once, at compile time; other values are cast where the types of two nodes meet.
    2. With float16: operators of `KEPT_IN_FLOAT32`, those with a constant that float16 cannot hold, everything between
       integers and the nearest product of floats, what is computed element by element for a float32 output of the
       graph or for nothing but a reduction, and what is computed from nothing but reductions are computed in float32.
       What only moves elements follows what makes them, and so do sums with what was made of a constant that float16
       cannot hold: as minus infinity, the fill of a mask would leave rows of NaN.
    3. With wide sums, a product of float16 is one of float32 whose factors have been rounded to float16; so are the
       inputs and weights of recurrent layers, whose state stays exact. Biases and the weights of depthwise
       convolutions are not rounded: they are few, so that errors of theirs do not cancel out, and no tensor core
       multiplies them.

    Shapes must have been inferred.

    Attributes:
        dtype: FLOAT16 or FLOAT.
        keeps_float32: Whether what is float32 already stays so.
        has_wide_sums: Whether the target adds products of float16 in float32.
        kept: Names of nodes to be computed in float32.
    """

    dtype: ir.DataType = ir.DataType.FLOAT16
    keeps_float32: bool = False
    has_wide_sums: bool = False
    kept: frozenset[str] = frozenset()

    def call(self, model: ir.Model) -> CountedResult:
        tally = Tally()
        if any(attribute.type == ir.AttributeType.GRAPH for node in model.graph for attribute in _attributes(node)):
            tally.refuse(next(iter(model.graph)), "graphs with control flow keep their types")
        else:
            _Conversion(model.graph, self, tally).run()
        return tally.result(model)


@dataclass
class _Conversion:
    """One run over one graph.

    Attributes:
        declared: The types of the values before.
        converted: Values in another type than their own, by value and type.
        sums: Values that are wide sums.
        large: Values made of constants larger than float16 can hold.
    """

    graph: ir.Graph
    settings: ConvertPrecision
    tally: Tally
    declared: dict[ir.Value, ir.DataType | None] = field(default_factory=dict)
    converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    sums: set[ir.Value] = field(default_factory=set)
    large: set[ir.Value] = field(default_factory=set)

    def run(self) -> None:
        nodes = list(self.graph)
        for node in nodes:
            self.declared.update({value: value.dtype for value in (*node.inputs, *node.outputs) if value is not None})
        fixed: set[ir.Node] = set()
        if self.settings.dtype == ir.DataType.FLOAT16:
            fixed = _between_integers(nodes) | _before_outputs(nodes) | _around_reductions(nodes)
        for node in nodes:
            self._convert(node, fixed)
        for index, value in enumerate(self.graph.outputs):
            if value in self.declared and value.dtype != self.declared[value]:
                self._restore_output(index, value)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                self.graph.initializers.pop(name)

    def _convert(self, node: ir.Node, fixed: set[ir.Node]) -> None:
        inputs, outputs = _typed_values(node)
        wanted = self._type_of(node, fixed, [node.inputs[i] for i in inputs])
        holds_large = any(value in self.large or _exceeds(value) for value in node.inputs)
        if holds_large and wanted == ir.DataType.FLOAT and is_default_op(node, *_SUMS, "Mul", *_MOVEMENTS):
            self.large.add(node.outputs[0])
        is_product = is_default_op(node, *PRODUCTS)
        if self.settings.has_wide_sums and wanted == ir.DataType.FLOAT16 and (is_product or self._adds_bias(node)):
            if is_product:
                self._round_factors(node)
            wanted = ir.DataType.FLOAT
            self.sums.add(node.outputs[0])
        elif self._has_wide_state(node):
            self._round_factors(node)
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in _FLOATS:
                continue
            dtype = wanted if index in inputs else self.declared[value]
            assert dtype is not None
            if value.dtype != dtype:
                node.replace_input_with(index, self._as(value, dtype, node))
        for index in outputs:
            value = node.outputs[index]
            if value.dtype in _FLOATS and value.dtype != wanted:
                value.type = ir.TensorType(wanted)
                self.tally.count(f"{node.op_type} in {wanted.name.lower()}")

    def _type_of(self, node: ir.Node, fixed: set[ir.Node], values: list[ir.Value | None]) -> ir.DataType:
        """The type that a node computes in."""
        if self.settings.dtype == ir.DataType.FLOAT or node.name in self.settings.kept:
            return ir.DataType.FLOAT
        if node.op_type in KEPT_IN_FLOAT32:
            self.tally.refuse(node, KEPT_IN_FLOAT32[node.op_type])
            return ir.DataType.FLOAT
        if node in fixed or (
            self.settings.keeps_float32 and all(self.declared[out] == ir.DataType.FLOAT for out in node.outputs)
        ):
            return ir.DataType.FLOAT
        for value in values:
            if (why := _misfit(value)) is not None:
                self.tally.refuse(node, why)
                return ir.DataType.FLOAT
        if is_default_op(node, *_SUMS) and any(value in self.large for value in values):
            self.tally.refuse(node, "adds what float16 cannot hold")
            return ir.DataType.FLOAT
        first = node.inputs[0]
        if is_default_op(node, *_MOVEMENTS) and first is not None and first.producer() is not None:
            is_float32 = first.dtype == ir.DataType.FLOAT and first not in self.sums
            return ir.DataType.FLOAT if is_float32 else ir.DataType.FLOAT16
        return ir.DataType.FLOAT16

    def _has_wide_state(self, node: ir.Node) -> bool:
        settings = self.settings
        is_asked_for = settings.has_wide_sums and settings.dtype == ir.DataType.FLOAT16 and not settings.keeps_float32
        return is_asked_for and is_default_op(node, *RECURRENT) and node.name not in settings.kept

    def _round_factors(self, node: ir.Node) -> None:
        """Make the factors of a product float32 that hold float16: all but constant biases, or input and weights."""
        factors = node.inputs[:3] if node.op_type in RECURRENT else node.inputs
        for index, value in enumerate(factors):
            is_bias = index == 2 and node.op_type not in RECURRENT and array_of(value) is not None
            is_exact = is_bias or _is_depthwise(node, index)
            if value is None or is_exact or _holds_float16(value):
                continue
            if value.dtype == ir.DataType.FLOAT:
                value = self._as(value, ir.DataType.FLOAT16, node)
            node.replace_input_with(index, self._as(value, ir.DataType.FLOAT, node))

    def _adds_bias(self, node: ir.Node) -> bool:
        """Whether it adds a constant to a wide sum that nothing else reads."""
        if not is_default_op(node, "Add"):
            return False
        variables = [value for value in node.inputs if array_of(value) is None]
        return len(variables) == 1 and variables[0] in self.sums and len(list(variables[0].uses())) == 1

    def _as(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """The value in another type, made before its first reader."""
        if (value, dtype) not in self.converted:
            name = f"{value.name}_{dtype.name.lower()}"
            array = array_of(value)
            if array is not None:
                with np.errstate(under="ignore"):
                    self.converted[value, dtype] = new_constant(self.graph, array.astype(dtype.numpy()), name)
            else:
                cast = _cast(value, dtype, name)
                producer = value.producer()
                if producer is None:
                    self.graph.insert_before(reader, cast)
                else:
                    self.graph.insert_after(producer, cast)
                self.converted[value, dtype] = cast.outputs[0]
            self.tally.count(f"to {dtype.name.lower()}")
        return self.converted[value, dtype]

    def _restore_output(self, index: int, value: ir.Value) -> None:
        name, dtype, producer = value.name, self.declared[value], value.producer()
        assert producer is not None and dtype is not None and value.dtype is not None
        value.name = f"{name}_{value.dtype.name.lower()}"
        cast = _cast(value, dtype, str(name))
        self.graph.insert_after(producer, cast)
        self.graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}_cast")
    cast.outputs[0].name, cast.outputs[0].shape = name, value.shape
    cast.outputs[0].type = ir.TensorType(dtype)
    return cast


def _attributes(node: ir.Node) -> list[ir.Attr]:
    return list(node.attributes.values())


def _misfit(value: ir.Value | None) -> str | None:
    """Why a constant cannot be float16; small weights among larger ones may vanish, a lone number may not."""
    array = array_of(value)
    if array is None or array.dtype != np.float32:
        return None
    largest = _largest(array)
    if largest > _LARGEST:
        return f"its constant holds {largest:.3g}, more than float16 can"
    if 0 < largest < _LEAST:
        return f"its constant holds {largest:.3g} at most, less than float16 resolves"
    return None


def _exceeds(value: ir.Value | None) -> bool:
    """Whether it is a constant with a finite number that float16 cannot hold."""
    array = array_of(value)
    return array is not None and array.dtype == np.float32 and _largest(array) > _LARGEST


def _largest(array: Array) -> float:
    sizes = np.abs(array[np.isfinite(array)])
    return float(sizes.max(initial=0))


def _holds_float16(value: ir.Value) -> bool:
    """Whether a float32 value has been rounded to float16."""
    array, cast = array_of(value), value.producer()
    if array is not None:
        with np.errstate(under="ignore", over="ignore"):
            return array.dtype == np.float32 and np.array_equal(array.astype(np.float16), array)
    source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return source is not None and source.dtype == ir.DataType.FLOAT16


def _is_depthwise(node: ir.Node, index: int) -> bool:
    """Whether this input is the constant weights of a depthwise convolution, one filter per channel."""
    array = array_of(node.inputs[index]) if index == 1 and is_default_op(node, "Conv", "ConvTranspose") else None
    return array is not None and array.shape[:2] == (_group(node), 1) != (1, 1)


def _group(node: ir.Node) -> int:
    attribute = node.attributes.get("group")
    return 1 if attribute is None else attribute.as_int()


def _typed_values(node: ir.Node) -> tuple[list[int], list[int]]:
    """Which inputs and outputs of a node share the type that it computes in."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _CONVERSIONS:
        return [], []
    variables, inputs, outputs = _signature(node.op_type)

    def typed(values: list[str], count: int) -> list[int]:
        return [i for i in range(count) if values and values[min(i, len(values) - 1)] in variables]

    return typed(inputs, len(node.inputs)), typed(outputs, len(node.outputs))


@cache
def _signature(op_type: str) -> tuple[frozenset[str], list[str], list[str]]:
    """(the type variables that may be float32 and float16, those of the inputs, those of the outputs)."""
    try:
        schema = onnx.defs.get_schema(op_type, 22, "")
    except onnx.defs.SchemaError:
        return frozenset(), [], []
    variables = frozenset(
        constraint.type_param_str
        for constraint in schema.type_constraints
        if {"tensor(float)", "tensor(float16)"} <= set(constraint.allowed_type_strs)
    )
    return variables, [value.type_str for value in schema.inputs], [value.type_str for value in schema.outputs]


def _between_integers(nodes: list[ir.Node]) -> set[ir.Node]:
    """In a quantized graph, the nodes between integers and the nearest product of floats on either side."""
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") or "Integer" in node.op_type for node in nodes):
        return set()
    found: set[ir.Node] = set()
    for node in nodes:  # from integers on, up to a product
        sources = [value for value in node.inputs if value is not None and value.producer() is not None]
        after_integers = any(value.dtype not in _FLOATS for value in sources)
        reached = any(value.producer() in found and not is_default_op(value.producer(), *PRODUCTS) for value in sources)
        if after_integers or reached:
            found.add(node)
    for node in reversed(nodes):  # and what becomes integers
        readers = [use.node for value in node.outputs for use in value.uses()]
        makes_integers = any(value.dtype not in _FLOATS for value in node.outputs)
        if makes_integers or (any(r in found for r in readers) and not is_default_op(node, *PRODUCTS)):
            found.add(node)
    return found


def _before_outputs(nodes: list[ir.Node]) -> set[ir.Node]:
    """What is computed element by element for float32 outputs of the graph, and what moves elements in between."""
    found: set[ir.Node] = set()
    for node in reversed(nodes):
        if is_default_op(node, *PRODUCTS, *_CONVERSIONS):
            continue
        readers = {use.node for value in node.outputs for use in value.uses()}
        if is_default_op(node, *_MOVEMENTS):
            leads = bool(readers)
        else:
            leads = any(value is not None and value.shape == node.outputs[0].shape for value in node.inputs)
        is_float32 = all(value.dtype == ir.DataType.FLOAT for value in node.outputs)
        if leads and is_float32 and all(reader in found or _only_moves_out(reader) for reader in readers):
            found.add(node)
    return found


def _around_reductions(nodes: list[ir.Node]) -> set[ir.Node]:
    """The statistics of a normalization that is written out: squares before a sum, differences of means.

    They are few numbers, or part of the kernel that adds them up; x * x overflows and E[x * x] - E[x]^2 cancels out.
    """
    found: set[ir.Node] = set()
    others = [node for node in nodes if not is_default_op(node, *PRODUCTS, *_CONVERSIONS, *_REDUCTIONS)]
    for node in others:
        sources = [v.producer() for v in node.inputs if v is not None and array_of(v) is None]
        if sources and all(s is not None and (s in found or is_default_op(s, *_REDUCTIONS)) for s in sources):
            found.add(node)
    for node in others:
        readers = {use.node for value in node.outputs for use in value.uses()}
        is_elementwise = any(v is not None and v.shape == node.outputs[0].shape for v in node.inputs)
        if is_elementwise and readers and all(is_default_op(reader, *_REDUCTIONS) for reader in readers):
            found.add(node)
    return found


def _only_moves_out(node: ir.Node) -> bool:
    """Whether it moves elements and what it gives is read by nothing but such, an output of the graph at last."""
    return is_default_op(node, *_MOVEMENTS) and all(
        _only_moves_out(use.node) for value in node.outputs for use in value.uses()
    )
