"""Views of tensors through operators that move axes, against the operators themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

pytest.importorskip("tvm")

from edgec.frontend import execute
from edgec.targets.lowering.array_views import MOVEMENTS, view_of

SPLIT = "a = Reshape (x, split) b = Transpose <perm = [0, 2, 1, 3]> (a)"
# ONNX text from x to y, and how many of its nodes are seen through.
CHAINS = {
    "float[2, 6, 4] x": {
        "a = Transpose <perm = [1, 0, 2]> (x) y = Identity (a)": 0,
        "y = Transpose <perm = [1, 2, 0]> (x)": 1,
        "y = Transpose (x)": 1,
        f"{SPLIT} c = Reshape (b, flat) y = Reshape (c, apart)": 4,
        f"{SPLIT} c = Reshape (b, flat) y = Unsqueeze (c, one)": 2,
        "a = Unsqueeze (x, one) b = Squeeze (a, one) y = Transpose <perm = [2, 0, 1]> (b)": 3,
        "a = Transpose <perm = [1, 0, 2]> (x) y = Reshape (a, flat)": 0,
        "a = Transpose <perm = [1, 0, 2]> (x) b = Reshape (a, five) y = Reshape (b, three)": 3,
    },
    "float[6, 1, 4] x": {
        "y = Expand (x, wide)": 1,
        "a = Expand (x, images) y = Transpose <perm = [0, 2, 1, 3]> (a)": 2,
        "a = Expand (x, wide) y = Reshape (a, joined)": 1,
    },
    "float[4] x": {"y = Expand (x, row)": 1},
}
SHAPES = {
    "split": [2, 3, 2, 4], "flat": [4, 3, 4], "apart": [2, 2, 3, 4], "one": [0], "five": [3, 2, 2, 2, 2],
    "three": [6, 2, 4], "wide": [6, 5, 4], "images": [2, 6, 1, 4], "joined": [30, 4], "row": [1, 1, 3, 4],
}  # fmt: skip
ROWS = [(source, chain, seen) for source, chains in CHAINS.items() for chain, seen in chains.items()]


@pytest.mark.parametrize(("source", "chain", "seen"), ROWS)
def test_shows_what_the_operators_make(source: str, chain: str, seen: int) -> None:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 22]> g ({source}) => (float[N] y) {{ {chain} }}'
    )
    for name, shape in SHAPES.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), name))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    value = model.graph.outputs[0]
    view = view_of(value, MOVEMENTS | {"Expand"})
    assert view is not None
    behind, tensor = 0, value
    while tensor is not view.tensor:
        node = tensor.producer()
        assert node is not None and node.inputs[0] is not None
        behind, tensor = behind + 1, node.inputs[0]
    assert behind == seen
    (x,) = model.graph.inputs
    data = np.arange(np.prod(x.shape.numpy()), dtype=np.float32).reshape(x.shape.numpy())  # type: ignore[union-attr]
    expected = execute(model, {"x": data})["y"]
    shown = view.of_constant(data if view.tensor is x else expected)
    np.testing.assert_array_equal(
        np.broadcast_to(shown, (*[1] * (4 - expected.ndim), *expected.shape)).ravel(), expected.ravel()
    )
