"""Turn a Python function over engine Tensors into a model, by running it once and writing down what it did."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import checker

import edgec
from edgec.engine import Tensor, to_tensor
from edgec.engine.nn import Module
from edgec.engine.recording import Recording, record
from edgec.errors import EdgecError
from edgec.frontend.graph_builder import build_graph
from edgec.frontend.opset import IR_VERSION

__all__ = ["Traceable", "trace"]

Traceable: TypeAlias = Module | Callable[..., object]


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
        example_arrays: One array per input. Their values do not matter, except that the function runs on them. A
            Tensor that requires a gradient stands for one that does, so that the function may call `engine.grad`.
        input_names: Default: the names of the function's parameters.
        output_names: Default: the keys of a dict, "output", or "output_0", "output_1" ...

    `engine.cond`, `while_loop` and `scan` become If, Loop and Scan. Tensors that the function changes in place are
    read with their new values, but a change of a buffer is no part of the model.

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
    inputs = [_as_input(example) for example in example_arrays]
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
    outputs = {name: recording.resolve(item) for name, item in _named_outputs(fn, returned, output_names).items()}
    clashing = [name for name in outputs if name in names]
    if clashing:
        raise EdgecError(f"'{clashing[0]}' is the name of an input and of an output", fix="pass other output_names")
    _check_outputs(outputs, recording)
    named = [] if not isinstance(fn, Module) else [*fn.named_parameters(), *fn.named_buffers()]
    graph = build_graph(_name_of(fn), recording, names, outputs, {id(tensor): name for name, tensor in reversed(named)})
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="edgec", producer_version=edgec.__version__)
    _check(model)
    return model


def _as_input(example: NDArray[np.generic] | Tensor) -> Tensor:
    if isinstance(example, Tensor):
        return Tensor(example.data, example.requires_grad)
    return to_tensor(np.asarray(example))


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
