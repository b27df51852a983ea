"""Turn a Python function over engine Tensors into a model, by running it once and writing down what it did."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import checker

import edgec
from edgec.engine import Tensor, to_tensor
from edgec.engine.nn import Module
from edgec.engine.recording import RecordedNode, Recording, record
from edgec.errors import EdgecError, UnsupportedError
from edgec.frontend.attributes import to_attributes
from edgec.frontend.opset import IR_VERSION, OPSET

__all__ = ["Traceable", "trace"]

Traceable: TypeAlias = Module | Callable[..., object]

_INTERNAL = "edgec."


def trace(
    fn: Traceable,
    *example_arrays: NDArray[np.generic] | Tensor,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> ir.Model:
    """Returns the model that ``fn`` computes for inputs of the example arrays' shapes and dtypes.

    A Module is run in eval mode and put back as it was. Parameters and buffers become initializers named by their
    module path ("features.0.weight"); other tensors that the function reads become ``constant_0`` and so on. Only
    what the outputs need is kept. Every node carries the user's line in its metadata, as ``source``.

    Args:
        fn: A Module, or a function of Tensors that returns a Tensor, a tuple or list of them, or a dict.
        example_arrays: One array per input. Their values do not matter, except that the function runs on them.
        input_names: Default: the names of the function's parameters.
        output_names: Default: the keys of a dict, "output", or "output_0", "output_1" ...

    What the function does to a Tensor's ``.data`` array behind the engine's back is not seen: its result would become
    a constant.

    Raises:
        TraceError: The function branches on a value, or otherwise looks at one.
        EdgecError: An output is no Tensor or does not depend on any input, or names clash.
        UnsupportedError: The function uses primitives that ONNX does not have.

    Example:
        >>> from edgec.engine import nn
        >>> model = trace(nn.Linear(4, 2), np.zeros((1, 4), np.float32))
        >>> [output.name for output in model.graph.outputs]
        ['output']
    """
    inputs = [to_tensor(array.data if isinstance(array, Tensor) else np.asarray(array)) for array in example_arrays]
    names = _input_names(fn, len(inputs), input_names)
    modes = {module: module.training for module in _modules(fn)}
    if isinstance(fn, Module):
        fn.eval()
    try:
        with record(inputs) as recording:
            returned = fn(*inputs)
    finally:
        for module, training in modes.items():
            module.training = training
    outputs = _named_outputs(fn, returned, output_names)
    clashing = [name for name in outputs if name in names]
    if clashing:
        raise EdgecError(f"'{clashing[0]}' is the name of an input and of an output", fix="pass other output_names")
    _check_outputs(outputs, recording)
    builder = _GraphBuilder(fn, recording, names, outputs)
    return builder.build(_name_of(fn))


class _GraphBuilder:
    """Writes a recording as a graph: recorded tensors by identity, values by name."""

    def __init__(
        self, fn: Traceable, recording: Recording, input_names: Sequence[str], outputs: dict[str, Tensor]
    ) -> None:
        self.recording = recording
        self.outputs = outputs
        self.taken = {*input_names, *outputs}
        self.captured_names: dict[int, str] = {}
        if isinstance(fn, Module):
            for name, tensor in (*fn.named_parameters(), *fn.named_buffers()):
                self.captured_names.setdefault(id(tensor), name)
        self.inputs = [_value(tensor, name) for name, tensor in zip(input_names, recording.inputs, strict=True)]
        self.values = {id(t): value for t, value in zip(recording.inputs, self.inputs, strict=True)}
        self.output_names = {id(tensor): name for name, tensor in reversed(outputs.items())}
        self.initializers: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.constants = 0

    def build(self, name: str) -> ir.Model:
        kept = _needed_nodes(self.recording, self.outputs.values())
        _refuse_internal(kept)
        counts: dict[str, int] = {}
        for node in kept:
            index = counts.get(node.op_type, 0)
            counts[node.op_type] = index + 1
            self._add_node(node, f"{node.op_type}_{index}")
        graph_outputs = [self._output(output, tensor) for output, tensor in self.outputs.items()]
        graph = ir.Graph(
            self.inputs,
            graph_outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": OPSET},
            name=name,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgec", producer_version=edgec.__version__)
        _check(model)
        return model

    def _add_node(self, recorded: RecordedNode, name: str) -> None:
        inputs = [None if tensor is None else self._read(tensor) for tensor in recorded.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        outputs = []
        for index, tensor in enumerate(recorded.outputs):
            plain = f"{name}_output" if len(recorded.outputs) == 1 else f"{name}_output_{index}"
            chosen = self.output_names.get(id(tensor)) if id(tensor) not in self.values else None
            outputs.append(_value(tensor, chosen or self._free(plain)))
            self.values[id(tensor)] = outputs[-1]
        attributes = to_attributes(recorded.op_type, recorded.attributes)
        source = {"source": recorded.source} if recorded.source else {}
        self.nodes.append(
            ir.Node("", recorded.op_type, inputs, attributes, outputs=outputs, name=name, metadata_props=source)
        )

    def _read(self, tensor: Tensor) -> ir.Value:
        """The value of ``tensor``; one seen for the first time was captured from outside the function."""
        value = self.values.get(id(tensor))
        if value is not None:
            return value
        name = self.captured_names.get(id(tensor)) or tensor.name
        if not name:
            name = f"constant_{self.constants}"
            self.constants += 1
        value = _value(tensor, self._free(name))
        # The copy keeps the model as it was traced when training goes on.
        value.const_value = ir.tensor(np.array(tensor.data), name=value.name)
        self.values[id(tensor)] = value
        self.initializers.append(value)
        return value

    def _output(self, name: str, tensor: Tensor) -> ir.Value:
        value = self.values[id(tensor)]
        if value.name == name:
            return value
        # The tensor is an input, or was returned twice: a name of its own takes a node of its own.
        output = _value(tensor, name)
        self.nodes.append(ir.Node("", "Identity", [value], outputs=[output], name=self._free(f"Identity_{name}")))
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
        if not needed.isdisjoint(id(tensor) for tensor in node.outputs):
            kept.append(node)
            needed.update(id(tensor) for tensor in node.inputs if tensor is not None)
    return kept[::-1]


def _refuse_internal(nodes: Sequence[RecordedNode]) -> None:
    internal = [node for node in nodes if node.op_type.startswith(_INTERNAL)]
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


def _check(model: ir.Model) -> None:
    """The engine's shapes and types against those that onnx infers: a difference is a defect of a primitive."""
    proto: onnx.ModelProto = ir.to_proto(model)
    try:
        checker.check_model(proto, full_check=True)
    except Exception as err:  # InferenceError and ValidationError share no base but Exception
        raise EdgecError(
            f"the traced graph is not valid ONNX: {err}",
            where=f"model '{model.graph.name}'",
            fix="this is a defect of edgec; please report it with the function",
        ) from err


