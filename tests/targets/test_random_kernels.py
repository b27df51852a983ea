"""Convolutions and matrix products of random shapes, compiled for every instruction set, against ONNX Runtime.

Many small layers are put side by side into one model, so that the whole way, from lowering to the linked artifact,
is gone once per target and not once per shape.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.devices import open_runner
from edgec.parity import POLICY, compare

LAYERS = 24


def add_conv(rng: np.random.Generator, index: int, nodes: list, inputs: list, weights: list) -> str:
    """A convolution with odd sizes, strides up to 3, dilations, groups and large pads; returns its output's name."""
    group = int(rng.choice([1, 1, 1, 2, 3]))
    depthwise = rng.random() < 0.3
    in_channels = int(rng.integers(1, 20)) * group
    out_channels = in_channels if depthwise else int(rng.integers(1, 24)) * group
    group = in_channels if depthwise else group
    kernel = [int(k) for k in rng.integers(1, 6, 2)]
    dilations = [int(d) for d in rng.integers(1, 3, 2)]
    pads = [int(p) for p in rng.integers(0, 5, 4)]
    image = [int(rng.integers(max(1, (k - 1) * d + 1 - 2), 40)) + 2 for k, d in zip(kernel, dilations, strict=True)]
    x, w, b, y = f"x{index}", f"w{index}", f"b{index}", f"y{index}"
    inputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, in_channels, *image]))
    shape = [out_channels, in_channels // group, *kernel]
    weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), w))
    names = [x, w]
    if rng.random() < 0.7:
        weights.append(numpy_helper.from_array(rng.standard_normal(out_channels).astype(np.float32), b))
        names.append(b)
    strides = [int(s) for s in rng.integers(1, 4, 2)]
    attributes = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
    nodes.append(helper.make_node("Conv", names, [f"c{index}"], name=f"conv{index}", **attributes))
    nodes.append(helper.make_node(str(rng.choice(["Relu", "Sigmoid", "Neg"])), [f"c{index}"], [y]))
    return y


def add_matmul(rng: np.random.Generator, index: int, nodes: list, inputs: list, weights: list) -> str:
    """A matrix product with constant or computed right side, odd sizes, sometimes a batch."""
    m, k, n = (int(s) for s in rng.integers(1, 70, 3))
    batch = [int(rng.integers(1, 4))] if rng.random() < 0.4 else []
    x, w, y = f"x{index}", f"w{index}", f"y{index}"
    inputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, [*batch, m, k]))
    if rng.random() < 0.6:
        weights.append(numpy_helper.from_array(rng.standard_normal((k, n)).astype(np.float32), w))
    else:
        inputs.append(helper.make_tensor_value_info(w, TensorProto.FLOAT, [*batch, k, n]))
    nodes.append(helper.make_node("MatMul", [x, w], [f"c{index}"], name=f"matmul{index}"))
    nodes.append(helper.make_node("Relu", [f"c{index}"], [y]))
    return y


def random_model(seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    nodes: list = []
    inputs: list = []
    weights: list = []
    outputs = [(add_conv if i % 3 else add_matmul)(rng, i, nodes, inputs, weights) for i in range(LAYERS)]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "layers", inputs, infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize(
    ("target", "seed"),
    [("native", 0), ("x86-64-v2", 1), ("x86-64-v3", 2), ("rk3588", 3), ("raspberry-pi-4", 4)],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_random_layers(target: str, seed: int, threads: int, compiled: dict[str, edgec.Bundle]) -> None:
    import onnxruntime

    model = random_model(seed)
    if target not in compiled:
        compiled[target] = edgec.compile(model, target=target)
    bundle = compiled[target]
    rng = np.random.default_rng(seed + 100)
    sample = {info.name: rng.standard_normal(info.shape).astype(np.float32) for info in bundle.inputs}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, sample)
    need_emulator(bundle)
    with open_runner(bundle, threads=threads) as runner:
        (outputs,) = runner.run([[sample[info.name] for info in bundle.inputs]])
    for info, reference, actual in zip(bundle.outputs, expected, outputs, strict=True):
        result = compare(info.name, reference[None], actual[None], POLICY["float32"])
        assert result.passed, (result, next(n for n in model.graph.node if n.name.endswith(info.name[1:])))


@pytest.fixture(scope="module")
def compiled() -> dict[str, edgec.Bundle]:
    """Bundles by target, compiled once for all thread counts."""
    return {}


def need_emulator(bundle: edgec.Bundle) -> None:
    """Skip where the CPU is foreign and QEMU missing; on CI that is a failure."""
    from edgec.devices.selection import host_arch

    if bundle.arch == host_arch() or shutil.which(f"qemu-{bundle.arch}"):
        return
    message = f"no qemu-{bundle.arch}: apt-get install qemu-user"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
