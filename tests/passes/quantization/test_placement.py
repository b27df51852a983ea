"""What is rounded in small graphs, and that the quantized graphs compute in ONNX Runtime what they do in the engine."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.frontend import execute
from edgec.passes import simplify
from edgec.passes.quantization import Histogram, InsertPairs, find_range, nodes_named, place, share_encodings

RNG = np.random.default_rng(17)
WEIGHTS = {
    "w": RNG.normal(size=(4, 4, 3, 3)).astype(np.float32) / 5,
    "w1": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32) / 2,
    "w2": RNG.normal(size=(4, 8, 1, 1)).astype(np.float32) / 2,
    "dw": RNG.normal(size=(4, 1, 3, 3)).astype(np.float32) / 3,
    "up": RNG.normal(size=(4, 2, 2, 2)).astype(np.float32) / 2,
    "b": RNG.normal(size=4).astype(np.float32),
    "m": RNG.normal(size=(6, 6)).astype(np.float32) / 2,
    "mb": RNG.normal(size=6).astype(np.float32),
    "zero": np.float32(0),
    "six": np.float32(6),
    "twos": np.array([1, 1, 2, 2], np.float32),
    "flat": np.array([1, -1]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "starts": np.array([0]),
    "ends": np.array([2]),
    "axes": np.array([1]),
}
PAD3 = "<pads = [1, 1, 1, 1]>"

# Graphs of x (1, 4, 6, 6) or (1, 5, 6), and the values that are rounded in them.
CASES: dict[str, tuple[str, set[str]]] = {
    "ReLU in registers": (f"c = Conv{PAD3}(x, w, b) r = Relu(c) y = Conv{PAD3}(r, w)", {"x", "r"}),
    "residual": (
        f"a = Conv{PAD3}(x, w, b) r = Relu(a) c = Conv{PAD3}(r, w) s = Add(c, r) t = Relu(s) y = Conv(t, w1)",
        {"x", "r", "t"},
    ),
    "two convolutions meet": (
        f"a = Conv{PAD3}(x, w, b) c = Conv(x, w1) s = Add(a, c) t = Relu(s) y = Conv(t, w1)",
        {"x", "a", "t"},
    ),
    "hard gate": (
        f"c = Conv{PAD3}(x, w, b) h = HardSigmoid<alpha = 0.2>(c) g = Mul(c, h) y = Conv(g, w1)",
        {"x", "g"},
    ),
    "swish is a table": (
        f"c = Conv{PAD3}(x, w, b) h = Sigmoid(c) g = Mul(c, h) y = Conv(g, w1)",
        {"x", "c", "g"},
    ),
    "sigmoid at the end stays in float": (f"c = Conv{PAD3}(x, w, b) y = Sigmoid(c)", {"x"}),
    "concatenation": (
        "a = Conv(x, w1, b) c = Conv(x, w1) d = Concat<axis = 1>(a, c) y = Conv(d, w2)",
        {"x", "a", "c", "d"},
    ),
    "pool and pad": (
        'a = Conv(x, w1, b) p = MaxPool<kernel_shape = [2, 2]>(a) q = Pad<mode = "reflect">(p, pads) y = Conv(q, w)',
        {"x", "a", "p", "q"},
    ),
    "mean": ("a = Conv(x, w1, b) p = GlobalAveragePool(a) y = Conv(p, w1)", {"x", "a", "p"}),
    "squeeze and excite": (
        f"a = Conv{PAD3}(x, w, b) r = Relu(a) p = GlobalAveragePool(r) c = Conv(p, w1, b) h = HardSigmoid(c)"
        " g = Mul(r, h) y = Conv(g, w1)",
        {"x", "r", "p", "h", "g"},
    ),
    "resize": ('a = Conv(x, w1, b) u = Resize<mode = "nearest">(a, , twos) y = Conv(u, w1)', {"x", "a", "u"}),
    "depthwise": (
        "a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, dw, b) r = Clip(a, zero, six) y = Conv(r, w1)",
        {"x", "r"},
    ),
    "grouped transposed convolution": (
        "a = ConvTranspose<group = 2, strides = [2, 2]>(x, up, b) y = Conv(a, w1)",
        {"x", "a"},
    ),
    "float between": (
        "a = Conv(x, w1, b) n = InstanceNormalization(a, b, b) y = Conv(n, w1)",
        {"x", "n"},
    ),
    "softmax at the end": (f"c = Conv{PAD3}(x, w, b) y = Softmax<axis = 1>(c)", {"x"}),
    "an output that is read on": (f"y = Conv{PAD3}(x, w, b) z = Conv(y, w1)", {"x", "y"}),
    "movement before the first": ("t = Transpose<perm = [0, 1, 3, 2]>(x) y = Conv(t, w1, b)", {"x", "t"}),
    "arithmetic before the first": ("t = Mul(x, six) y = Conv(t, w1, b)", {"t"}),
    "split": (
        "a = Conv(x, w1, b) p, q = Split<axis = 1, num_outputs = 2>(a) d = Concat<axis = 1>(q, p) y = Conv(d, w1)",
        {"x", "a", "p", "q", "d"},
    ),
}
ROWS: dict[str, tuple[str, set[str]]] = {
    "product with its bias": ("p = MatMul(x, m) s = Add(p, mb) r = Relu(s) y = MatMul(r, m)", {"x", "r"}),
    "residual stream in float": (
        "n = LayerNormalization(x, mb, mb) p = MatMul(n, m) s = Add(p, mb) r = Add(x, s)"
        " y = LayerNormalization(r, mb, mb)",
        {"n"},
    ),
    "gelu is a table": ("p = MatMul(x, m) s = Add(p, mb) g = Gelu(s) y = MatMul(g, m)", {"x", "s", "g"}),
    "two activations": ("t = Transpose<perm = [0, 2, 1]>(x) a = MatMul(x, t) y = MatMul(a, x)", set()),
}


def graph_text(body: str, shape: str) -> str:
    outputs = "float[N, C, H, W] y" if shape.count(",") == 3 else "float[N, C, H] y"
    if " z = " in body:
        outputs += ", float[N, C, H, W] z"
    return f"g (float[{shape}] x) => ({outputs}) {{ {body} }}"


def quantized(model: ir.Model, samples: list[np.ndarray], **options: object) -> tuple[ir.Model, set[str]]:
    """The simplified model, quantized by the ranges of samples; and what is rounded in it."""
    simplified, _ = simplify(model)
    placement = place(simplified, nodes_named(options.pop("keep_float", ()), simplified))
    histograms = {str(value.name): Histogram() for value in placement.rounded}
    for sample in samples:
        execute(simplified, {"x": sample}, hook=lambda n, a: histograms[n].add(a) if n in histograms else None)
    ranges = {name: find_range(histogram, "minmax") for name, histogram in histograms.items()}
    result = InsertPairs(share_encodings(placement, ranges, **options))(simplified)
    assert result.modified == bool(histograms)
    return simplified, set(histograms)


def samples_of(shape: tuple[int, ...]) -> list[np.ndarray]:
    return [RNG.normal(size=shape).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("name", sorted({**CASES, **ROWS}))
def test_rounded_values(build, run_onnxruntime, name):
    body, expected = {**CASES, **ROWS}[name]
    shape = (1, 4, 6, 6) if name in CASES else (1, 5, 6)
    model = build(graph_text(body, ",".join(map(str, shape))), **WEIGHTS)
    samples = samples_of(shape)
    made, rounded = quantized(model, samples)
    assert rounded == expected
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    assert [v.name for v in made.graph.outputs] == [v.name for v in model.graph.outputs]
    # Idempotent: what is quantized already is left alone.
    assert not InsertPairs({})(made).modified
    assert ir.to_proto(made).SerializeToString() == proto.SerializeToString()
    for sample in samples:
        ours, theirs = execute(made, {"x": sample}), run_onnxruntime(made, {"x": sample})
        exact = execute(model, {"x": sample})
        for output, array in theirs.items():
            # A sum that lies between two steps may be rounded to either.
            assert np.abs(ours[output] - array).max() <= 0.05 * np.abs(array).max()
            assert np.mean(np.abs(ours[output] - array) > 1e-4 * np.abs(array).max()) < 0.1
            noise = np.square(exact[output] - ours[output]).sum() / np.square(exact[output]).sum()
            assert noise < 0.01, name


def initializer(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def encoding_of(model: ir.Model, value: str) -> tuple[float, int]:
    return float(initializer(model, f"{value}_scale")), int(initializer(model, f"{value}_zero_point"))


def test_weights_are_symmetric_per_channel_and_the_bias_has_the_products_scale(build):
    model = build(graph_text(f"c = Conv{PAD3}(x, w, b) y = Conv(c, w1)", "1,4,6,6"), **WEIGHTS)
    made, _ = quantized(model, samples_of((1, 4, 6, 6)))
    node = next(node for node in made.graph if node.op_type == "Conv")
    weight, bias = (value.producer() for value in node.inputs[1:])
    scales = np.abs(WEIGHTS["w"]).max(axis=(1, 2, 3)) / np.float32(127)
    np.testing.assert_allclose(weight.inputs[1].const_value.numpy(), scales, rtol=1e-6)
    integers = weight.inputs[0].const_value.numpy()
    assert integers.dtype == np.int8 and weight.attributes["axis"].as_int() == 0
    np.testing.assert_array_equal(integers, np.rint(WEIGHTS["w"] / scales[:, None, None, None]))
    assert bias.inputs[0].const_value.numpy().dtype == np.int32
    input_scale, _ = encoding_of(made, "x")
    np.testing.assert_array_equal(bias.inputs[1].const_value.numpy(), np.float32(input_scale) * scales)
    np.testing.assert_allclose(
        bias.inputs[0].const_value.numpy() * np.float64(input_scale) * scales,
        WEIGHTS["b"],
        atol=input_scale * scales.max(),
    )
    assert not bias.inputs[2].const_value.numpy().any() and not weight.inputs[2].const_value.numpy().any()


def test_a_gemm_is_quantized_along_its_outputs(build, run_onnxruntime):
    text = "g (float[1, 6] x) => (float[1, 4] y) {y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)}"
    weight = RNG.normal(size=(4, 6)).astype(np.float32)
    model = build(text, w=weight, b=WEIGHTS["b"])
    made, _ = quantized(model, samples_of((1, 6)))
    node = next(node for node in made.graph if node.op_type == "Gemm")
    assert not {"alpha", "beta", "transB"} & set(node.attributes)
    assert node.inputs[1].producer().attributes["axis"].as_int() == 1
    sample = samples_of((1, 6))[0] / 2
    expected = 0.5 * sample @ weight.T + 2 * WEIGHTS["b"]
    np.testing.assert_allclose(run_onnxruntime(made, {"x": sample})["y"], expected, atol=0.05)


def test_a_channel_without_weights_keeps_its_bias(build, run_onnxruntime):
    weight = WEIGHTS["w1"].copy()
    weight[1] = 0
    weight[2] *= 1e-9
    model = build(graph_text("y = Conv(x, w1, b)", "1,4,6,6"), **{**WEIGHTS, "w1": weight})
    made, _ = quantized(model, samples_of((1, 4, 6, 6)))
    result = run_onnxruntime(made, {"x": samples_of((1, 4, 6, 6))[0]})["y"]
    np.testing.assert_allclose(result[0, 1:3].mean(axis=(1, 2)), WEIGHTS["b"][1:3], atol=1e-5)


@pytest.mark.parametrize(("name", "values"), [("pool and pad", "apq"), ("resize", "au"), ("split", "apqd")])
def test_what_moves_integers_keeps_their_encoding(build, name, values):
    made, _ = quantized(build(graph_text(CASES[name][0], "1,4,6,6"), **WEIGHTS), samples_of((1, 4, 6, 6)))
    assert len({encoding_of(made, value) for value in values}) == 1


def test_parts_of_a_concatenation_share_its_encoding_where_that_costs_little(build):
    body = (
        "a = Conv(x, w1, b) c = Conv(x, {other}) d = Concat<axis = 1>(a, c)"
        " e = Conv(c, w1) f = Conv(d, w2) y = Add(e, f)"
    )
    samples = samples_of((1, 4, 6, 6))
    alike, _ = quantized(build(graph_text(body.format(other="w1"), "1,4,6,6"), **WEIGHTS), samples)
    assert encoding_of(alike, "a") == encoding_of(alike, "d")
    small = {**WEIGHTS, "small": WEIGHTS["w1"] / 50}
    apart, _ = quantized(build(graph_text(body.format(other="small"), "1,4,6,6"), **small), samples)
    assert encoding_of(apart, "a") == encoding_of(apart, "d")  # read by nothing else
    assert encoding_of(apart, "c")[0] < encoding_of(apart, "d")[0] / 10  # also read by a convolution


def test_kept_in_float(build):
    body = CASES["residual"][0]
    model, _ = simplify(build(graph_text(body, "1,4,6,6"), **WEIGHTS))
    names = [node.name for node in model.graph]
    third = [node for node in model.graph if node.op_type == "Conv"][2]
    everything = place(model)
    assert [unit.is_linear for unit in everything.units] == [True] * 3 and not everything.kept
    without = place(model, [third])
    assert {value.name for value in without.rounded} == {"x", "r"}
    assert without.kept == {third.name: "as you asked"}
    assert {value.name for value in place(model, nodes_named(["Add"], model)).rounded} == {"x", "r", "t"}
    assert [node.name for node in nodes_named(["*"], model)] == names
    assert nodes_named(["t"], model)[0].op_type == "Relu"


def test_reasons_for_float(build):
    text = (
        "g (float[4, 6] x, float[6, 6] v) => (float[4, 6] y, float[6, 6] z, float[4, 6] t)"
        " { y = MatMul(x, v) z = Gemm<transA = 1>(x, x) t = MatMul(x, n) }"
    )
    kept = place(build(text, n=np.full((6, 6), np.nan, np.float32))).kept
    assert sorted(kept.values()) == [
        "its weights are not constant", "its weights are not constant", "its weights are not finite",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_types_and_symmetry(build, run_onnxruntime, dtype, symmetric):
    model = build(graph_text(CASES["residual"][0], "1,4,6,6"), **WEIGHTS)
    samples = samples_of((1, 4, 6, 6))
    made, _ = quantized(model, samples, dtype=dtype, symmetric=symmetric)
    zeros = [n.inputs[2].const_value.numpy() for n in made.graph if n.op_type == "QuantizeLinear"]
    assert {zero.dtype.name for zero in zeros} == {dtype}
    if symmetric:
        assert {int(zero) for zero in zeros} == {128 if dtype == "uint8" else 0}
    actual, exact = run_onnxruntime(made, {"x": samples[0]})["y"], execute(model, {"x": samples[0]})["y"]
    assert np.square(actual - exact).sum() < 0.01 * np.square(exact).sum()
