"""Decide what is quantized: which nodes become integer arithmetic, and which values are rounded on the way.

A *unit* is what one kernel computes: a convolution or product with what it applies in registers afterwards, an
addition with its ReLU, a concatenation. Values are rounded where they pass from a unit to the next, never inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from edgec.frontend.values import (
    array_of,
    is_default_op,
    only_consumer,
    pads_with_zeros_or_elements,
    static_shape,
)
from edgec.passes.quantization.weights import refusal

__all__ = ["Placement", "Unit", "place"]

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""With constant weights, these are what quantization is for; all else follows them."""

IN_REGISTERS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid"})
"""Applied to an accumulator before it is stored."""

BINARY = frozenset({"Add", "Sub", "Mul"})

MOVING = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "Pad", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Give out integers as they came in, so that both sides have one scale. Input 0 is what they move."""

MEANS = frozenset({"AveragePool", "GlobalAveragePool"})

FUNCTIONS = frozenset({
    "Celu", "Elu", "Erf", "Exp", "Gelu", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh",
}) | (IN_REGISTERS - {"PRelu"})  # fmt: skip
"""Of one value: a table of 256 entries."""


@dataclass(frozen=True, eq=False)
class Unit:
    """What one kernel computes.

    Attributes:
        nodes: Its nodes, in order; the last one makes the outputs.
        inputs: Values that it reads as integers.
        sides: Second operands of what is applied in registers: read as integers where they are such and the result is.
        outputs: Its results.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    sides: tuple[ir.Value, ...] = ()

    @property
    def root(self) -> ir.Node:
        return self.nodes[0]

    @property
    def is_linear(self) -> bool:
        return self.root.op_type in LINEAR

    @property
    def is_moving(self) -> bool:
        """Whether input and output must have the same encoding."""
        if self.root.op_type == "Resize":
            return _resize_mode(self.root) == "nearest"
        return self.root.op_type in MOVING

    @property
    def name(self) -> str:
        return self.root.name or self.root.op_type


@dataclass(frozen=True)
class Placement:
    """What is quantized.

    Attributes:
        units: The quantized units, in the graph's order.
        rounded: Values that get a QuantizeLinear and a DequantizeLinear, in the graph's order.
        kept: Why the other linear operators stay in float, by node name.
    """

    units: tuple[Unit, ...]
    rounded: tuple[ir.Value, ...]
    kept: dict[str, str]

    def readers(self, value: ir.Value) -> list[Unit]:
        """The units that read a rounded value as integers."""
        return [unit for unit in self.units if value in unit.inputs or value in unit.sides]

    def maker(self, value: ir.Value) -> Unit | None:
        """The quantized unit that computes a value."""
        return next((unit for unit in self.units if value in unit.outputs), None)


def place(model: ir.Model, keep_float: Collection[ir.Node] = ()) -> Placement:
    """What to quantize of a simplified model.

    Args:
        model: At opset 22 with static shapes, as `edgec.passes.simplify` leaves it.
        keep_float: Nodes that stay in float.
    """
    units = _Units(model.graph, set(keep_float))
    quantized = _between_linear(units.found)
    chosen = [unit for unit in units.found if unit in quantized]
    makers = {value: unit for unit in chosen for value in unit.outputs}
    wanted = {value for unit in chosen for value in unit.inputs}
    for unit in chosen:
        if any(value in wanted for value in unit.outputs):
            wanted.update(value for value in unit.sides if value in makers)
    # Outputs of float nodes are rounded for the sake of inputs only; sides read them as they are.
    in_order = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return Placement(tuple(chosen), tuple(value for value in in_order if value in wanted), units.kept)


def _between_linear(found: list[Unit]) -> set[Unit]:
    """Linear units, and the others that take integers from a unit and give integers to one: the largest such set."""
    quantized = set(found)
    makers = {value: unit for unit in found for value in unit.outputs}
    while True:
        read: set[ir.Value] = {value for unit in quantized for value in unit.inputs}
        for unit in quantized:
            if not read.isdisjoint(unit.outputs):
                read.update(unit.sides)
        lone = {unit for unit in quantized if not unit.is_linear and not _is_between(unit, makers, quantized, read)}
        if not lone:
            return quantized
        quantized -= lone


def _is_between(
    unit: Unit, makers: dict[ir.Value, Unit], quantized: Collection[Unit], read: Collection[ir.Value]
) -> bool:
    def is_made(value: ir.Value) -> bool:
        return makers.get(value) in quantized or (unit.is_moving and value.is_graph_input())

    enough: Callable[[Iterable[bool]], bool] = any if unit.root.op_type == "Concat" else all
    return enough(is_made(value) for value in unit.inputs) and any(value in read for value in unit.outputs)


