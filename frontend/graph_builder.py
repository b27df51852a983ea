"""Write a recording as an IR graph: recorded tensors by identity, values by name, bodies as subgraphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgec.engine import Tensor
from edgec.engine.recording import RecordedNode, Recording
from edgec.errors import UnsupportedError
from edgec.frontend.attributes import to_attributes
from edgec.frontend.opset import OPSET

__all__ = ["build_graph"]

_INTERNAL = "edgec."
# A custom operator as a whole; the calls inside it were recorded too, and are what a graph is made of.
_CALL = "edgec.Call"


def build_graph(
    name: str,
    recording: Recording,
    input_names: Sequence[str],
    outputs: Mapping[str, Tensor],
    captured_names: Mapping[int, str],
) -> ir.Graph:
    """Returns the graph of what ``outputs`` need.

    Args:
        name: Of the graph.
        recording: The run.
        input_names: One per input of the recording.
        outputs: Recorded tensors by the names they get.
        captured_names: Names of parameters and buffers, by the id of the tensor.

    Raises:
        UnsupportedError: The recording has primitives that ONNX lacks.
    """
    return _GraphBuilder(captured_names, {*input_names, *outputs}).build(name, recording, input_names, outputs)


class _GraphBuilder:
    """What the graph and its subgraphs share: names and initializers. A scope maps ids of tensors to values."""

    def __init__(self, captured_names: Mapping[int, str], taken: set[str]) -> None:
        self.captured_names = captured_names
        self.taken = taken
        self.constants: dict[int, ir.Value] = {}
        self.unnamed = 0
        self.counts: dict[str, int] = {}

    def build(
        self, name: str, recording: Recording, input_names: Sequence[str], outputs: Mapping[str, Tensor]
    ) -> ir.Graph:
        kept = _needed_nodes(recording, outputs.values())
        _refuse_internal(kept)
        inputs = [_value(tensor, given) for given, tensor in zip(input_names, recording.inputs, strict=True)]
        scope = {id(tensor): value for tensor, value in zip(recording.inputs, inputs, strict=True)}
        chosen = {id(tensor): given for given, tensor in reversed(list(outputs.items()))}
        nodes = self._nodes(kept, scope, chosen)
        results = [self._output(given, tensor, scope, nodes) for given, tensor in outputs.items()]
        return ir.Graph(
            inputs,
            results,
            nodes=nodes,
            initializers=list(self.constants.values()),
            opset_imports={"": OPSET},
            name=name,
        )

    def _subgraph(self, name: str, body: Recording, around: Mapping[int, ir.Value]) -> ir.Graph:
        """A body; values from around it are read by name."""
        inputs = [_value(tensor, self._free(f"{name}_input_{i}")) for i, tensor in enumerate(body.inputs)]
        scope = {**around, **{id(tensor): value for tensor, value in zip(body.inputs, inputs, strict=True)}}
        outer = set(scope)
        nodes = self._nodes(_needed_nodes(body, body.outputs), scope, {})
        results: list[ir.Value] = []
        for index, tensor in enumerate(body.outputs):
            value = self._read(tensor, scope)
            # A result must be computed in the body, and by a name of its own.
            if id(tensor) in outer or id(tensor) in self.constants or value in results:
                value = self._output(self._free(f"{name}_output_{index}"), tensor, scope, nodes)
            results.append(value)
        return ir.Graph(inputs, results, nodes=nodes, opset_imports={"": OPSET}, name=name)

    def _nodes(
        self, recorded: Sequence[RecordedNode], scope: dict[int, ir.Value], chosen: Mapping[int, str]
    ) -> list[ir.Node]:
        nodes = []
        for node in recorded:
            index = self.counts.get(node.op_type, 0)
            self.counts[node.op_type] = index + 1
            nodes.append(self._node(node, f"{node.op_type}_{index}", scope, chosen))
        return nodes

    def _node(
        self, recorded: RecordedNode, name: str, scope: dict[int, ir.Value], chosen: Mapping[int, str]
    ) -> ir.Node:
        inputs = [None if tensor is None else self._read(tensor, scope) for tensor in recorded.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        bodies = {key: value for key, value in recorded.attributes.items() if isinstance(value, Recording)}
        plain = {key: value for key, value in recorded.attributes.items() if key not in bodies}
        attributes = to_attributes(recorded.op_type, plain)
        for key, body in bodies.items():
            attributes.append(ir.AttrGraph(key, self._subgraph(f"{name}_{key}", body, scope)))
        outputs = []
        for index, tensor in enumerate(recorded.outputs):
            made = f"{name}_output" if len(recorded.outputs) == 1 else f"{name}_output_{index}"
            given = chosen.get(id(tensor)) if id(tensor) not in scope else None
            outputs.append(_value(tensor, given or self._free(made)))
            scope[id(tensor)] = outputs[-1]
        source = {"source": recorded.source} if recorded.source else {}
        return ir.Node("", recorded.op_type, inputs, attributes, outputs=outputs, name=name, metadata_props=source)

    def _read(self, tensor: Tensor, scope: Mapping[int, ir.Value]) -> ir.Value:
        """The value of ``tensor``; one seen for the first time was captured from outside the function."""
        value = scope.get(id(tensor)) or self.constants.get(id(tensor))
        if value is not None:
            return value
        name = self.captured_names.get(id(tensor)) or tensor.name
        if not name:
            name = f"constant_{self.unnamed}"
            self.unnamed += 1
        value = _value(tensor, self._free(name))
        # The copy keeps the model as it was traced when training goes on.
        value.const_value = ir.tensor(np.array(tensor.data), name=value.name)
        self.constants[id(tensor)] = value
        return value

    def _output(self, name: str, tensor: Tensor, scope: Mapping[int, ir.Value], nodes: list[ir.Node]) -> ir.Value:
        value = self._read(tensor, scope)
        if value.name == name:
            return value
        # The tensor is an input, or was returned twice: a name of its own takes a node of its own.
        output = _value(tensor, name)
        nodes.append(ir.Node("", "Identity", [value], outputs=[output], name=self._free(f"Identity_{name}")))
        return output

    def _free(self, name: str) -> str:
        free, suffix = name, 0
        while free in self.taken:
            suffix += 1
            free = f"{name}_{suffix}"
        self.taken.add(free)
        return free


def _value(tensor: Tensor, name: str) -> ir.Value:
    dtype = ir.DataType.from_numpy(np.dtype(tensor.dtype))
    return ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(dtype))


def _needed_nodes(recording: Recording, outputs: Iterable[Tensor]) -> list[RecordedNode]:
    needed = {id(tensor) for tensor in outputs}
    kept: list[RecordedNode] = []
    for node in reversed(recording.nodes):
        if node.op_type != _CALL and not needed.isdisjoint(id(tensor) for tensor in node.outputs):
            kept.append(node)
            needed.update(id(tensor) for tensor in node.reads())
    return kept[::-1]


def _refuse_internal(nodes: Sequence[RecordedNode]) -> None:
    internal = [node for node in _with_bodies(nodes) if node.op_type.startswith(_INTERNAL)]
    if not internal:
        return
    uses: dict[str, list[str]] = {}
    for node in internal:
        uses.setdefault(node.op_type, []).append(node.source or "unknown line")
    listed = "; ".join(f"{name} at {', '.join(dict.fromkeys(lines))}" for name, lines in sorted(uses.items()))
    raise UnsupportedError(
        f"the function uses primitives that ONNX does not have: {listed}",
        where=internal[0].source or None,
        fix="write these lines with other operations, or keep them out of the traced function",
    )


def _with_bodies(nodes: Sequence[RecordedNode]) -> list[RecordedNode]:
    found: list[RecordedNode] = []
    for node in nodes:
        found.append(node)
        for body in node.bodies():
            found += _with_bodies(_needed_nodes(body, body.outputs))
    return found
