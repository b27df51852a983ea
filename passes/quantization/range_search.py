"""From a histogram to the range that integers should reach: four ways to weigh rounding against clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgec.passes.quantization.encoding import Range
from edgec.passes.quantization.histogram import Histogram

__all__ = ["METHODS", "Method", "find_range"]

Method: TypeAlias = Literal["minmax", "percentile", "entropy", "mse"]

_LEVELS = 256
_SHARES = np.linspace(0.05, 1.0, 96)
"""Of the least and largest value: the ranges that are tried."""


def find_range(histogram: Histogram, method: Method, percentile: float = 99.99) -> Range:
    """The range for the values in a histogram.

    minmax: All of them.
    percentile: All but the share 1 - `percentile` / 100 at either end.
    entropy: That whose 256 levels tell the least about another distribution (Kullback-Leibler divergence).
    mse: That with the least mean square error of rounding and clipping together.

    Source: for entropy, Migacz 2017, "8-bit Inference with TensorRT"; a range is a share of that of all values, with
    the same share on both sides of 0.
    """
    full = Range.around(histogram.low, histogram.high) if histogram.total else Range(0.0, 0.0)
    if not histogram.width or method == "minmax":
        return full
    if method == "percentile":
        return _percentile(histogram, full, percentile)
    return _SEARCHES[method](histogram, full)


def _percentile(histogram: Histogram, full: Range, percentile: float) -> Range:
    tail = histogram.total * (1 - percentile / 100)
    # Bins that lie in a tail as a whole are left out; values of 0 in plenty, as after a ReLU, count like others.
    below = np.cumsum(histogram.counts)
    first = int(np.searchsorted(below, tail, side="right"))
    above = np.cumsum(histogram.counts[::-1])
    last = len(histogram.counts) - 1 - int(np.searchsorted(above, tail, side="right"))
    edges = histogram.edges
    return Range.around(max(full.low, edges[first]), min(full.high, edges[max(first, last) + 1]))


def _least_square_error(histogram: Histogram, full: Range) -> Range:
    """Both ends are searched on their own, in turns, each with the other as it is."""
    best = full
    for _ in range(2 if full.low < 0 < full.high else 1):
        for at_low in (True, False):
            if (end := full.low if at_low else full.high) == 0:
                continue
            ranges = [Range(end, best.high) if at_low else Range(best.low, end) for end in (end * _SHARES).tolist()]
            best = ranges[int(np.argmin([_square_error(histogram, span) for span in ranges]))]
    return best


def _square_error(histogram: Histogram, span: Range) -> float:
    """Summed over all values, each taken to lie in the middle of its bin; up to what all ranges have in common."""
    centers = histogram.centers
    step = span.width / (_LEVELS - 1)
    inside = np.clip(np.rint(centers / step), np.rint(span.low / step), np.rint(span.high / step)) * step
    return float(histogram.counts @ np.square(centers - inside))


def _least_divergence(histogram: Histogram, full: Range) -> Range:
    centers, counts = histogram.centers, histogram.counts.astype(np.float64)
    # 0 is exact in every range; after a ReLU it is so frequent that nothing else would count.
    at_zero = -histogram.first
    neighbours = np.concatenate([counts[max(at_zero - 1, 0) : max(at_zero, 0)], counts[at_zero + 1 : at_zero + 2]])
    counts[at_zero : at_zero + 1] = neighbours.max(initial=0.0)
    ranges = [Range(share * full.low, share * full.high) for share in _SHARES.tolist()]
    return ranges[int(np.argmin([_divergence(centers, counts, span) for span in ranges]))]


def _divergence(centers: NDArray[np.float64], counts: NDArray[np.float64], span: Range) -> float:
    """KL divergence of the values from what 256 levels over `span` leave of them; clipped ones count at the ends."""
    inside = (centers >= span.low) & (centers <= span.high)
    if inside.sum() < _LEVELS:
        return np.inf
    clipped = counts[inside]
    reference = clipped.copy()
    reference[0] += counts[centers < span.low].sum()
    reference[-1] += counts[centers > span.high].sum()
    levels = ((centers[inside] - span.low) * (_LEVELS / span.width)).astype(np.int64).clip(0, _LEVELS - 1)
    filled = clipped > 0
    sums = np.bincount(levels, clipped, _LEVELS)
    members = np.bincount(levels, filled, _LEVELS)
    spread = np.where(filled, (sums / np.maximum(members, 1))[levels], 0.0)
    return _kullback_leibler(reference, spread)


def _kullback_leibler(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """In nats; where `other` has nothing although `reference` has something, a ten-thousandth counts as there."""
    if not other.any():
        return np.inf
    p, q = reference / reference.sum(), other / other.sum()
    present = p > 0
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], 1e-4 * p[present]))))


_SEARCHES: dict[str, Callable[[Histogram, Range], Range]] = {
    "entropy": _least_divergence,
    "mse": _least_square_error,
}
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
