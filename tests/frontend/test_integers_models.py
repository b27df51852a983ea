"""Models that ONNX Runtime has quantized, in integers."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from edgec.engine import to_tensor
from edgec.frontend import execute, import_model, integer_form
from edgec.frontend.executor import run_node
from tests.frontend.quantized_graphs import operators, random_inputs_of, scales_of_quantizers, with_integer_outputs

VARIANTS = {
    "uint8_per_channel": (QuantType.QUInt8, QuantType.QInt8, True),
    "uint8_per_tensor": (QuantType.QUInt8, QuantType.QInt8, False),
    "int8_per_channel": (QuantType.QInt8, QuantType.QInt8, True),
    "uint8_weights": (QuantType.QUInt8, QuantType.QUInt8, False),
}
CASES = [*(("mlperf_tiny_resnet8", variant) for variant in VARIANTS), ("yunet_n_dynamic", "uint8_per_channel")]


class Samples(CalibrationDataReader):
    """Four random inputs."""

    def __init__(self, model: ir.Model) -> None:
        self._samples = iter([random_inputs_of(model, seed) for seed in range(4)])

    def get_next(self):
        return next(self._samples, None)


@pytest.fixture(scope="module")
def quantized(real_model, tmp_path_factory):
    """Quantizes a real model; returns it as imported, and the integers that ONNX Runtime's literal execution makes."""

    @functools.cache
    def make(name, variant):
        folder = tmp_path_factory.mktemp("quantized")
        activations, weights, is_per_channel = VARIANTS[variant]
        model = real_model(name)
        ir.save(model, folder / "float.onnx")
        quantize_static(
            folder / "float.onnx", folder / "int8.onnx", Samples(model), quant_format=QuantFormat.QDQ,
            per_channel=is_per_channel, activation_type=activations, weight_type=weights,
        )  # fmt: skip
        imported = import_model(folder / "int8.onnx")
        inputs = random_inputs_of(imported, seed=9)
        return imported, inputs, integers_in_onnxruntime(imported, inputs)

    return make


def integers_in_onnxruntime(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = with_integer_outputs(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_nothing_that_can_be_computed_with_integers_stays_in_float(name, variant, quantized):
    model, _, _ = quantized(name, variant)
    form = integer_form(model)
    counts = operators(form)
    assert not {"AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Relu", "Sigmoid"} & set(counts)
    assert counts["ConvInteger"] == operators(model)["Conv"] > 0
    floats = {"MaxPool", "Resize", "Reshape", "Transpose", "Concat"}
    assert not any(node.inputs[0].dtype == ir.DataType.FLOAT for node in form.graph if node.op_type in floats)
    # The input is quantized by its own scale, and so is what a Softmax makes.
    assert sum(scale != 1 for scale in scales_of_quantizers(form)) <= 2
    onnx.checker.check_model(ir.to_proto(form), full_check=True)
    assert operators(integer_form(form)) == counts


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_layer_agrees_with_onnxruntime(name, variant, quantized):
    """Given ONNX Runtime's own integers, each layer makes the next ones; else one that is off would go on and on."""
    model, inputs, expected = quantized(name, variant)
    form = integer_form(model)
    values = {value: inputs[value.name] for value in form.graph.inputs}
    values.update((value, value.const_value.numpy()) for value in form.graph.initializers.values())
    compared = off = count = 0
    for node in form.graph:
        results = run_node(node, [None if value is None else to_tensor(values[value]) for value in node.inputs])
        for value, result in zip(node.outputs, results, strict=True):
            values[value] = result.data
            reference = expected.get(value.name)
            if reference is None or reference.dtype.kind not in "iu":
                continue
            difference = np.abs(result.data.astype(int) - reference.astype(int))
            if node.op_type == "Gather":  # a table; ONNX Runtime's Sigmoid is off by 8e-8, and a step here is 5e-8
                difference = np.maximum(difference - 1, 0)
            assert difference.max() <= 1, value.name
            values[value] = reference
            compared, off, count = compared + 1, off + int(difference.sum()), count + difference.size
    assert compared >= 0.9 * sum(array.dtype.kind in "iu" for array in expected.values())
    assert off <= 1e-4 * count


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_form_gives_the_same_integers_in_onnxruntime(name, variant, quantized):
    model, inputs, _ = quantized(name, variant)
    form = integer_form(model)
    seen = {}
    execute(form, inputs, hook=lambda key, array: seen.update({key: array}))
    actual = integers_in_onnxruntime(form, inputs)
    integers = [key for key, array in actual.items() if array.dtype.kind in "iu"]
    assert any(actual[key].dtype == np.int32 for key in integers)
    for key in integers:
        np.testing.assert_array_equal(actual[key], seen[key], err_msg=key)
