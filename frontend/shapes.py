"""Give every value of a model a static shape: bind the inputs' open dimensions, then infer the rest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, shape_inference

from edgec.errors import EdgecError

__all__ = ["bind_input_shapes", "infer_shapes"]

# Only an example for the error text: the size of an open dimension is the user's to choose.
_EXAMPLE_BATCH, _EXAMPLE_SIZE = 1, 224


def bind_input_shapes(proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Write ``shapes`` into the graph inputs of ``proto``, in place.

    A symbolic name bound in one input holds for the other inputs that use it. Sizes of 0 or below and the name "?"
    (Paddle's exporter writes both) stand for open dimensions that have nothing in common.

    Raises:
        EdgecError: An unknown input, a wrong rank, a contradiction with a fixed dimension, a dimension below 1,
            or an input that still has an open dimension.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    for value in inputs.values():
        _forget_placeholders(value)
    listing = "the model's inputs: " + (", ".join(_describe(value) for value in inputs.values()) or "none")
    for name in shapes:
        if name not in inputs:
            near = difflib.get_close_matches(name, inputs, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise EdgecError(f"the model has no input '{name}'{hint}", where=where, fix=listing)
    _check_tensor_inputs(inputs, where)
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        _bind_one(inputs[name], [int(size) for size in shape], symbols, where, listing)
    for value in inputs.values():
        _bind_symbols(value, symbols)
        _check_static(value, where)


def infer_shapes(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Returns ``proto`` with inferred shapes on every value that onnx's inference can reach.

    What the file itself says about inner values and outputs is forgotten first: it may hold symbolic names, or sizes
    of the shapes the model was exported with. It is used again only for outputs that inference says nothing about.

    Raises:
        EdgecError: The shapes contradict each other, as with an input shape the model cannot take.
    """
    declared = {value.name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in proto.graph.output}
    for value in declared.values():
        _forget_placeholders(value)
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as err:
        reason = next((line.strip() for line in reversed(str(err).splitlines()) if line.strip()), "no reason given")
        inputs = ", ".join(_describe(value) for value in proto.graph.input)
        raise EdgecError(
            f"the shapes inside the model do not fit together: {reason}",
            where=f"{where}, inputs {inputs}",
            fix="check the input shapes against those the model was made for",
        ) from err
    for value in inferred.graph.output:
        _restore_declared(value, declared[value.name])
    return inferred


def _forget_placeholders(value: onnx.ValueInfoProto) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param == "?" or (dim.HasField("dim_value") and dim.dim_value <= 0):
            dim.ClearField("value")


def _bind_one(
    value: onnx.ValueInfoProto, shape: Sequence[int], symbols: dict[str, int], where: str, listing: str
) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        for _ in shape:
            tensor.shape.dim.add()
    if len(tensor.shape.dim) != len(shape):
        raise EdgecError(
            f"input '{value.name}' has {len(tensor.shape.dim)} dimensions, the given shape "
            f"{_times(shape)} has {len(shape)}",
            where=where,
            fix=listing,
        )
    for axis, (dim, size) in enumerate(zip(tensor.shape.dim, shape, strict=True)):
        if size < 1:
            raise EdgecError(
                f"input '{value.name}': dimension {axis} of {_times(shape)} must be at least 1", where=where
            )
        fixed = dim.dim_value if dim.HasField("dim_value") else symbols.get(dim.dim_param, size)
        if fixed != size:
            why = "is fixed to" if dim.HasField("dim_value") else f"('{dim.dim_param}') was already bound to"
            raise EdgecError(
                f"input '{value.name}': dimension {axis} {why} {fixed}, the given shape {_times(shape)} has {size}",
                where=where,
                fix=listing,
            )
        if dim.dim_param:
            symbols[dim.dim_param] = size
        dim.dim_value = size


def _bind_symbols(value: onnx.ValueInfoProto, symbols: Mapping[str, int]) -> None:
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]


def _check_tensor_inputs(inputs: Mapping[str, onnx.ValueInfoProto], where: str) -> None:
    for name, value in inputs.items():
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            spelled = (kind or "untyped").removesuffix("_type")
            raise EdgecError(
                f"input '{name}' is of type {spelled}; edgec takes tensors only",
                where=where,
                fix="export the model with tensor inputs",
            )


def _check_static(value: onnx.ValueInfoProto, where: str) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise EdgecError(
            f"input '{value.name}' has no shape, and edgec compiles for fixed shapes",
            where=where,
            fix=f"give it one, for example --input-shape {value.name}:1x3x224x224",
        )
    open_axes = [axis for axis, dim in enumerate(tensor.shape.dim) if not dim.HasField("dim_value")]
    if not open_axes:
        return
    spelled = ", ".join(f"{axis} ('{tensor.shape.dim[axis].dim_param or '?'}')" for axis in open_axes)
    example = [
        dim.dim_value if dim.HasField("dim_value") else _EXAMPLE_SIZE if axis else _EXAMPLE_BATCH
        for axis, dim in enumerate(tensor.shape.dim)
    ]
    raise EdgecError(
        f"input '{value.name}' leaves dimension {spelled} open, and edgec compiles for fixed shapes",
        where=where,
        fix=f"bind it, for example --input-shape {value.name}:{_times(example)}",
    )


def _restore_declared(value: onnx.ValueInfoProto, declared: onnx.ValueInfoProto) -> None:
    if value.type.WhichOneof("value") != "tensor_type" or not declared.type.tensor_type.HasField("shape"):
        return
    known, said = value.type.tensor_type, declared.type.tensor_type.shape
    if not known.HasField("shape"):
        known.shape.CopyFrom(said)
    elif len(known.shape.dim) == len(said.dim):
        for dim, said_dim in zip(known.shape.dim, said.dim, strict=True):
            if not dim.HasField("dim_value") and said_dim.HasField("dim_value"):
                dim.dim_value = said_dim.dim_value


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        return value.name
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return f"{value.name}:{'x'.join(dims)} ({TensorProto.DataType.Name(tensor.elem_type).lower()})"


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)
