"""Normalization. All subtract a mean and divide by a deviation; they differ in the axes and in what is learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.definition import differentiate_definition
from edgec.engine.modes import is_first_order
from edgec.engine.ops.channel_rows import channel_rows, from_channel_rows, normalize_rows, normalize_rows_gradient
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import normal, positive
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _per_channel_array(values: Array, ndim: int) -> Array:
    return values.reshape(-1, *(1,) * (ndim - 2))


def _per_channel(values: Tensor, ndim: int) -> Tensor:
    return p.reshape(values, [-1, *[1] * (ndim - 2)])


def _moments(x: Array, axes: Sequence[int]) -> tuple[Array, Array]:
    """Mean and population variance, with the reduced axes kept as 1."""
    mean = np.mean(x, axis=tuple(axes), keepdims=True, dtype=x.dtype)
    centred = x - mean
    return mean, np.mean(np.multiply(centred, centred, out=centred), axis=tuple(axes), keepdims=True)


def _standardize(x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    """The standardized values and one over the deviation."""
    centred = x - p.reduce_mean(x, axes, keepdims=True)
    variance = p.reduce_mean(centred * centred, axes, keepdims=True)
    inverse = 1.0 / p.sqrt(variance + epsilon)
    return centred * inverse, inverse


def _standardize_gradient(standard: Tensor, inverse: Tensor, dy: Tensor, axes: Sequence[int]) -> Tensor:
    """The gradient through `_standardize`: what is left of `dy` without its mean and its part along the values."""
    along = p.reduce_mean(dy * standard, axes, keepdims=True)
    return (dy - p.reduce_mean(dy, axes, keepdims=True) - standard * along) * inverse


@primitive("BatchNormalization")
def batch_normalization(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Array, ...]:
    """Inference uses the given mean and variance; training those of the batch, and returns the updated running ones.

    Source: ONNX BatchNormalization-15: running = running * momentum + batch * (1 - momentum), population variance.
    """
    extras: tuple[Array, ...] = ()
    rows = channel_rows(x) if training_mode else None
    normalized: Array | None = None
    if training_mode:
        if rows is not None:
            normalized, batch_mean, batch_variance = normalize_rows(rows, scale, bias, epsilon)
        else:
            batch_mean, batch_variance = (
                moment.reshape(-1) for moment in _moments(x, [axis for axis in range(x.ndim) if axis != 1])
            )
        keep = x.dtype.type(momentum)
        extras = tuple(
            (old * keep + new * (1 - keep)).astype(old.dtype)
            for old, new in ((mean, batch_mean), (variance, batch_variance))
        )
        mean, variance = batch_mean, batch_variance
        if normalized is not None:
            return (from_channel_rows(normalized, x.shape), *extras)
    factor = scale / np.sqrt(variance + variance.dtype.type(epsilon))
    y = x * _per_channel_array(factor, x.ndim).astype(x.dtype, copy=False)
    y += _per_channel_array(bias - mean * factor, x.ndim)
    return (y, *extras)


@batch_normalization.gradient
def _(call: Node, dy: Tensor | None, *_running: Tensor | None) -> Gradients:
    if dy is None:  # the running statistics are not differentiable
        return (None,)
    x, scale, epsilon = call.input(0), call.input(1), call.real("epsilon")
    axes = [axis for axis in range(x.ndim) if axis != 1]
    if is_first_order() and call.integer("training_mode"):
        rows, d_rows = channel_rows(x.array), channel_rows(dy.array, copies=True)
        if rows is not None and d_rows is not None:
            d_x, d_scale_row, d_bias_row = normalize_rows_gradient(rows, scale.array, d_rows, epsilon)
            return p.constant(from_channel_rows(d_x, x.shape)), p.constant(d_scale_row), p.constant(d_bias_row)
    shaped_scale = _per_channel(scale, x.ndim)
    d_bias = p.reduce_sum(dy, axes) if call.wants(2) else None
    if call.integer("training_mode"):
        standard, inverse = _standardize(x, axes, epsilon)
        d_scale = p.reduce_sum(dy * standard, axes) if call.wants(1) else None
        dx = _standardize_gradient(standard, inverse, dy, axes) * shaped_scale if call.wants(0) else None
        return dx, d_scale, d_bias
    mean, variance = call.input(3), call.input(4)
    inverse = 1.0 / p.sqrt(variance + epsilon)
    dx = dy * _per_channel(scale * inverse, x.ndim) if call.wants(0) else None
    d_scale = d_mean = d_variance = None
    if call.wants(1) or call.wants(4):
        along = p.reduce_sum(dy * (x - _per_channel(mean, x.ndim)), axes) * inverse
        d_scale = along
        d_variance = along * scale * inverse * inverse * -0.5
    if call.wants(3):
        d_mean = -p.reduce_sum(dy, axes) * scale * inverse
    return dx, d_scale, d_bias, d_mean, d_variance


batch_normalization.samples = lambda: [
    Sample([normal(2, 3, 4, 5), positive(3), normal(3), normal(3, seed=1), positive(3, seed=1)]),
    Sample([normal(4, 3), positive(3), normal(3), normal(3, seed=1), positive(3, seed=1)], {"epsilon": 1e-3}),
    Sample(
        [normal(3, 2, 3, 2), positive(2), normal(2), normal(2, seed=1), positive(2, seed=1)],
        {"training_mode": 1, "momentum": 0.8},
        outputs=3,
        varied=[0, 1, 2],
    ),
    Sample(
        [normal(2, 3, 4) + 3, positive(3), normal(3), normal(3, seed=1), positive(3, seed=1)],
        {"training_mode": 1},
        outputs=3,
        varied=[0, 1, 2],
        order=1,
    ),
]


@primitive("InstanceNormalization")
def instance_normalization(x: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5) -> Array:
    mean, variance = _moments(x, range(2, x.ndim))
    factor = _per_channel_array(scale, x.ndim) / np.sqrt(variance + x.dtype.type(epsilon))
    return np.asarray((x - mean) * factor + _per_channel_array(bias, x.ndim))


@instance_normalization.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    x, scale = call.input(0), call.input(1)
    spatial = list(range(2, x.ndim))
    standard, inverse = _standardize(x, spatial, call.real("epsilon"))
    dx = None
    if call.wants(0):
        dx = _standardize_gradient(standard, inverse, dy * _per_channel(scale, x.ndim), spatial)
    return dx, p.reduce_sum(dy * standard, [0, *spatial]), p.reduce_sum(dy, [0, *spatial])


instance_normalization.samples = lambda: [
    Sample([normal(2, 3, 4, 5), positive(3), normal(3)]),
    Sample([normal(2, 3, 6), positive(3), normal(3)], {"epsilon": 1e-2}),
]


@primitive("LayerNormalization")
def layer_normalization(
    x: Array,
    scale: Array,
    bias: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,  # noqa: ARG001
) -> tuple[Array, Array, Array]:
    """The statistics are computed in the dtype of `x`."""
    mean, variance = _moments(x, range(axis % x.ndim, x.ndim))
    inverse = np.reciprocal(np.sqrt(variance + x.dtype.type(epsilon)))
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), mean, inverse


@layer_normalization.gradient
def _(call: Node, dy: Tensor | None, d_mean: Tensor | None = None, d_inverse: Tensor | None = None) -> Gradients:
    x, scale = call.input(0), call.input(1)
    axes, epsilon = list(range(call.integer("axis") % x.ndim, x.ndim)), call.real("epsilon")
    if d_mean is not None or d_inverse is not None:
        return differentiate_definition(call, [dy, d_mean, d_inverse], lambda *a: _layer_norm(axes, epsilon, *a))
    assert dy is not None
    standard, inverse = _standardize(x, axes, epsilon)
    dx = _standardize_gradient(standard, inverse, dy * scale, axes) if call.wants(0) else None
    d_scale = p.sum_to(dy * standard, scale.shape) if call.wants(1) else None
    return dx, d_scale, p.sum_to(dy, call.shape(2)) if call.wants(2) else None


def _layer_norm(
    axes: Sequence[int], epsilon: float, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> list[Tensor]:
    standard, inverse = _standardize(x, axes, epsilon)
    y = standard * scale
    return [y if bias is None else y + bias, p.reduce_mean(x, axes, keepdims=True), inverse]


layer_normalization.samples = lambda: [
    Sample([normal(2, 3, 4), positive(4), normal(4)]),
    Sample([normal(2, 3, 4), positive(3, 4), normal(3, 4)], {"axis": 1}),
    Sample([normal(2, 5), positive(5)], {"epsilon": 1e-2}, outputs=3),
]


@primitive("LRN")
def lrn(x: Array, *, alpha: float = 0.0001, beta: float = 0.75, bias: float = 1.0, size: int) -> Array:
    """Divide by a power of the mean square over `size` neighbouring channels."""
    squares = np.pad(x * x, [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
    channels = x.shape[1]
    total = squares[:, :channels].copy()
    for offset in range(1, size):
        total += squares[:, offset : offset + channels]
    real = x.dtype.type
    return np.asarray(x / (total * real(alpha / size) + real(bias)) ** real(beta))


@lrn.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    size = call.integer("size")

    def define(x: Tensor) -> Tensor:
        channels, beyond = x.shape[1], [0] * (x.ndim - 2)
        squares = p.pad(x * x, [0, (size - 1) // 2, *beyond, 0, size // 2, *beyond])
        total = p.slice_axes(squares, [0], [channels], [1], [1])
        for offset in range(1, size):
            total = total + p.slice_axes(squares, [offset], [offset + channels], [1], [1])
        return x / (total * (call.real("alpha") / size) + call.real("bias")) ** call.real("beta")

    return differentiate_definition(call, [dy], define)


lrn.samples = lambda: [
    Sample([normal(2, 5, 3, 2)], {"size": 3, "alpha": 0.5}),
    # ONNX Runtime refuses an even size, and onnx.reference (1.23) loops over the batch instead of the channels.
    Sample([normal(1, 5, 2, 2)], {"size": 2, "alpha": 0.3, "beta": 0.5, "bias": 2.0}, reference=""),
    Sample([normal(1, 5, 2, 2)], {"size": 5, "alpha": 0.3, "beta": 0.5, "bias": 2.0}),
]
