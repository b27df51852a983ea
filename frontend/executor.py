"""Run an IR graph with the engine's primitives: the reference that every other way to run it is held against."""

from __future__ import annotations

import difflib
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.engine import Parameter, Tensor, to_tensor
from edgec.engine.registry import PRIMITIVES, apply
from edgec.errors import EdgecError
from edgec.frontend.attributes import attributes_of
from edgec.frontend.control_flow import CONTROL_FLOW, Subgraph, run_control_flow, values_read
from edgec.frontend.support import check_operators

__all__ = ["Array", "Hook", "execute", "execute_tensors", "parameters_of", "run_node"]

Array: TypeAlias = NDArray[np.generic]
Hook: TypeAlias = Callable[[str, Array], None]

# Data, not computation: the executor reads it itself.
_CONSTANT = "Constant"


def execute(
    model: ir.Model,
    inputs: Mapping[str, Array] | Sequence[Array],
    *,
    hook: Hook | None = None,
    outputs: Sequence[str] | None = None,
    integers: bool = True,
) -> dict[str, Array]:
    """Returns the outputs of ``model`` for ``inputs``, by name, in the order of the graph's outputs.

    Args:
        model: A model at opset 22.
        inputs: By input name, or in the order of the graph's inputs.
        hook: Called with the name and value of every input and of every value that a node computes.
        outputs: Names of the values wanted instead of the graph's outputs, inner values included; only the nodes
            that they need are run.
        integers: Whether quantized parts are computed with integers, as artifacts do (`integers.integer_form`; the
            hook sees the values of that form), and not in float as their QuantizeLinear and DequantizeLinear say.

    Raises:
        EdgecError: An input is missing, unknown, or of the wrong shape or dtype.
        UnsupportedError: The engine lacks operators of the model; all of them are listed.
    """
    if not isinstance(inputs, Mapping):
        inputs = _by_name(model, inputs)
    tensors = {name: to_tensor(np.asarray(array)) for name, array in inputs.items()}
    seen = None if hook is None else _on_arrays(hook)
    if integers:
        # Its rules run nodes themselves.
        from edgec.frontend.integers import integer_form

        model = integer_form(model, keep=outputs or ())
    results = _run(model, tensors, {}, outputs, seen)
    return {name: tensor.numpy() for name, tensor in results.items()}


