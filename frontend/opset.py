"""Bring a model to the operator set that the rest of edgec is written for."""

from __future__ import annotations

import onnx
from onnx import inliner, version_converter

from edgec.errors import EdgecError, UnsupportedError

__all__ = ["IR_VERSION", "OPSET", "convert_opset"]

OPSET = 22
"""The ONNX operator set of every model inside edgec."""

IR_VERSION = 10
"""The ONNX file format version that belongs to it."""


def convert_opset(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Returns ``proto`` at opset 22 with its model-local functions inlined and every node named.

    Graph input and output names stay as they are.

    Raises:
        UnsupportedError: The operator set is newer than can be brought back to 22, or too old to be converted.
    """
    version = _version(proto)
    if version > onnx.defs.onnx_opset_version():
        raise _too_new(version, where)
    _name_nodes(proto.graph)
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto, convert_version=True)
        except Exception as err:  # the C++ inliner raises bare RuntimeError and its own types
            raise EdgecError(f"the model's functions cannot be inlined: {err}", where=where) from err
    if version != OPSET:
        names = [[value.name for value in values] for values in (proto.graph.input, proto.graph.output)]
        try:
            proto = version_converter.convert_version(proto, OPSET)
        except Exception as err:  # ConvertError is not exported, and adapters raise bare RuntimeError
            if version > OPSET:
                raise _too_new(version, where) from err
            raise UnsupportedError(
                f"the model's operator set {version} cannot be converted to {OPSET}: {err}",
                where=where,
                fix=f"export the model again with opset_version={OPSET}",
            ) from err
        kept = [[value.name for value in values] for values in (proto.graph.input, proto.graph.output)]
        if kept != names:
            raise UnsupportedError(
                f"converting the model to operator set {OPSET} lost the names of its inputs or outputs",
                where=where,
                fix=f"export the model again with opset_version={OPSET}",
            )
    _name_nodes(proto.graph)
    proto.ir_version = IR_VERSION
    return proto


def _version(proto: onnx.ModelProto) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    return versions[0] if versions else OPSET


def _too_new(version: int, where: str) -> UnsupportedError:
    return UnsupportedError(
        f"the model uses operator set {version}, newer than edgec's {OPSET}",
        where=where,
        fix=f"export the model again with opset_version={OPSET} or lower",
    )


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name nodes "Conv_7": the seventh node, so that errors can point at it."""
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _name_nodes(attribute.g)
            for subgraph in attribute.graphs:
                _name_nodes(subgraph)
