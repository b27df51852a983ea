"""Winograd convolution: its matrices, its rounding, its choice, and its kernels against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec
from edgec.devices import open_runner
from edgec.devices.selection import host_arch
from edgec.parity import POLICY, compare
from edgec.targets.lowering import winograd

# Batch, channels in and out, image, pads, groups: partial tiles and blocks, one row, one pixel, pads beyond the window,
# groups that are merged to fill a block, the last one with others or alone.
LAYERS = [
    (1, 16, 16, (8, 8), (1, 1, 1, 1), 1),
    (2, 9, 5, (7, 13), (1, 1, 1, 1), 1),
    (1, 33, 40, (3, 3), (0, 0, 0, 0), 1),
    (3, 20, 17, (1, 19), (1, 0, 1, 0), 1),
    (1, 24, 31, (1, 1), (1, 1, 1, 1), 1),
    (1, 48, 24, (10, 6), (3, 4, 0, 2), 1),
    (1, 17, 64, (22, 9), (2, 0, 1, 5), 1),
    (1, 64, 32, (6, 9), (1, 1, 1, 1), 2),
    (1, 104, 104, (5, 8), (1, 1, 1, 1), 13),
    (2, 20, 40, (7, 7), (1, 0, 0, 1), 5),
]


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_compute_a_correlation(m: int) -> None:
    back, window, forward = winograd.matrices(m)
    rng = np.random.default_rng(0)
    w, d = rng.standard_normal(3), rng.standard_normal(m + 2)
    np.testing.assert_allclose(back @ ((window @ w) * (forward @ d)), np.correlate(d, w), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m", "times_direct"), [(2, 1.2), (4, 3.5)])
def test_rounding_is_near_that_of_direct_convolution(m: int, times_direct: float) -> None:
    """Root mean square error over 256 channels in float32, both against float64."""
    back, window, forward = winograd.matrices(m)
    rng = np.random.default_rng(1)
    d = np.maximum(rng.standard_normal((64, 256, m + 2, m + 2)), 0).astype(np.float32)
    w = rng.standard_normal((256, 3, 3)).astype(np.float32)
    exact, direct = np.zeros((64, m, m)), np.zeros((64, m, m), np.float32)
    for y in range(3):
        for x in range(3):
            exact += np.einsum("tcyx,c->tyx", d[:, :, y : y + m, x : x + m].astype(np.float64), w[:, y, x])
    points = (window @ w.astype(np.float64) @ window.T).astype(np.float32)
    transformed = forward.astype(np.float32) @ d @ forward.T.astype(np.float32)
    product = np.zeros((64, m + 2, m + 2), np.float32)
    for c in range(256):
        product += transformed[:, c] * points[c]
        for y in range(3):
            for x in range(3):
                direct += d[:, c, y : y + m, x : x + m] * w[c, y, x]
    result = back.astype(np.float32) @ product @ back.T.astype(np.float32)
    error, direct_error = (np.sqrt(np.mean((value - exact) ** 2)) for value in (result, direct))
    assert error < times_direct * direct_error


def test_it_is_taken_where_it_is_cheaper() -> None:
    def best(blocks: int, size: int) -> int | None:
        return winograd.best_tile(1, blocks, blocks, size, size, 16, 4)

    assert best(4, 56) == 4
    assert best(16, 14) == 2  # the weights of 4 × 4 would take longer to come than to multiply
    assert best(32, 7) is None
    assert winograd.best_tile(1, 8, 1, 1, 1, 16, 4) is None  # fifteen of sixteen results would be thrown away


def model_of(layers: list[tuple[int, int, int, tuple[int, int], tuple[int, ...], int]]) -> onnx.ModelProto:
    """All layers side by side, each with a bias, a residual and a ReLU."""
    rng = np.random.default_rng(0)
    inputs, nodes, weights, outputs = [], [], [], []
    for i, (n, c, o, (h, w), pads, group) in enumerate(layers):
        out = [n, o, h + pads[0] + pads[2] - 2, w + pads[1] + pads[3] - 2]
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [n, c, h, w]))
        inputs.append(helper.make_tensor_value_info(f"r{i}", TensorProto.FLOAT, out))
        weights.append(numpy_helper.from_array(rng.standard_normal((o, c // group, 3, 3)).astype(np.float32), f"w{i}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(o).astype(np.float32), f"b{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}", f"b{i}"], [f"c{i}"], pads=list(pads), group=group))
        nodes.append(helper.make_node("Add", [f"c{i}", f"r{i}"], [f"a{i}"]))
        nodes.append(helper.make_node("Relu", [f"a{i}"], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, out))
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize(
    ("target", "m", "kernels"),
    [("native", 2, 2), ("native", 4, 1), ("native", 4, 2), ("x86-64-v3", 4, 1), ("x86-64-v2", 2, 2)],
)
def test_kernels(target: str, m: int, kernels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the transform of the input as a kernel of its own, and as a part of the other."""
    import onnxruntime

    if kernels == 1:
        monkeypatch.setattr(winograd, "_KEPT_INPUT_BYTES", 0)

    if host_arch() != "x86_64" and target != "native":
        pytest.skip("needs an x86-64 CPU")
    monkeypatch.setattr(winograd, "best_tile", lambda *_: m)
    model = model_of(LAYERS)
    bundle = edgec.compile(model, target=target)
    rng = np.random.default_rng(1)
    sample = {info.name: rng.standard_normal(info.shape).astype(np.float32) for info in bundle.inputs}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, sample)
    for threads in (1, 2):
        with open_runner(bundle, threads=threads) as runner:
            (outputs,) = runner.run([[sample[info.name] for info in bundle.inputs]])
        for info, reference, actual in zip(bundle.outputs, expected, outputs, strict=True):
            result = compare(info.name, reference[None], actual[None], POLICY["float32"])
            assert result.passed, result