def execute_tensors(
    model: ir.Model,
    inputs: Mapping[str, Tensor],
    *,
    initializers: Mapping[str, Tensor] | None = None,
    outputs: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Like `execute` on Tensors: gradients flow to the inputs and ``initializers`` that require them.

    Args:
        model: A model at opset 22.
        inputs: By input name.
        initializers: Tensors that take the place of the model's own initializers, by name; with Parameters here
            an imported graph can be trained (`parameters_of` makes them).
        outputs: Names of the values wanted instead of the graph's outputs.

    Raises:
        EdgecError: As `execute`, and for a name that is no initializer or has another shape.
    """
    return _run(model, inputs, initializers or {}, outputs, None)


def parameters_of(model: ir.Model) -> dict[str, Parameter]:
    """Returns the floating-point initializers of ``model`` as Parameters, by name, for `execute_tensors`.

    They are copies: training them leaves the model as it is.
    """
    return {
        name: Parameter(np.array(value.const_value.numpy()))
        for name, value in model.graph.initializers.items()
        if name is not None and value.const_value is not None and value.const_value.dtype.is_floating_point()
    }


def run_node(node: ir.Node, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Returns the outputs of one node for ``inputs``; omitted trailing outputs are not computed."""
    count = len(node.outputs)
    while count > 1 and not node.outputs[count - 1].name:
        count -= 1
    try:
        return apply(_primitive_name(node), inputs, attributes_of(node), outputs=count)
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as err:
        given = ", ".join("-" if tensor is None else f"{tensor.dtype} {tensor.shape}" for tensor in inputs)
        raise EdgecError(
            f"{node.op_type} '{node.name}' failed: {err}", where=f"node '{node.name}', inputs {given}"
        ) from err


def _run(
    model: ir.Model,
    inputs: Mapping[str, Tensor],
    initializers: Mapping[str, Tensor],
    outputs: Sequence[str] | None,
    hook: Callable[[str, Tensor], None] | None,
) -> dict[str, Tensor]:
    check_operators(model, {*PRIMITIVES, *CONTROL_FLOW, _CONSTANT})
    _check_inputs(model, inputs)
    values: dict[ir.Value, Tensor] = {value: inputs[value.name or ""] for value in model.graph.inputs}
    values.update(_initializer_tensors(model, initializers))
    if hook is not None:
        for value in model.graph.inputs:
            hook(value.name or "", values[value])
    wanted = _wanted_values(model, outputs)
    _run_graph(model.graph, values, wanted, hook)
    return {value.name or "": values[value] for value in wanted}


def _run_graph(
    graph: ir.Graph,
    values: MutableMapping[ir.Value, Tensor],
    wanted: Sequence[ir.Value],
    hook: Callable[[str, Tensor], None] | None,
) -> None:
    """Add the wanted values to ``values``, and forget what no later node reads."""

    def run_subgraph(subgraph: ir.Graph, given: Sequence[Tensor]) -> list[Tensor]:
        own: dict[ir.Value, Tensor] = dict(zip(subgraph.inputs, given, strict=True))
        own.update(_constants(subgraph))
        inner = ChainMap(own, values)
        _run_graph(subgraph, inner, subgraph.outputs, hook)
        return [inner[value] for value in subgraph.outputs]

    nodes = _needed_nodes(graph, wanted)
    last_use = {value: index for index, node in enumerate(nodes) for value in values_read(node)}
    kept = set(wanted)
    for index, node in enumerate(nodes):
        given = [None if value is None else values[value] for value in node.inputs]
        for value, tensor in zip(node.outputs, _compute(node, given, run_subgraph), strict=False):
            values[value] = tensor
            if hook is not None and value.name:
                hook(value.name, tensor)
        for used in (*values_read(node), *node.outputs):
            if used not in kept and last_use.get(used, index) == index and used.graph is graph:
                values.pop(used, None)


def _compute(node: ir.Node, given: Sequence[Tensor | None], run_subgraph: Subgraph) -> tuple[Tensor, ...]:
    if node.op_type in CONTROL_FLOW and not node.domain:
        return run_control_flow(node, given, run_subgraph)
    if node.op_type == _CONSTANT and not node.domain:
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
        if tensor is None:
            raise EdgecError(f"Constant '{node.name}' has no numeric value", where=f"node '{node.name}'")
        return (to_tensor(tensor.numpy()),)
    return run_node(node, given)


def _primitive_name(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _initializer_tensors(model: ir.Model, given: Mapping[str, Tensor]) -> dict[ir.Value, Tensor]:
    own = model.graph.initializers
    tensors: dict[ir.Value, Tensor] = {}
    for name, tensor in given.items():
        if name not in own:
            raise EdgecError(
                f"the model has no initializer '{name}'{_near(name, own)}", where=f"model '{model.graph.name}'"
            )
        shape = own[name].shape
        if shape is not None and tuple(tensor.shape) != tuple(shape):
            raise EdgecError(f"initializer '{name}' has shape {tuple(shape)}, the given tensor {tuple(tensor.shape)}")
        tensors[own[name]] = tensor
    return {**_constants(model.graph, tensors), **tensors}


def _constants(graph: ir.Graph, given: Collection[ir.Value] = ()) -> dict[ir.Value, Tensor]:
    return {
        value: to_tensor(value.const_value.numpy())
        for value in graph.initializers.values()
        if value not in given and value.const_value is not None
    }


def _wanted_values(model: ir.Model, names: Sequence[str] | None) -> list[ir.Value]:
    if names is None:
        return list(model.graph.outputs)
    known = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    for name in names:
        if name not in known:
            raise EdgecError(
                f"the model has no value '{name}'{_near(name, known)}", where=f"model '{model.graph.name}'"
            )
    return [known[name] for name in names]


def _needed_nodes(graph: ir.Graph, wanted: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that ``wanted`` depends on; graphs are stored in topological order."""
    needed = set(wanted)
    nodes: list[ir.Node] = []
    for node in reversed(graph):
        if not needed.isdisjoint(node.outputs):
            nodes.append(node)
            needed.update(values_read(node))
    return nodes[::-1]


def _by_name(model: ir.Model, arrays: Sequence[Array]) -> dict[str, Array]:
    names = [value.name or "" for value in model.graph.inputs]
    if len(arrays) != len(names):
        raise EdgecError(
            f"the model has {len(names)} inputs ({', '.join(names)}), {len(arrays)} were given",
            where=f"model '{model.graph.name}'",
        )
    return dict(zip(names, arrays, strict=True))


def _check_inputs(model: ir.Model, inputs: Mapping[str, Tensor]) -> None:
    expected = {value.name or "": value for value in model.graph.inputs}
    where = f"model '{model.graph.name}'"
    listing = "the model's inputs: " + ", ".join(_describe(value) for value in expected.values())
    for name in inputs:
        if name not in expected:
            raise EdgecError(f"the model has no input '{name}'{_near(name, expected)}", where=where, fix=listing)
    for name, value in expected.items():
        if name not in inputs:
            raise EdgecError(f"input '{name}' is missing", where=where, fix=listing)
        given = inputs[name]
        dtype = None if value.dtype is None else value.dtype.numpy()
        is_shape_right = value.shape is None or (
            len(value.shape) == given.ndim
            and all(not isinstance(dim, int) or dim == size for dim, size in zip(value.shape, given.shape, strict=True))
        )
        if not is_shape_right or (dtype is not None and given.dtype != dtype):
            raise EdgecError(
                f"input '{name}' must be {_describe(value).removeprefix(name + ' ')}, "
                f"given: {given.dtype} ({', '.join(map(str, given.shape))})",
                where=where,
            )


def _describe(value: ir.Value) -> str:
    dtype = "any type" if value.dtype is None else str(value.dtype.numpy())
    shape = "of any shape" if value.shape is None else f"({', '.join(str(dim) for dim in value.shape)})"
    return f"{value.name} {dtype} {shape}"


def _near(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _on_arrays(hook: Hook) -> Callable[[str, Tensor], None]:
    return lambda name, tensor: hook(name, tensor.numpy())