@dataclass
class _Units:
    """Finds the units of a graph; a node belongs to one at most."""

    graph: ir.Graph
    keep_float: set[ir.Node]
    found: list[Unit] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = [node for node in self.graph if not node.domain]
        self._taken = set(self.keep_float)
        # From the end: where two convolutions meet in an addition, the later one adds the earlier one's result.
        for node in reversed(nodes):
            if node.op_type in LINEAR:
                self._add_linear(node)
        for node in reversed(nodes):
            if node.op_type == "Mul" and node not in self._taken:
                self._add_gated(node)
        for node in reversed(nodes):
            if node.op_type in BINARY and node not in self._taken:
                self._add_binary(node)
        for node in nodes:
            if node not in self._taken:
                self._add_single(node)
        position = {node: index for index, node in enumerate(self.graph)}
        self.found.sort(key=lambda unit: position[unit.nodes[-1]])

    def _add(self, nodes: list[ir.Node], inputs: Iterable[ir.Value | None], sides: Iterable[ir.Value] = ()) -> None:
        read = tuple(dict.fromkeys(value for value in inputs if value is not None and _is_float(value)))
        outputs = tuple(value for value in nodes[-1].outputs if value.name)
        if not read or not all(_is_float(value) for value in outputs):
            return
        self._taken.update(nodes)
        self.found.append(Unit(tuple(nodes), read, outputs, tuple(dict.fromkeys(sides))))

    def _add_linear(self, node: ir.Node) -> None:
        why = "as you asked" if node in self.keep_float else refusal(node)
        if why is not None:
            self.kept[node.name or ""] = why
            return
        nodes: list[ir.Node] = [node]
        sides: list[ir.Value] = []
        while (step := self._applied_to(nodes[-1].outputs[0], takes_side=not sides)) is not None:
            nodes += step[0]
            sides += step[1]
        self._add(nodes, node.inputs[:1], sides)

    def _add_gated(self, node: ir.Node) -> None:
        """X · f(x) is a function of x."""
        for x, gate in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            function = None if gate is None else gate.producer()
            if (
                function is not None
                and gate is not None
                and function not in self._taken
                and is_default_op(function, *FUNCTIONS)
                and function.inputs[0] is x
                and only_consumer(gate) is node
            ):
                self._add([function, node], [x])
                return

    def _add_binary(self, node: ir.Node) -> None:
        nodes = [node]
        while (step := self._applied_to(nodes[-1].outputs[0], takes_side=False)) is not None:
            nodes += step[0]
        self._add(nodes, [value for value in node.inputs if array_of(value) is None])

    def _add_single(self, node: ir.Node) -> None:
        if node.op_type == "Concat":
            self._add([node], [value for value in node.inputs if array_of(value) is None])
        elif node.op_type in MOVING | MEANS | FUNCTIONS | {"Resize"} and _keeps_zero(node):
            self._add([node], node.inputs[:1])

    def _applied_to(self, value: ir.Value, *, takes_side: bool) -> tuple[list[ir.Node], list[ir.Value]] | None:
        """The nodes that are applied to `value` in registers, with their second operands; None if there are none."""
        gated = self._hard_gate(value)
        if gated is not None:
            return gated, []
        node = only_consumer(value)
        if node is None or node in self._taken or node.domain or node.graph is not self.graph:
            return None
        if static_shape(node.outputs[0]) != static_shape(value):
            return None
        others = [other for other in node.inputs if other is not value and other is not None]
        if node.op_type in IN_REGISTERS and all(array_of(other) is not None for other in others):
            return ([node], []) if node.inputs[0] is value else None
        if node.op_type not in BINARY or len(others) != 1:
            return None
        if array_of(others[0]) is not None:
            return [node], []
        return ([node], others) if takes_side else None

    def _hard_gate(self, value: ir.Value) -> list[ir.Node] | None:
        """HardSigmoid(value) and its product with `value`, where these two are all that read it."""
        readers = [use.node for use in value.uses()]
        if len(readers) != 2 or value.is_graph_output() or any(node in self._taken for node in readers):
            return None
        gate = next((node for node in readers if is_default_op(node, "HardSigmoid")), None)
        product = next((node for node in readers if is_default_op(node, "Mul")), None)
        if gate is None or product is None or only_consumer(gate.outputs[0]) is not product:
            return None
        return [gate, product]


def _keeps_zero(node: ir.Node) -> bool:
    """Padding must be a value that integers have for certain, and a pool must not give out indices."""
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    if node.op_type == "Pad":
        return pads_with_zeros_or_elements(node)
    if node.op_type == "Resize":
        return _resize_mode(node) in ("nearest", "linear")
    if node.op_type == "Gather":
        return array_of(node.inputs[0]) is None
    return True


def _resize_mode(node: ir.Node) -> str:
    mode = node.attributes.get("mode")
    return "nearest" if mode is None else mode.as_string()


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT
