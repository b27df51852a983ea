from __future__ import annotations

import numpy as np
import pytest

from edgec.frontend import execute
from edgec.passes import ResolvePadding

W = np.random.default_rng(1).normal(size=(2, 2, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
@pytest.mark.parametrize(
    "operator",
    [
        'Conv<auto_pad = "{mode}", strides = {strides}>(x, w)',
        'MaxPool<auto_pad = "{mode}", strides = {strides}, kernel_shape = [3, 2]>(x)',
        'AveragePool<auto_pad = "{mode}", strides = {strides}, kernel_shape = [3, 2]>(x)',
        'AveragePool<auto_pad = "{mode}", strides = {strides}, kernel_shape = [3, 2], count_include_pad = 1>(x)',
    ],
)
def test_names_become_numbers(build, apply_pass, mode, strides, operator):
    body = operator.format(mode=mode, strides=strides)
    constants = {"w": W} if "w)" in body else {}
    model = build(f"g (float[1, 2, 7, 8] x) => (float[] y) {{ y = {body} }}", **constants)
    result = apply_pass(ResolvePadding(), model)
    assert result.changes == {f"{mode} of {model.graph.node(0).op_type}": 1}
    assert "auto_pad" not in model.graph.node(0).attributes


def test_dilated_windows(build, assert_close):
    model = build(
        'g (float[1, 2, 9, 8] x) => (float[] y) { y = Conv<auto_pad = "SAME_UPPER", dilations = [2, 3]>(x, w) }', w=W
    )
    image = np.random.default_rng(2).normal(size=(1, 2, 9, 8)).astype(np.float32)
    before = execute(model, [image])["y"]  # ONNX Runtime does not have this combination
    ResolvePadding()(model)
    assert list(model.graph.node(0).attributes["pads"].as_ints()) == [2, 1, 2, 2]
    assert_close(execute(model, [image])["y"], before)
