"""Histograms and ranges against NumPy on all values at once, and against ONNX Runtime's search."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.passes.quantization import Encoding, Histogram, Range, encode_range, find_range

RNG = np.random.default_rng(5)
TENSORS = {
    "normal": RNG.standard_normal(60_000),
    "relu": np.maximum(RNG.standard_normal(60_000), 0),
    "relu6": np.clip(4 * RNG.standard_normal(60_000), 0, 6),
    "shifted": 5 + RNG.standard_normal(60_000),
    "negative": -np.abs(RNG.standard_normal(60_000)),
    "long tail": RNG.standard_t(3, 60_000),
    "growing": RNG.standard_normal(60_000) * np.geomspace(1e-6, 1e3, 60_000),
    "shrinking": RNG.standard_normal(60_000) * np.geomspace(1e3, 1e-6, 60_000),
}


def histogram_of(values: np.ndarray, parts: int = 7) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values.astype(np.float32), parts):
        histogram.add(part)
    return histogram


@pytest.fixture(params=sorted(TENSORS))
def values(request) -> np.ndarray:
    return TENSORS[request.param].astype(np.float32)


def test_counts_are_exact(values):
    histogram = histogram_of(values)
    expected, _ = np.histogram(values.astype(np.float64), histogram.edges)
    # numpy puts the right border of the last bin into it
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.total == values.size
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert len(histogram.counts) <= 4096
    assert max(values.max(), 0) - min(values.min(), 0) >= 1024 * histogram.width


def test_the_order_of_samples_changes_nothing_but_the_resolution(values):
    one, other = histogram_of(values), histogram_of(values[::-1])
    assert one.total == other.total
    a, b = find_range(one, "percentile"), find_range(other, "percentile")
    step = 2 * max(one.width, other.width)
    assert abs(a.low - b.low) <= step and abs(a.high - b.high) <= step
    errors = [square_error(values, find_range(histogram, "mse")) for histogram in (one, other)]
    assert max(errors) <= 1.03 * min(errors)


def test_minmax_and_percentile_are_those_of_all_values(values):
    histogram = histogram_of(values)
    assert find_range(histogram, "minmax") == Range.around(values.min(), values.max())
    for percentile in (99.0, 99.9, 99.99):
        span = find_range(histogram, "percentile", percentile)
        low, high = np.percentile(values, [100 - percentile, percentile], method="inverted_cdf")
        # the same element, up to a bin on either side of it; sparse tails leave bins empty
        assert np.mean(values < span.low) <= 1 - percentile / 100 + 1e-9 or span.low == 0
        assert np.mean(values > span.high) <= 1 - percentile / 100 + 1e-9 or span.high == 0
        assert span.low >= min(low, 0) - 2 * histogram.width
        assert span.high <= max(high, 0) + 2 * histogram.width


def square_error(values: np.ndarray, span: Range) -> float:
    return float(np.mean(np.square(encode_range(span).rounded(values) - values)))


def test_mse_finds_the_least_error_of_all_values(values):
    found = square_error(values, find_range(histogram_of(values), "mse"))
    full = Range.around(values.min(), values.max())
    shares = np.linspace(0.05, 1, 20)
    best = min(
        square_error(values, Range(low * full.low, high * full.high))
        for low in (shares if full.low else [1.0])
        for high in (shares if full.high else [1.0])
    )
    assert found <= 1.05 * best
    assert found <= 1.001 * square_error(values, full)


def test_entropy_agrees_with_onnxruntime():
    """On symmetric data with long tails, where both look for one threshold; they differ in how they step to it."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    collector = calibrate.HistogramCollector(
        method="entropy", symmetric=True, num_bins=2048, num_quantized_bins=256, percentile=99.99, scenario="same"
    )
    values = RNG.laplace(size=400_000).astype(np.float32)
    collector.collect({"x": [values]})
    _, theirs = (float(np.asarray(end)) for end in collector.compute_collection_result()["x"][:2])
    ours = find_range(histogram_of(values), "entropy").high
    assert ours == pytest.approx(theirs, rel=0.25)
    # Both clip a little, and no more than a thousandth of all values.
    assert np.mean(np.abs(values) > ours) < 1e-3


def test_an_outlier_is_clipped_by_all_methods_but_minmax():
    values = np.append(np.abs(RNG.standard_normal(200_000)), 60.0)
    histogram = histogram_of(values)
    assert find_range(histogram, "minmax").high == 60
    for method in ("percentile", "entropy", "mse"):
        assert find_range(histogram, method).high < 50, method


def test_frequent_zeros_do_not_matter_to_entropy():
    positive = np.abs(RNG.standard_normal(100_000))
    alone = find_range(histogram_of(positive), "entropy")
    among_zeros = find_range(histogram_of(np.append(positive, np.zeros(900_000))), "entropy")
    assert among_zeros.high == pytest.approx(alone.high, rel=0.05)


def test_zeros_alone_and_nothing():
    histogram = Histogram()
    assert histogram.total == 0 and find_range(histogram, "mse") == Range(0, 0)
    histogram.add(np.zeros(9, np.float32))
    histogram.add(np.zeros(0, np.float32))
    assert histogram.total == 9
    assert all(find_range(histogram, method) == Range(0, 0) for method in ("minmax", "percentile", "entropy", "mse"))
    histogram.add(np.array([-2.0], np.float32))
    assert histogram.total == 10 and histogram.counts.sum() == 10
    assert find_range(histogram, "minmax") == Range(-2, 0)


def test_a_histogram_survives_its_arrays(values):
    histogram = histogram_of(values)
    again = Histogram.from_arrays(histogram.to_arrays())
    again.add(values[:99] * 3)
    histogram.add(values[:99] * 3)
    assert again.to_arrays().keys() == histogram.to_arrays().keys()
    for key, array in histogram.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[key], array)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("span", [Range(-1, 3), Range(0, 6), Range(-0.375, 10), Range(-5, 0), Range(0, 0)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_encoding_has_an_exact_zero_and_reaches_its_range(dtype, span, symmetric):
    encoding = encode_range(span, dtype, symmetric=symmetric)
    info = np.iinfo(dtype)
    assert info.min <= encoding.zero_point <= info.max
    assert np.float32(encoding.scale) == encoding.scale > 0
    assert encoding.rounded(np.zeros(1, np.float32))[0] == 0
    ends = np.array([span.low, span.high], np.float32)
    assert np.abs(encoding.rounded(ends) - ends).max() <= 0.5001 * encoding.scale
    if symmetric:
        assert encoding.zero_point == (128 if dtype == "uint8" else 0)


def test_an_encoding_rounds_as_onnxruntime_does(run_onnxruntime, build):
    values = np.append(RNG.uniform(-3, 9, 4000), np.arange(-20, 20) * 0.0125).astype(np.float32)
    encoding = Encoding(float(np.float32(0.025)), 37, "uint8")
    text = (
        f"g (float[{values.size}] x) => (float[{values.size}] y) "
        "{q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)}"
    )
    model = build(text, s=np.float32(encoding.scale), z=np.uint8(37))
    np.testing.assert_array_equal(encoding.rounded(values), run_onnxruntime(model, {"x": values})["y"])


def test_a_range_without_zero_is_refused():
    with pytest.raises(ValueError, match="zero is not in the range"):
        Range(1.0, 2.0)
