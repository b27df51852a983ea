"""Convolution by Winograd's minimal filtering: F(m×m, 3×3) in three steps, two kernels.

An output tile of m×m elements needs (m + 2)² products per pair of channels instead of 9 m²: the input tile and the
window are transformed to m + 2 points in each direction, multiplied there point by point (a matrix product over the
channels), and transformed back.

Source: Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308. The points decide
the rounding error (Barabasz et al. 2018, "Error Analysis and Improving the Accuracy of Winograd Convolution", arXiv
1803.10986): for m = 4, ±√½ and ±√2 leave a root mean square error of about twice that of direct convolution, where
the usual ±1 and ±2 leave five times as much. For m = 2, the error is below that of direct convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.polynomial import polynomial
from tvm import relax, te, tirx

from edgec.targets.lowering.emitter import Emitter, Fusion, shape_of
from edgec.targets.lowering.layouts import pack_conv_weights

__all__ = ["best_tile", "convolution", "matrices", "pack_weights", "winograd_input", "winograd_product"]

KERNEL = "edgec.kernel"
INPUT = {KERNEL: "winograd_input"}
"""Attributes of a transform of the input that is a kernel of its own."""
TAPS = 3
"""Columns and rows of the window."""

_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2), -math.sqrt(2))}
"""Output elements of a tile in each direction -> the finite points; infinity is the last one."""

# Costs in multiply-adds of whole vectors, from kernels measured on AVX-512: a point of the transforms of an input and
# of an output tile, and bytes of weights that come from memory in the time of one. Each weight is used so few times
# that this adds to the time of the products, while a direct convolution hides it.
_INPUT_POINT_COST = 9
_OUTPUT_POINT_COST = 6
_WEIGHT_BYTES = 4

# A transformed input that is larger is made chunk by chunk, in the kernel of the products, if the weights, which each
# chunk reads again, stay in the level-2 cache.
_KEPT_INPUT_BYTES = 1 << 20
_KEPT_WEIGHT_BYTES = 1 << 20


def convolution(emitter: Emitter, x: relax.Expr, weights: np.ndarray, pads: list[int], group: int) -> relax.Expr | None:
    """A 3×3 convolution with stride 1 of a blocked tensor; None where the direct one is cheaper.

    Shape: x (N, I/i, H, W, i), weights (O, I/group, 3, 3), result (N, O/o, H', W', o). ``pads``: top, left, bottom,
    right. Groups are made of whole blocks.
    """
    n, in_blocks, height, width, lanes = shape_of(x)
    out_h, out_w = height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2
    out_blocks = -(-weights.shape[0] // lanes)
    m = best_tile(n, in_blocks, out_blocks, out_h, out_w, lanes, weights.itemsize, group)
    if m is None or weights.dtype.kind != "f" or emitter.profile.gpu is not None:
        return None
    packed = pack_weights(weights, m, lanes)
    tiles = n * output_tiles(out_h, m) * output_tiles(out_w, m)
    shape = [(m + TAPS - 1) ** 2, in_blocks, tiles, lanes]
    rest = (m, n, out_h, out_w, group, weights.shape[1])
    if n == 1 and math.prod(shape) * weights.itemsize > _KEPT_INPUT_BYTES and packed.nbytes < _KEPT_WEIGHT_BYTES:

        def whole(x: te.Tensor, u: te.Tensor) -> te.Tensor:
            points = winograd_input(x, m, pads, out_h, out_w, {})
            return winograd_product(_flat(points, shape), u, *rest)

        return emitter.te(whole, x, emitter.const(packed), name="winograd", fusion=Fusion.EPILOGUE)
    points = emitter.te(winograd_input, x, m, pads, out_h, out_w, fusion=Fusion.OPAQUE)
    arguments = (emitter.reshape(points, shape), emitter.const(packed), *rest)
    return emitter.te(winograd_product, *arguments, name="winograd", fusion=Fusion.EPILOGUE)


def _flat(points: te.Tensor, shape: list[int]) -> te.Tensor:
    """The tensor of all points as (points², I/i, tiles, i) for a batch of one."""
    count, columns = int(points.shape[1]), int(points.shape[5])
    return te.compute(
        shape,
        lambda k, o, t, c: points[k // count, k % count, o, 0, t // columns, t % columns, c],
        name="flat",
    )


def best_tile(
    n: int, in_blocks: int, out_blocks: int, out_h: int, out_w: int, lanes: int, itemsize: int, group: int = 1
) -> int | None:
    """The size of output tile that costs least, or None for a direct convolution."""
    channels = in_blocks // group * lanes * out_blocks  # pairs of input channel and block of output channels
    weight_cost = channels * lanes * itemsize / _WEIGHT_BYTES

    def cost(m: int) -> float:
        points = (m + TAPS - 1) ** 2
        tiles = n * output_tiles(out_h, m) * output_tiles(out_w, m)
        transforms = points * tiles * (in_blocks * _INPUT_POINT_COST + out_blocks * _OUTPUT_POINT_COST)
        return points * tiles * channels + transforms + points * weight_cost

    direct = TAPS**2 * channels * n * out_h * out_w
    best = min(_POINTS, key=cost)
    return best if cost(best) < direct else None


@cache
def matrices(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ (m, m + 2), G (m + 2, 3) and Bᵀ (m + 2, m + 2) in float64, with y = Aᵀ [(G w) ∘ (Bᵀ d)].

    Made by Cook and Toom's construction: a product of polynomials, interpolated from its values at the points.
    """
    points = _POINTS[m]
    finite = len(points)
    powers = np.array([[p**i for i in range(finite + 1)] for p in points])
    scale = np.array([math.prod(p - q for q in points if q != p) for p in points])
    back = np.zeros((m, finite + 1))
    back[:, :finite] = powers[:, :m].T
    back[m - 1, finite] = 1
    window = np.zeros((finite + 1, TAPS))
    window[:finite] = powers[:, :TAPS] / scale[:, None]
    window[finite, TAPS - 1] = 1
    forward = np.zeros((finite + 1, finite + 1))
    for i, point in enumerate(points):
        forward[i, :finite] = _with_roots([q for q in points if q != point])
    forward[finite] = _with_roots(points)
    return back, window, forward


