"""Whole quantized networks: every integer of the artifact is that of the engine's execution of the QDQ graph.

Quantized by edgec and by ONNX Runtime, on random samples. Resolutions are reduced where the network allows it, and the
larger networks meet every target and both quantizers, but not all pairs of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

pytest.importorskip("tvm")

import edgec
from edgec import frontend
from edgec.devices import open_runner
from edgec.devices.samples import ordered_inputs
from edgec.engine import no_grad, seed, tensor
from edgec.models import NETWORKS
from edgec.passes import simplify
from tests.conftest import REAL_MODELS
from tests.targets.test_random_kernels import need_emulator

# Noise is noise: networks say nearly the same of all of it.
pytestmark = pytest.mark.filterwarnings("ignore::edgec.quantization.QuantizationWarning")

Sample = dict[str, NDArray[Any]]

SMALLER = {"MobileNetV2": 64, "efficientnet_lite0": 64, "fastestdet": 96}
# Where the artifact runs: an x86-64-v3 CPU has no AVX-512, as the emulated one.
DEVICES = {"native": None, "x86-64-v3": "qemu", "rk3588": "qemu", "raspberry-pi-4": "qemu"}
QUANTIZERS = ("edgec", "onnxruntime")
CASES = [
    *(("mlperf_tiny_resnet8", quantizer, target) for quantizer in QUANTIZERS for target in DEVICES),
    ("MobileNetV2", "edgec", "native"), ("MobileNetV2", "onnxruntime", "x86-64-v3"),
    ("MobileNetV2", "edgec", "rk3588"), ("MobileNetV2", "onnxruntime", "raspberry-pi-4"),
    ("efficientnet_lite0", "onnxruntime", "native"), ("efficientnet_lite0", "edgec", "x86-64-v3"),
    ("efficientnet_lite0", "onnxruntime", "rk3588"), ("efficientnet_lite0", "edgec", "raspberry-pi-4"),
    ("fastestdet", "edgec", "native"), ("fastestdet", "onnxruntime", "x86-64-v3"),
    ("fastestdet", "edgec", "rk3588"), ("fastestdet", "onnxruntime", "raspberry-pi-4"),
]  # fmt: skip


def mobilenet(size: int) -> ir.Model:
    """With statistics of data, without which nothing of the input is left behind so many layers."""
    seed(0)
    network = NETWORKS["MobileNetV2"]().train()
    for module in network.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    images = np.random.default_rng(0).standard_normal((4, 3, size, size)).astype(np.float32)
    with no_grad():
        network(tensor(images))
    return frontend.trace(network.eval(), images[:1], input_names=["image"])


def with_smaller_input(proto: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The same network for images of another size, and the shapes that it reshapes to."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    before = dims[2].dim_value
    dims[2].dim_value = dims[3].dim_value = size
    shapes = {node.input[1] for node in proto.graph.node if node.op_type == "Reshape"}
    for initializer in proto.graph.initializer:
        shape = np.array(numpy_helper.to_array(initializer))
        if initializer.name in shapes and shape.size > 2:
            # (..., height, width), or (channels, groups, pixels)
            shape[-2:] = shape[-2:] * size // before if shape.size > 3 else (shape[-2], -1)
            initializer.CopyFrom(numpy_helper.from_array(shape, initializer.name))
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        for number, dim in enumerate(output.type.tensor_type.shape.dim):
            dim.dim_param = f"size_{number}"
    return proto


@pytest.fixture(scope="module")
def network(data_dir: Path) -> Callable[[str], ir.Model]:
    """A network in float, simplified."""

    @functools.cache
    def load(name: str) -> ir.Model:
        if name in NETWORKS:
            model = mobilenet(SMALLER[name])
        else:
            proto = onnx.load(data_dir / "models" / REAL_MODELS[name][0])
            model = frontend.import_model(with_smaller_input(proto, SMALLER[name]) if name in SMALLER else proto)
        return simplify(model)[0]

    return load


def samples_of(model: ir.Model, count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    (value,) = model.graph.inputs
    pixels = 60 if value.name == "input_1" else 1  # ResNet-8 takes them from 0 to 255
    return [{value.name: (pixels * rng.standard_normal(value.shape.numpy())).astype(np.float32)} for _ in range(count)]


def quantized_by_onnxruntime(model: ir.Model, samples: list[Sample], folder: Path) -> ir.Model:
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined,misc]
        left = iter(samples)

        def get_next(self) -> Sample | None:
            return next(self.left, None)

    ir.save(model, folder / "float.onnx")
    quantization.quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Reader(), quant_format=quantization.QuantFormat.QDQ,
        per_channel=True, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    return frontend.import_model(folder / "int8.onnx")


@pytest.fixture(scope="module")
def quantized(
    network: Callable[[str], ir.Model], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], ir.Model]:
    @functools.cache
    def make(name: str, quantizer: str) -> ir.Model:
        model = network(name)
        samples = samples_of(model, 4)
        if quantizer == "edgec":
            return edgec.quantize(model, samples)
        return quantized_by_onnxruntime(model, samples, tmp_path_factory.mktemp(name))

    return make


def with_integer_outputs(model: ir.Model) -> ir.Model:
    """The model with the integers of all its quantizers as outputs, too."""
    model = model.clone()
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and not node.outputs[0].is_graph_output():
            model.graph.outputs.append(node.outputs[0])
    return model


def assert_exact(model: ir.Model, target: str, assert_close: Callable[..., None]) -> int:
    """Compile and run; returns how many tensors of integers were compared."""
    sample = samples_of(model, 6)[-1]
    expected = frontend.execute(model, sample)
    bundle = edgec.compile(model, target=target, name="net")
    device = DEVICES[target]
    need_emulator(bundle, device)
    with open_runner(bundle, device, threads=2) as runner:
        (outputs,) = runner.run([ordered_inputs(bundle, sample)])
    assert [info.name for info in bundle.outputs] == list(expected)
    makers = {value.name: value.producer() for value in frontend.integer_form(model).graph.outputs}
    for info, actual in zip(bundle.outputs, outputs, strict=True):
        maker = makers[info.name]
        if actual.dtype == np.float32 and (maker is None or maker.op_type != "DequantizeLinear"):
            assert_close(actual, expected[info.name])  # behind a Softmax
        else:
            np.testing.assert_array_equal(actual, expected[info.name], err_msg=info.name, strict=True)
    constant = sum(bool((array == array.flat[0]).all()) for array in expected.values())
    assert constant <= len(expected) / 10, "most tensors say something"
    return sum(array.dtype.kind in "iu" for array in expected.values())


@pytest.mark.parametrize(("name", "quantizer", "target"), CASES)
def test_every_integer_is_that_of_the_engine(
    name: str, quantizer: str, target: str, quantized: Callable[..., ir.Model], assert_close: Callable[..., None]
) -> None:
    model = quantized(name, quantizer)
    layers = sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.graph)
    assert assert_exact(with_integer_outputs(model), target, assert_close) >= layers


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("target", ["native", "rk3588"])
def test_the_artifact_as_shipped(
    target: str, quantizer: str, quantized: Callable[..., ir.Model], assert_close: Callable[..., None]
) -> None:
    """Integers within the graph are free to change their signedness there."""
    assert_exact(quantized("mlperf_tiny_resnet8", quantizer), target, assert_close)
