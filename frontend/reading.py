"""Read an ONNX file from disk, and say in plain words what is wrong with one that is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import TensorProto, checker, external_data_helper

from edgec.errors import EdgecError, UnsupportedError

__all__ = ["check_proto", "read_proto"]

# What people pass by mistake, recognised by the file's first bytes: (magic, what it is, what to do instead).
_STRANGERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image", "pass the .onnx file of the model"),
    (b"\x89PNG", "a PNG image", "pass the .onnx file of the model"),
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint is one)", "export the model with torch.onnx.export first"),
    (b"\x89HDF", "an HDF5 file (Keras weights)", "export the model with tf2onnx first"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the real file with `git lfs pull`"),
)
_SHORTEN_AFTER = 5
_DATA_TYPES = frozenset(int(kind) for kind in ir.DataType)


def read_proto(path: Path) -> onnx.ModelProto:
    """Returns the model in ``path`` with its external tensor data loaded, checked by onnx's checker.

    Raises:
        EdgecError: The path is no file, or the file no ONNX model, or truncated, or its external data is missing.
    """
    if not path.exists():
        raise EdgecError(f"model file '{path}' does not exist", fix="check the path of the .onnx file")
    if path.is_dir():
        found = sorted(entry.name for entry in path.glob("*.onnx"))
        inside = f"; it holds {', '.join(found[:_SHORTEN_AFTER])}" if found else ""
        raise EdgecError(f"'{path}' is a directory, not a model file{inside}", fix="pass the .onnx file itself")
    try:
        data = path.read_bytes()
    except OSError as err:
        raise EdgecError(f"model file '{path}' cannot be read: {err.strerror}", fix="check its permissions") from err
    proto = _parse(data, path)
    _load_external_data(proto, path)
    check_proto(proto, str(path))
    return proto


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Raises EdgecError where onnx's own checker refuses ``proto``."""
    if not proto.HasField("graph") or not proto.opset_import:
        missing = "graph" if not proto.HasField("graph") else "operator set"
        raise EdgecError(
            f"the model has no {missing}: it is no ONNX model, or the file is truncated",
            where=where,
            fix="copy or export the file again",
        )
    if proto.graph.sparse_initializer:
        names = _some(tensor.values.name for tensor in proto.graph.sparse_initializer)
        raise UnsupportedError(
            f"the model has sparse initializers: {names}", where=where, fix="export the model with dense weights"
        )
    _check_tensor_sizes(proto, where)
    try:
        checker.check_model(proto)
    except (checker.ValidationError, ValueError) as err:
        raise EdgecError(
            f"the model is not valid ONNX: {_first_line(err)}", where=where, fix="export the model again"
        ) from err


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    if not data:
        raise EdgecError(f"model file '{path}' is empty", fix="copy or export the file again")
    for magic, what, fix in _STRANGERS:
        if data.startswith(magic):
            raise EdgecError(f"'{path}' is {what}, not an ONNX model", fix=fix)
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as err:  # protobuf's DecodeError, which comes without types
        # A model starts with field 1, ir_version, a small varint; if that is there, the rest was cut or damaged.
        if data[0] == 0x08 and len(data) > 1 and data[1] <= onnx.IR_VERSION:
            what = f"'{path}' is truncated or damaged: it starts as an ONNX model and breaks off ({len(data)} bytes)"
            raise EdgecError(what, fix="copy or export the file again") from err
        raise EdgecError(f"'{path}' is not an ONNX model", fix="pass the .onnx file of the model") from err
    if not proto.ir_version and not proto.HasField("graph"):
        raise EdgecError(f"'{path}' is not an ONNX model", fix="pass the .onnx file of the model")
    return proto


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    missing: list[str] = []
    for tensor in _tensors(proto.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = path.parent / entries.get("location", "")
        if not location.is_file():
            missing.append(f"'{location}' (tensor '{tensor.name}') does not exist")
            continue
        needed = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        if location.stat().st_size < needed:
            missing.append(f"'{location}' has {location.stat().st_size} bytes, tensor '{tensor.name}' needs {needed}")
    if missing:
        raise EdgecError(
            f"{len(missing)} tensor(s) lie in external files that are missing or too short: {_some(missing)}",
            where=str(path),
            fix="put the external data files beside the .onnx file",
        )
    try:
        external_data_helper.load_external_data_for_model(proto, str(path.parent))
    except (checker.ValidationError, OSError, ValueError) as err:
        raise EdgecError(f"the model's external data cannot be loaded: {_first_line(err)}", where=str(path)) from err


def _check_tensor_sizes(proto: onnx.ModelProto, where: str) -> None:
    # The checker accepts raw data of a wrong length; NumPy would complain later, far from the cause.
    for tensor in _tensors(proto.graph):
        if not tensor.HasField("raw_data") or tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING):
            continue
        if tensor.data_type not in _DATA_TYPES:
            continue
        needed = math.ceil(math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth / 8)
        if len(tensor.raw_data) != needed:
            raise EdgecError(
                f"tensor '{tensor.name}' holds {len(tensor.raw_data)} bytes of data, its shape "
                f"{tuple(tensor.dims)} needs {needed}: the file is truncated or damaged",
                where=where,
                fix="copy or export the file again",
            )


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for subgraph in attribute.graphs:
                yield from _tensors(subgraph)


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - _SHORTEN_AFTER} more" if len(listed) > _SHORTEN_AFTER else ""
    return ", ".join(listed[:_SHORTEN_AFTER]) + more


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)