def _modules(fn: Traceable) -> list[Module]:
    return list(fn.modules()) if isinstance(fn, Module) else []


def _input_names(fn: Traceable, count: int, given: Sequence[str] | None) -> list[str]:
    if given is not None:
        names = list(given)
        if len(names) != count:
            raise EdgecError(f"{len(names)} input names for {count} example arrays", fix="pass one name per array")
    else:
        names = _parameter_names(fn, count)
    if len(set(names)) != len(names):
        raise EdgecError(f"input names are not unique: {', '.join(names)}", fix="pass other input_names")
    return names


def _parameter_names(fn: Traceable, count: int) -> list[str]:
    called = fn.forward if isinstance(fn, Module) else fn
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    names += [f"input_{index}" for index in range(len(names), count)]
    return names[:count]


def _named_outputs(fn: Traceable, returned: object, given: Sequence[str] | None) -> dict[str, Tensor]:
    items: list[object]
    if isinstance(returned, Mapping):
        names, items = [str(key) for key in returned], list(returned.values())
    elif isinstance(returned, tuple | list):
        names, items = [f"output_{index}" for index in range(len(returned))], list(returned)
    else:
        names, items = ["output"], [returned]
    if given is not None:
        if len(given) != len(items):
            raise EdgecError(f"{len(given)} output names for {len(items)} outputs", where=_name_of(fn))
        names = list(given)
    if len(set(names)) != len(names):
        raise EdgecError(f"output names are not unique: {', '.join(names)}", fix="pass other output_names")
    if not items:
        raise EdgecError("the function returns no outputs", where=_name_of(fn), fix="return at least one Tensor")
    outputs: dict[str, Tensor] = {}
    for name, item in zip(names, items, strict=True):
        if not isinstance(item, Tensor):
            raise EdgecError(
                f"output '{name}' is of type {type(item).__name__}, not Tensor",
                where=_name_of(fn),
                fix="return a Tensor, or a flat tuple, list or dict of Tensors",
            )
        outputs[name] = item
    return outputs


def _check_outputs(outputs: Mapping[str, Tensor], recording: Recording) -> None:
    for name, tensor in outputs.items():
        if not recording.is_traced(tensor):
            raise EdgecError(
                f"output '{name}' does not depend on any input",
                fix="return values that are computed from the inputs with the engine's operations",
            )


def _name_of(fn: Traceable) -> str:
    return type(fn).__name__ if isinstance(fn, Module) else getattr(fn, "__name__", type(fn).__name__).strip("<>")
