from __future__ import annotations

import numpy as np
import pytest

from edgec.passes import FoldPadding

W = np.random.default_rng(1).normal(size=(2, 2, 3, 3)).astype(np.float32)
PADS = np.array([0, 0, 1, 0, 0, 0, 1, 2])


def test_zeros_into_conv(build, apply_pass, operators):
    model = build(
        "g (float[1, 2, 5, 5] x) => (float[1, 2, h, v] y) { a = Pad(x, p) y = Conv<pads = [1, 0, 1, 0]>(a, w) }",
        p=PADS,
        w=W,
    )
    apply_pass(FoldPadding(), model)
    assert operators(model) == ["Conv"]
    assert list(model.graph.node(0).attributes["pads"].as_ints()) == [2, 0, 2, 2]


def test_axes_of_pad(build, apply_pass, operators):
    model = build(
        "g (float[1, 2, 5, 5] x) => (float[1, 2, h, v] y) <int64[2] p = {1, 2}, int64[1] axes = {-1}, float zero = {0}>"
        '{ a = Pad(x, p, zero, axes) y = Conv<auto_pad = "VALID">(a, w) }',
        w=W,
    )
    apply_pass(FoldPadding(), model)
    assert operators(model) == ["Conv"]
    assert list(model.graph.node(0).attributes["pads"].as_ints()) == [0, 1, 0, 2]


def test_a_pad_read_twice_goes_into_both(build, apply_pass, operators):
    model = build(
        "g (float[1, 2, 5, 5] x) => (float[1, 2, h, v] y, float[1, 2, h, v] z)"
        "{ a = Pad(x, p) y = Conv(a, w) z = Conv(a, w) }",
        p=PADS,
        w=W,
    )
    apply_pass(FoldPadding(), model)
    assert operators(model) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("pad", "conv", "why"),
    [
        ('Pad<mode = "reflect">(x, p)', "Conv(a, w)", "it is not constant, or pads more than the spatial axes"),
        ("Pad(x, p, one)", "Conv(a, w)", "it pads with 1, Conv with 0"),
        ("Pad(x, channels)", "Conv(a, w4)", "it is not constant, or pads more than the spatial axes"),
        ("Pad(x, negative)", "Conv(a, w)", "it is not constant, or pads more than the spatial axes"),
        ("Pad(x, p)", 'Conv<auto_pad = "SAME_UPPER">(a, w)', "auto_pad is SAME_UPPER"),
        (
            "Pad(x, p)",
            "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a)",
            "the average leaves the pool's own padding out, and must count this one",
        ),
        ("Pad(x, p)", "AveragePool<kernel_shape = [3, 3], ceil_mode = 1, strides = [2, 2]>(a)", "ceil_mode is set"),
        ("Pad(x, p)", "AveragePool<kernel_shape = [2, 2]>(a)", "the padding is as large as the window"),
        (
            "Pad(x, p)",
            "MaxPool<kernel_shape = [3, 3]>(a)",
            "a value that it pads with may be greater than the values beside it",
        ),
    ],
)
def test_what_is_refused(build, pad, conv, why):
    model = build(
        f"g (float[1, 2, 5, 5] x) => (float[1, 2, h, v] y) <float one = {{1}}> {{ a = {pad} y = {conv} }}",
        p=PADS,
        channels=np.array([0, 1, 0, 0, 0, 1, 0, 0]),
        negative=np.array([0, 0, 1, 0, 0, 0, -1, 2]),
        w=W,
        w4=np.zeros((2, 4, 3, 3), np.float32),
    )
    result = FoldPadding()(model)
    assert not result.modified
    assert result.refused[0].endswith(why)


def test_zeros_into_pools(build, apply_pass, operators):
    model = build(
        """g (float[1, 2, 7, 7] x) => (float[1, 2, h, v] y, float[1, 2, h, v] z, float[1, 2, h, v] u) {
        a = Pad(x, p)
        y = AveragePool<kernel_shape = [3, 3], strides = [2, 2]>(a)
        r = Relu(x)
        b = Pad(r, p)
        z = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(b)
        c = Pad(x, p, lowest)
        u = MaxPool<kernel_shape = [3, 3]>(c)
    }""",
        p=PADS,
        lowest=np.array(-np.inf, np.float32),
    )
    apply_pass(FoldPadding(), model)
    assert operators(model) == ["AveragePool", "Relu", "MaxPool", "MaxPool"]