def _with_roots(roots: Sequence[float]) -> np.ndarray:
    """Coefficients of Π (x - root), without the noise that rounding leaves where they are zero."""
    coefficients = polynomial.polyfromroots(roots)
    return np.where(np.abs(coefficients) < 1e-12, 0.0, coefficients)


def output_tiles(size: int, m: int) -> int:
    """How many tiles of m cover so many output elements."""
    return -(-size // m)


def pack_weights(weights: np.ndarray, m: int, lanes: int) -> np.ndarray:
    """Weights (O, I, 3, 3) at the points: (points², O/o, I/i, i, o) in the weights' data type."""
    _, window, _ = matrices(m)
    transformed = np.einsum("ij,ocjk,lk->ilco", window, weights.astype(np.float64), window).astype(weights.dtype)
    points = m + TAPS - 1
    flat = transformed.reshape(points * points, *transformed.shape[2:])
    packed = [pack_conv_weights(np.ascontiguousarray(p.T)[:, :, None, None], lanes, lanes) for p in flat]
    return np.stack(packed)[:, :, :, 0, 0]


def winograd_input(
    x: te.Tensor, m: int, pads: list[int], out_h: int, out_w: int, attrs: Mapping[str, str] = INPUT
) -> te.Tensor:
    """Bᵀ d B of all input tiles: x (N, I/i, H, W, i) -> (points, points, I/i, N, tile rows, tile columns, i)."""
    _, _, forward = matrices(m)
    n, blocks, height, width, lanes = (int(s) for s in x.shape)
    tile_rows, tile_columns = output_tiles(out_h, m), output_tiles(out_w, m)
    points, top, left = m + TAPS - 1, pads[0], pads[1]
    zero = tirx.const(0, x.dtype)

    def padded(b: tirx.Var, o: tirx.Var, y: tirx.Expr, xx: tirx.Expr, c: tirx.Var) -> tirx.Expr:
        inside = tirx.all(y >= top, y < height + top, xx >= left, xx < width + left)
        return tirx.if_then_else(inside, x[b, o, y - top, xx - left, c], zero)

    image = te.compute((n, blocks, tile_rows * m + 2, tile_columns * m + 2, lanes), padded, name="pad")
    rows = te.compute(
        (n, blocks, tile_rows, points, tile_columns * m + 2, lanes),
        lambda b, o, ty, k, xx, c: _combined(forward, k, [image(b, o, ty * m + j, xx, c) for j in range(points)]),
        name="rows",
    )
    return te.compute(
        (points, points, blocks, n, tile_rows, tile_columns, lanes),
        lambda k, l, o, b, ty, tx, c: _combined(  # noqa: E741
            forward, l, [rows(b, o, ty, k, tx * m + j, c) for j in range(points)]
        ),
        name="winograd_input",
        attrs=dict(attrs),
    )


def winograd_product(
    v: te.Tensor, u: te.Tensor, m: int, n: int, out_h: int, out_w: int, group: int, channels: int
) -> te.Tensor:
    """Products and back: v (points², I/i, tiles, i), u (points², O/o, I/group/i, i, o) -> (N, O/o, H', W', o)."""
    back, _, _ = matrices(m)
    tile_rows, tile_columns = output_tiles(out_h, m), output_tiles(out_w, m)
    _, _, tiles, _ = (int(s) for s in v.shape)
    count, out_blocks, in_blocks, in_lanes, lanes = (int(s) for s in u.shape)
    points = m + TAPS - 1
    whole = channels == in_blocks * in_lanes  # else the padding lanes of the last block are left out
    outer = [te.reduce_axis((0, in_blocks), "ic")] * whole
    inner = te.reduce_axis((0, in_lanes if whole else channels), "ici")
    ic, ici = (outer[0], inner) if whole else (inner // in_lanes, inner % in_lanes)

    def point(k: tirx.Var, o: tirx.Var, t: tirx.Var, c: tirx.Var) -> tirx.Expr:
        source = ic if group == 1 else o // (out_blocks // group) * in_blocks + ic
        return te.sum(v[k, source, t, ici] * u[k, o, ic, ici, c], axis=[*outer, inner])

    product = te.compute(
        (count, out_blocks, tiles, lanes),
        point,
        name="winograd",
        attrs={KERNEL: "winograd"},
    )
    rows = te.compute(
        (n, out_blocks, tile_rows, tile_columns, m, points, lanes),
        lambda b, o, ty, tx, i, l, c: _combined(  # noqa: E741
            back, i, [product(j * points + l, o, (b * tile_rows + ty) * tile_columns + tx, c) for j in range(points)]
        ),
        name="back_rows",
    )
    return te.compute(
        (n, out_blocks, out_h, out_w, lanes),
        lambda b, o, y, xx, c: _combined(
            back, xx % m, [rows(b, o, y // m, xx // m, y % m, j, c) for j in range(points)]
        ),
        name="back",
    )


def _combined(matrix: np.ndarray, row: tirx.Expr, terms: list[tirx.Expr]) -> tirx.Expr:
    """Row ``row`` of ``matrix`` times ``terms``; the row is a constant once its loop is unrolled.

    Points come in pairs ±p, whose rows differ in the signs of every second term: written as even ± odd part, the
    parts are the same expressions in both, and computed once.
    """
    result = None
    for number in reversed(range(len(matrix))):
        even, odd = _part(matrix[number], terms, 0), _part(matrix[number], terms, 1)
        value = _sum([part for part in (even, odd) if part is not None])
        result = value if result is None else tirx.Select(row == number, value, result)
    return result


def _part(row: np.ndarray, terms: list[tirx.Expr], parity: int) -> tuple[float, tirx.Expr] | None:
    """(leading coefficient, sum of the others relative to it) of every second term."""
    indices = [i for i in range(parity, len(row), 2) if row[i] != 0]
    if not indices:
        return None
    lead = indices[-1]
    expression = terms[lead]
    for i in indices[:-1]:
        expression = expression + _scaled(row[i] / row[lead], terms[i])
    return float(row[lead]), expression


def _sum(parts: list[tuple[float, tirx.Expr]]) -> tirx.Expr:
    result = _scaled(*parts[0])
    for factor, expression in parts[1:]:
        result = result - _scaled(-factor, expression) if factor < 0 else result + _scaled(factor, expression)
    return result


def _scaled(factor: float, expression: tirx.Expr) -> tirx.Expr:
    return expression if factor == 1 else tirx.const(float(factor), expression.ty.dtype) * expression
