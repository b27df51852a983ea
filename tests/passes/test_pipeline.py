from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.passes import simplify
from edgec.passes.pipeline import PHASES

# Real model -> its operators before and after.
NODES = {
    "efficientnet_lite0": (450, 94),
    "fastestdet": (211, 171),
    "mlperf_tiny_resnet8": (24, 23),
    "mnist8": (12, 8),
    "squeezenet_fp16": (70, 67),
    "superres10": (12, 10),
    "ultraface_rfb320": (287, 127),
    "yunet_n_320": (115, 109),
    "yunet_n_dynamic": (175, 109),
}


def test_real_models_shrink_and_compute_the_same(model_name, real_model, random_inputs, run_onnxruntime, assert_close):
    model = real_model(model_name)
    before = ir.to_proto(model).SerializeToString()
    smaller, reports = simplify(model)
    assert ir.to_proto(model).SerializeToString() == before
    onnx.checker.check_model(ir.to_proto(smaller), full_check=True)
    assert all(value.shape is not None and value.shape.is_static() for node in smaller.graph for value in node.outputs)
    assert (len(model.graph), len(smaller.graph)) == NODES[model_name]
    assert reports[0].nodes_before == len(model.graph)
    assert reports[-1].nodes_after == len(smaller.graph)
    for left, right in ((model.graph.inputs, smaller.graph.inputs), (model.graph.outputs, smaller.graph.outputs)):
        assert [(v.name, v.dtype, v.shape) for v in left] == [(v.name, v.dtype, v.shape) for v in right]
    inputs = random_inputs(model)
    actual, expected = run_onnxruntime(smaller, inputs), run_onnxruntime(model, inputs)
    for name, array in expected.items():
        assert_close(actual[name], array, relative=2e-2 if array.dtype == np.float16 else 1e-4)
    again, second = simplify(smaller)
    assert [report.details for report in second if report.changed] == []
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(smaller).SerializeToString()


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: type(phase).__name__)
def test_phases_change_nothing_the_second_time(phase, real_model):
    for name in ("efficientnet_lite0", "ultraface_rfb320", "mnist8"):
        model = real_model(name).clone()
        phase(model)
        assert not phase(model).modified


def test_subgraphs_that_answer_constant_questions_vanish(real_model):
    gone = {"Pad", "Shape", "Gather", "Unsqueeze", "ConstantOfShape", "Constant", "Slice", "Cast", "BatchNormalization"}
    smaller, _ = simplify(real_model("efficientnet_lite0"))
    assert not gone & {node.op_type for node in smaller.graph}
    smaller, _ = simplify(real_model("ultraface_rfb320"))
    assert not (gone - {"Slice"}) & {node.op_type for node in smaller.graph}


def test_the_dump_sees_every_phase(real_model):
    seen = []
    _, reports = simplify(
        real_model("mnist8"), dump=lambda index, name, model: seen.append((index, name, len(model.graph)))
    )
    assert seen == [(index, report.name, report.nodes_after) for index, report in enumerate(reports)]
    assert str(reports[0]) == "FoldConstants: 12 → 11 nodes (Reshape ×1)"


def test_phases_work_together(build, operators, run_onnxruntime, assert_close):
    rng = np.random.default_rng(0)
    model = build(
        """g (float[1, 2, 8, 8] x) => (float[1, 48] y, int64[4] s) {
        p = Pad(x, pads)
        c = Conv(p, w)
        n = BatchNormalization(c, one, zero, zero, one)
        a = Add(n, bias)
        r = Relu(a)
        q = Min(r, six)
        d = Dropout(q)
        m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)
        s = Shape(m)
        y = Flatten(m)
    }""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        w=rng.normal(size=(3, 2, 3, 3)).astype(np.float32),
        one=np.ones(3, np.float32),
        zero=np.zeros(3, np.float32),
        bias=np.ones((3, 1, 1), np.float32),
        six=np.array(6, np.float32),
    )
    inputs = {"x": rng.normal(size=(1, 2, 8, 8)).astype(np.float32)}
    smaller, _ = simplify(model)
    assert operators(smaller) == ["Conv", "Clip", "MaxPool", "Shape", "Flatten"]
    expected, actual = run_onnxruntime(model, inputs), run_onnxruntime(smaller, inputs)
    for name, array in expected.items():
        assert_close(actual[name], array)
