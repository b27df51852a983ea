"""Small generated networks, and damage done to bundles."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES = (1, 4, 8, 8)


def tiny_model(batch: int | str = 1) -> onnx.ModelProto:
    """image, shift -> Conv, Relu, Add -> 'net/features'; -> Gemm -> logits."""
    rng = np.random.default_rng(1)
    weights = {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)) / 5,
        "conv.bias": rng.standard_normal(4),
        "fc.weight": rng.standard_normal((5, 256)) / 16,
        "fc.bias": rng.standard_normal(5),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Add", ["r", "shift"], ["net/features"], name="add"),
        helper.make_node("Flatten", ["net/features"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]
    shapes = {"image": (batch, 3, 8, 8), "shift": (batch, *FEATURES[1:])}
    outputs = {"logits": (batch, 5), "net/features": (batch, *FEATURES[1:])}
    return _model(nodes, shapes, outputs, {name: array.astype(np.float32) for name, array in weights.items()})


def unary_model(*op_types: str, shape: tuple[int, ...] = (2, 3), domain: str = "") -> onnx.ModelProto:
    """A chain of operators with one input and one output: x -> y."""
    names = ["x", *(f"t{i}" for i in range(1, len(op_types))), "y"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], name=f"{op.lower()}_{i}", domain=domain)
        for i, op in enumerate(op_types)
    ]
    return _model(nodes, {"x": shape}, {"y": shape}, {})


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int | str, ...]],
    outputs: Mapping[str, tuple[int | str, ...]],
    weights: Mapping[str, np.ndarray],
) -> onnx.ModelProto:
    def infos(shapes: Mapping[str, tuple[int | str, ...]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "tiny", infos(inputs), infos(outputs), initializers)
    domains = sorted({node.domain for node in nodes} - {""})
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def save_tiny(path: Path, batch: int | str = 1) -> Path:
    onnx.save(tiny_model(batch), str(path))
    return path


def tiny_inputs(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.standard_normal((1, 3, 8, 8)).astype(np.float32),
        "shift": rng.standard_normal(FEATURES).astype(np.float32),
    }


def rewrite(
    source: Path, target: Path, files: Mapping[str, bytes], manifest: Mapping[str, object] | None = None
) -> Path:
    """Copy a bundle with some files and manifest entries replaced; the hashes are made to fit."""
    with zipfile.ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content.update(files)
    described = json.loads(content["manifest.json"])
    for name, data in files.items():
        described["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    described.update(manifest or {})
    content["manifest.json"] = json.dumps(described).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return target
