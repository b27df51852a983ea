"""What is done to weights: moving scales over activations, and rounding them together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgec.frontend import execute
from edgec.passes.quantization import ChannelMoments, InputProducts, MigrateScales, place
from edgec.passes.quantization.round_weights import round_weights

RNG = np.random.default_rng(23)
SPREAD = np.array([0.2, 1.0, 3.0, 12.0], np.float32)
WEIGHTS = {
    # Channels of very different sizes come out of `w`, and go into `v`.
    "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32) * SPREAD[:, None, None, None],
    "b": RNG.normal(size=4).astype(np.float32) * SPREAD,
    "v": RNG.normal(size=(6, 4, 1, 1)).astype(np.float32) / SPREAD[:, None, None],
    "grouped": RNG.normal(size=(6, 2, 1, 1)).astype(np.float32),
    "dw": RNG.normal(size=(4, 1, 3, 3)).astype(np.float32),
    "slope": np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1),
    "factor": np.float32(0.7),
    "offset": np.float32(-0.3),
    "gain": SPREAD,
    "m": RNG.normal(size=(4, 4)).astype(np.float32),
    "p": RNG.normal(size=(4, 5)).astype(np.float32),
    "pt": RNG.normal(size=(5, 4)).astype(np.float32),
    "zeros": np.zeros(1, np.float32),
}
IMAGE, ROWS = (1, 3, 6, 6), (1, 5, 4)
CASES = {
    "relu": (IMAGE, "c = Conv(x, w, b) r = Relu(c) y = Conv(r, v)"),
    "prelu": (IMAGE, "c = Conv(x, w, b) r = PRelu(c, slope) y = Conv(r, v)"),
    "depthwise": (IMAGE, "c = Conv(x, w, b) r = Relu(c) y = Conv<group = 4>(r, dw)"),
    "groups": (IMAGE, "c = Conv(x, w) r = Relu(c) y = Conv<group = 2>(r, grouped)"),
    "two readers": (IMAGE, "c = Conv(x, w, b) r = Relu(c) s = Conv(r, v) t = Conv(r, v) y = Concat<axis = 1>(s, t)"),
    "constants": (IMAGE, "c = Conv(x, w) h = HardSwish(c) s = Mul(h, factor) t = Add(s, offset) y = Conv(t, v)"),
    "layer normalization": (ROWS, "n = LayerNormalization(x, gain, b) y = MatMul(n, p)"),
    "products": (ROWS, "a = MatMul(x, m) s = Add(a, gain) r = Relu(s) y = MatMul(r, p)"),
}
LEFT_ALONE = {
    "clip": (IMAGE, "c = Conv(x, w) r = Clip(c, offset, factor) y = Conv(r, v)"),
    "another reader": (IMAGE, "c = Conv(x, w) r = Relu(c) s = Conv(r, v) y = ReduceMean(r) z = Neg(s)"),
    "an input": (IMAGE, "t = Relu(x) y = Conv(t, w)"),
    "a residual": (IMAGE, "c = Conv(x, w) d = Conv(x, w) s = Add(c, d) y = Conv(s, v)"),
}


def model_of(build, shape: tuple[int, ...], body: str) -> ir.Model:
    rank = ", ".join("ABCD"[: len(shape)])
    outputs = f"float[{rank}] y" + (f", float[{rank}] z" if " z = " in body else "")
    return build(f"g (float[{','.join(map(str, shape))}] x) => ({outputs}) {{ {body} }}", **WEIGHTS)


def moments_of(model: ir.Model, sample: np.ndarray) -> dict[str, ChannelMoments]:
    units = [unit for unit in place(model).units if unit.is_linear]
    found = {str(u.inputs[0].name): ChannelMoments(-1 if u.root.op_type == "MatMul" else 1) for u in units}
    execute(model, {"x": sample}, hook=lambda name, array: found[name].add(array) if name in found else None)
    return found


@pytest.mark.parametrize("name", sorted(CASES))
def test_moving_scales_changes_nothing_but_the_ranges(build, name):
    shape, body = CASES[name]
    model = model_of(build, shape, body)
    sample = RNG.normal(size=shape).astype(np.float32)
    before = moments_of(model, sample)
    expected = execute(model, {"x": sample})["y"]
    result = MigrateScales(before)(model)
    assert result.changes["value"] == 1
    np.testing.assert_allclose(
        execute(model, {"x": sample})["y"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    value = next(name for name in before if name != "x")
    ratios = [
        m[value].largest.max() / m[value].largest[m[value].largest > 0].min()
        for m in (before, moments_of(model, sample))
    ]
    assert ratios[1] < 0.6 * ratios[0]


@pytest.mark.parametrize("name", ["relu", "depthwise", "products"])
def test_equalizing_by_weights(build, name):
    shape, body = CASES[name]
    model = model_of(build, shape, body)
    sample = RNG.normal(size=shape).astype(np.float32)
    expected = execute(model, {"x": sample})["y"]
    assert MigrateScales()(model).modified
    np.testing.assert_allclose(
        execute(model, {"x": sample})["y"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    assert not MigrateScales()(model).modified


@pytest.mark.parametrize("name", sorted(LEFT_ALONE))
def test_scales_stay_where_they_cannot_move(build, name):
    shape, body = LEFT_ALONE[name]
    model = model_of(build, shape, body)
    text = ir.to_proto(model).SerializeToString()
    result = MigrateScales(moments_of(model, RNG.normal(size=shape).astype(np.float32)))(model)
    assert not result.modified and ir.to_proto(model).SerializeToString() == text


def test_moments_are_those_of_all_values():
    array = RNG.normal(size=(3, 4, 5, 6)).astype(np.float32)
    moments = ChannelMoments(1)
    for part in array:
        moments.add(part[None])
    np.testing.assert_allclose(moments.means, array.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moments.mean_squares, np.square(array).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(moments.largest, np.abs(array).max(axis=(0, 2, 3)))
    again = ChannelMoments.from_arrays(moments.to_arrays())
    np.testing.assert_array_equal(again.means, moments.means)


@pytest.mark.parametrize("groups", [1, 2])
def test_rounding_together_lessens_the_error_of_the_outputs(groups):
    outputs, inputs = 8 * groups, 24
    weight = RNG.normal(size=(outputs, inputs)).astype(np.float32)
    scales = (np.abs(weight).max(axis=1) / 127).astype(np.float32)
    mixed = RNG.normal(size=(groups, inputs, inputs // 3))
    data = mixed @ RNG.normal(size=(groups, inputs // 3, 500)) + 0.1 * RNG.normal(size=(groups, inputs, 500))
    products = data @ data.transpose(0, 2, 1)
    steps, found = round_weights(weight, scales, products)
    assert steps.dtype == np.int8 and steps.min() >= -127
    fixed, same = round_weights(weight, scales, products, is_scale_free=False)
    np.testing.assert_array_equal(same, scales)

    def error(integers: np.ndarray, scales: np.ndarray = scales) -> np.ndarray:
        difference = (integers * scales[:, None] - weight).reshape(groups, -1, inputs)
        return np.square(difference @ data).sum(axis=2).reshape(-1)

    nearest = np.rint(weight / scales[:, None])
    assert (error(steps, found) <= error(fixed) * (1 + 1e-6)).all()
    assert (error(fixed) <= error(nearest) * (1 + 1e-6)).all()
    assert error(fixed).sum() < 0.4 * error(nearest).sum()
    assert error(steps, found).sum() < error(fixed).sum()


@pytest.mark.parametrize(
    ("attributes", "weight"),
    [
        ("", (4, 3, 3, 3)),
        ("<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 2]>", (4, 3, 3, 2)),
        ("<group = 3, pads = [1, 1, 1, 1]>", (6, 1, 3, 3)),
    ],
)
def test_input_products_predict_the_outputs_of_a_convolution(build, attributes, weight):
    kernel = RNG.normal(size=weight).astype(np.float32)
    text = f"g (float[1, 3, 7, 8] x) => (float[1, O, H, W] y) {{ y = Conv{attributes}(x, k) }}"
    model = build(text, k=kernel)
    sample = RNG.normal(size=(1, 3, 7, 8)).astype(np.float32)
    products = InputProducts(model.graph[0])
    products.add(sample)
    outputs = execute(model, {"x": sample})["y"]
    rows = kernel.reshape(len(products.sums), -1, products.sums.shape[1])
    expected = np.square(outputs).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(((rows @ products.sums) * rows).sum(axis=2).reshape(-1), expected, rtol=1e-4)


def test_products_about_the_mean_forget_what_all_inputs_have_in_common(build):
    model = build("g (float[1, 30, 4] x) => (float[1, 30, 5] y) { y = MatMul(x, p) }", p=WEIGHTS["p"])
    rows = RNG.normal(size=(1, 30, 4)).astype(np.float32)
    about = [InputProducts(model.graph[0], is_centered=True) for _ in range(2)]
    about[0].add(rows)
    about[1].add(rows + 100)
    expected = 29 * np.cov(rows[0].T)
    for inputs in about:
        np.testing.assert_allclose(inputs.products[0], expected, rtol=1e-3, atol=1e-2)


def test_pools_and_gates_carry_scales_on(build):
    graph = """g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
        c = Conv(x, k) f = HardSwish(c) r = Mul(f, gain) p = GlobalAveragePool(r) s = Conv(p, k) h = HardSigmoid(s)
        g = Mul(r, h) y = Conv(g, k)
    }"""
    kernel = RNG.normal(size=(4, 4, 1, 1)).astype(np.float32)
    model = build(graph, k=kernel, gain=SPREAD[:, None, None])
    sample = {"x": RNG.normal(size=(1, 4, 6, 6)).astype(np.float32)}
    before = execute(model, sample)
    seen: dict[str, ChannelMoments] = {}

    def watch(name: str, array: np.ndarray) -> None:
        if array.ndim == 4:
            seen[name] = ChannelMoments(1)
            seen[name].add(array)

    execute(model, sample, hook=watch)
    MigrateScales(seen)(model)
    inner: dict[str, np.ndarray] = {}
    after = execute(model, sample, hook=lambda name, array: inner.__setitem__(name, array))
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-4, atol=1e-4)
    sizes = np.abs(inner["r"]).max(axis=(0, 2, 3))
    assert sizes.max() / sizes.min() < 0.5 * (seen["r"].largest.max() / seen["r"].largest.min())
