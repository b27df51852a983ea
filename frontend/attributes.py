"""Node attributes as plain Python values, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from edgec.frontend.opset import OPSET

__all__ = ["attributes_of", "to_attributes"]

# onnx.defs and onnx_ir each have an enum of their own.
_TYPES = {kind.name: kind for kind in ir.AttributeType}
_LISTS = (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS)


def attributes_of(node: ir.Node) -> dict[str, object]:
    """Returns the attributes of ``node`` by name: int, float, str, lists of those, arrays for tensors.

    Graph attributes are left out; they are no values.
    """
    values: dict[str, object] = {}
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR:
            values[name] = attribute.as_tensor().numpy()
        elif attribute.type in _LISTS:
            values[name] = list(attribute.value)
        elif attribute.type in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
            values[name] = attribute.value
    return values


def to_attributes(op_type: str, values: Mapping[str, object]) -> list[ir.Attr]:
    """Returns ``values`` as attributes of the types that the operator's schema asks for; None values are left out."""
    schema = onnx.defs.get_schema(op_type, OPSET)
    return [
        _to_attribute(name, value, _TYPES[str(schema.attributes[name].type).rpartition(".")[2]])
        for name, value in values.items()
        if value is not None
    ]


def _to_attribute(name: str, value: object, kind: ir.AttributeType) -> ir.Attr:
    match kind:
        case ir.AttributeType.INT:
            return ir.AttrInt64(name, int(np.asarray(value).item()))
        case ir.AttributeType.FLOAT:
            return ir.AttrFloat32(name, float(np.asarray(value).item()))
        case ir.AttributeType.STRING:
            return ir.AttrString(name, str(value))
        case ir.AttributeType.INTS:
            return ir.AttrInt64s(name, [int(item) for item in np.asarray(value).reshape(-1)])
        case ir.AttributeType.FLOATS:
            return ir.AttrFloat32s(name, [float(item) for item in np.asarray(value).reshape(-1)])
        case ir.AttributeType.STRINGS if isinstance(value, list | tuple):
            return ir.AttrStrings(name, [str(item) for item in value])
        case ir.AttributeType.TENSOR:
            return ir.AttrTensor(name, ir.tensor(np.asarray(value)))
        case _:
            raise TypeError(f"attribute '{name}' of type {kind.name} cannot be made from {value!r}")
