"""Import an ONNX model: checked, at one operator set, with static shapes and nothing hidden in side files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from edgec.errors import EdgecError
from edgec.frontend.opset import convert_opset
from edgec.frontend.reading import check_proto, read_proto
from edgec.frontend.shapes import bind_input_shapes, infer_shapes

__all__ = ["import_model"]


def import_model(
    source: str | Path | onnx.ModelProto | ir.Model,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    name: str | None = None,
) -> ir.Model:
    """Returns ``source`` as a model that the passes, the executor and the targets understand.

    The result is at opset 22, its inputs and outputs keep their names, its inputs have static shapes, initializers
    are no inputs, model-local functions are inlined, and all tensor data is in memory. ``source`` is not changed.

    Args:
        source: A path to an ``.onnx`` file, or a model in memory.
        input_shapes: Input name to shape. Needed for every input with a symbolic dimension; an input that
            is fixed may be named too, then the shape must agree.
        name: The name of the graph; default is the file's stem, or the name that the model has.

    Raises:
        EdgecError: The file is missing, damaged or no ONNX model, or the shapes do not fit.
        UnsupportedError: The operator set is newer than edgec's.

    Example:
        >>> import_model("super_resolution.onnx", input_shapes={"input": (1, 1, 224, 224)})  # doctest: +SKIP
    """
    proto, where = _proto_of(source)
    proto = convert_opset(proto, where)
    bind_input_shapes(proto, input_shapes or {}, where)
    proto = infer_shapes(proto, where)
    check_proto(proto, where)
    model = ir.from_proto(proto)
    RemoveInitializersFromInputsPass()(model)
    for graph in model.graphs():
        for value in graph.initializers.values():
            _hold_in_memory(value)
    model.graph.name = name or (Path(source).stem if isinstance(source, str | Path) else model.graph.name) or "model"
    return model


def _proto_of(source: str | Path | onnx.ModelProto | ir.Model) -> tuple[onnx.ModelProto, str]:
    if isinstance(source, str | Path):
        return read_proto(Path(source)), str(source)
    if isinstance(source, ir.Model):
        where = f"model '{source.graph.name}'"
        try:
            proto = ir.to_proto(source)
        except (ValueError, TypeError, RuntimeError, OSError) as err:
            cause = err.__cause__ or err
            raise EdgecError(f"the model cannot be serialized: {cause}", where=where) from err
    elif isinstance(source, onnx.ModelProto):
        where = f"model '{source.graph.name}'"
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
    else:
        raise TypeError(
            f"import_model takes a path, an onnx.ModelProto or an onnx_ir.Model, not {type(source).__name__}"
        )
    check_proto(proto, where)
    return proto, where


def _hold_in_memory(value: ir.Value) -> None:
    """Replace a tensor that is decoded from protobuf on every access by a NumPy array."""
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return
    value.const_value = ir.Tensor(np.asarray(tensor.numpy(), order="C"), dtype=tensor.dtype, name=value.name)
    value.shape = ir.Shape(tensor.shape.numpy())
    value.type = ir.TensorType(tensor.dtype)
