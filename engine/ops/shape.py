"""Reshaping and moving: the values stay what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.random import generator
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


@primitive("Identity", keeps_inputs=())
def identity(x: Array) -> Array:
    return x


@identity.gradient
def _(_call: Node, dy: Tensor) -> Gradients:
    return (dy,)


identity.samples = lambda: [Sample([normal(2, 3)]), Sample([integers(3)])]


@primitive("Reshape", keeps_inputs=())
def reshape(x: Array, shape: Array, *, allowzero: int = 0) -> Array:
    """A 0 in `shape` copies the input's size unless `allowzero`; one -1 takes what is left."""
    wanted = [int(size) for size in shape]
    if not allowzero:
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def _reshape_back(call: Node, dy: Tensor) -> Gradients:
    return (p.reshape(dy, call.shape(0)),)


reshape.gradient(_reshape_back)
reshape.samples = lambda: [
    Sample([normal(2, 3, 4), np.array([4, 6])]),
    Sample([normal(2, 3, 4), np.array([0, -1])]),
    Sample([normal(2, 3, 4), np.array([2, 0, 2, -1])]),
    Sample([np.zeros((0, 3), np.float32), np.array([3, 0])], {"allowzero": 1}, varied=()),
    Sample([normal(1), np.array([], np.int64)]),
]


@primitive("Flatten", keeps_inputs=())
def flatten(x: Array, *, axis: int = 1) -> Array:
    rows = math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim])
    return x.reshape(rows, -1 if x.size else math.prod(x.shape[axis:]))


flatten.gradient(_reshape_back)
flatten.samples = lambda: [
    Sample([normal(2, 3, 4)]),
    Sample([normal(2, 3, 4)], {"axis": 0}),
    Sample([normal(2, 3, 4)], {"axis": -1}),
    Sample([normal(2, 3, 4)], {"axis": 3}),
]


@primitive("Squeeze", keeps_inputs=())
def squeeze(x: Array, axes: Array | None = None) -> Array:
    return x.squeeze() if axes is None else x.squeeze(tuple(int(axis) for axis in axes))


squeeze.gradient(_reshape_back)
squeeze.samples = lambda: [
    Sample([normal(1, 3, 1, 2)]),
    Sample([normal(1, 3, 1), np.array([-1])]),
]


@primitive("Unsqueeze", keeps_inputs=())
def unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


unsqueeze.gradient(_reshape_back)
unsqueeze.samples = lambda: [Sample([normal(2, 3), np.array([0, -1])]), Sample([normal(), np.array([0])])]


@primitive("Transpose", keeps_inputs=())
def transpose(x: Array, *, perm: Sequence[int] | None = None) -> Array:
    return np.transpose(x, perm)


@transpose.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    order = call.integers("perm") or list(reversed(range(dy.ndim)))
    return (p.transpose(dy, [int(axis) for axis in np.argsort(order)]),)


transpose.samples = lambda: [Sample([normal(2, 3, 4)], {"perm": [2, 0, 1]}), Sample([normal(2, 3, 4)])]


@primitive("Concat", keeps_inputs=())
def concat(*inputs: Array, axis: int) -> Array:
    return np.concatenate(inputs, axis)


@concat.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    axis = call.integer("axis")
    gradients: list[Tensor | None] = []
    start = 0
    for index in range(call.input_count):
        end = start + call.shape(index)[axis]
        gradients.append(p.slice_axes(dy, [start], [end], [axis], [1]) if call.wants(index) else None)
        start = end
    return gradients


concat.samples = lambda: [
    Sample([normal(2, 3), normal(2, 1), normal(2, 2)], {"axis": 1}),
    Sample([normal(2, 3), normal(1, 3)], {"axis": -2}),
    Sample([normal(2)], {"axis": 0}),
]


@primitive("Split", keeps_inputs=())
def split(
    x: Array, split: Array | None = None, *, axis: int = 0, num_outputs: int | None = None, output_count: int = 1
) -> tuple[Array, ...]:
    if split is None:
        # The last part takes what an even division leaves short.
        size = -(-x.shape[axis] // (num_outputs or output_count))
        borders = [size * part for part in range(1, num_outputs or output_count)]
    else:
        borders = [int(border) for border in np.cumsum(split)[:-1]]
    return tuple(np.split(x, borders, axis))


@split.gradient
def _(call: Node, *gradients: Tensor | None) -> Gradients:
    dtype = call.output_dtype(0)
    parts = [
        p.zeros(call.output_shape(index), dtype) if gradient is None else gradient
        for index, gradient in enumerate(gradients)
    ]
    return (p.concat(parts, call.integer("axis")),)


split.samples = lambda: [
    Sample([normal(2, 6), np.array([1, 2, 3])], {"axis": 1}, outputs=3),
    Sample([normal(7, 2)], {"num_outputs": 3}, outputs=3),
    Sample([normal(4, 2), None], {"num_outputs": 2, "axis": -1}, outputs=2),
]


@primitive("Expand", keeps_inputs=())
def expand(x: Array, shape: Array) -> Array:
    """Broadcasts both ways: a 1 in `shape` keeps the input's size."""
    wanted = np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))
    return np.broadcast_to(x, wanted)


@expand.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.sum_to(dy, call.shape(0)),)


expand.samples = lambda: [
    Sample([normal(3, 1), np.array([2, 3, 4])]),
    Sample([normal(3, 2), np.array([1, 1])]),
    Sample([normal(), np.array([2])]),
]


@primitive("Tile", keeps_inputs=(1,))
def tile(x: Array, repeats: Array) -> Array:
    return np.tile(x, tuple(int(count) for count in repeats))


@tile.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    shape = call.shape(0)
    repeats = [int(count) for count in call.input(1).data]
    pairs = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    return (p.reduce_sum(p.reshape(dy, pairs), list(range(0, len(pairs), 2))),)


tile.samples = lambda: [Sample([normal(2, 3), np.array([2, 1])]), Sample([normal(2, 3), np.array([3, 2])])]


@primitive("DepthToSpace", keeps_inputs=())
def depth_to_space(x: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        blocks = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // (b * b), h * b, w * b)


@depth_to_space.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    block = call.integer("blocksize")
    if call.attribute("mode") == "DCR":
        return (p.call("SpaceToDepth", dy, blocksize=block),)
    n, c, h, w = call.shape(0)
    blocks = p.reshape(dy, [n, c // block**2, h, block, w, block])
    return (p.reshape(p.transpose(blocks, [0, 1, 3, 5, 2, 4]), [n, c, h, w]),)


depth_to_space.samples = lambda: [
    Sample([normal(1, 8, 2, 3)], {"blocksize": 2}),
    Sample([normal(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
]


@primitive("SpaceToDepth", keeps_inputs=())
def space_to_depth(x: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    """`mode` came with opset 26: whether the block or the channels run first in the new channels."""
    n, c, h, w = x.shape
    b = blocksize
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).transpose(order).reshape(n, c * b * b, h // b, w // b)


@space_to_depth.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    return (p.call("DepthToSpace", dy, blocksize=call.attribute("blocksize"), mode=call.attribute("mode")),)


space_to_depth.samples = lambda: [
    Sample([normal(2, 2, 4, 6)], {"blocksize": 2}),
    Sample([normal(0, 2, 4, 6)], {"blocksize": 2}, reference=""),
]


@primitive("Shape", differentiable=False)
def shape_of(x: Array, *, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


shape_of.samples = lambda: [
    Sample([normal(2, 3, 4)]),
    Sample([normal(2, 3, 4)], {"start": 1, "end": -1}),
    Sample([normal(2, 3, 4)], {"start": -2}),
]


@primitive("Size", differentiable=False)
def size_of(x: Array) -> Array:
    return np.array(x.size, np.int64)


size_of.samples = lambda: [Sample([normal(2, 3, 4)])]


@primitive("ConstantOfShape", differentiable=False)
def constant_of_shape(shape: Array, *, value: Array | None = None) -> Array:
    filler = np.zeros(1, np.float32) if value is None else np.asarray(value)
    return np.full(tuple(int(size) for size in shape), filler.reshape(()), filler.dtype)


constant_of_shape.samples = lambda: [
    Sample([np.array([2, 3])]),
    Sample([np.array([2])], {"value": np.array([7], np.int64)}),
    Sample([np.array([], np.int64)], {"value": np.array([1.5], np.float32)}),
]


@primitive("Constant", differentiable=False)
def constant(
    *,
    value: Array | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Array:
    if value is not None:
        return np.asarray(value)
    if value_float is not None or value_floats is not None:
        return np.asarray(value_floats if value_float is None else value_float, np.float32)
    return np.asarray(value_ints if value_int is None else value_int, np.int64)


constant.samples = lambda: [
    Sample([], {"value": normal(2, 3)}),
    Sample([], {"value_float": 1.5}),
    Sample([], {"value_floats": [1.5, 2.0]}),
    Sample([], {"value_int": 3}),
    Sample([], {"value_ints": [3, 4]}),
]


@primitive("Range", differentiable=False)
def range_of(start: Array, limit: Array, delta: Array) -> Array:
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return np.asarray((start + np.arange(count, dtype=start.dtype) * delta).astype(start.dtype))


range_of.samples = lambda: [
    Sample([np.array(1), np.array(10), np.array(3)]),
    Sample([np.array(5), np.array(0), np.array(-2)]),
    Sample([np.float32(0.0), np.float32(1.0), np.float32(0.25)]),
]


@primitive("Dropout", keeps_inputs=(1, 2), keeps_outputs=(1,))
def dropout(
    x: Array,
    share: Array | None = None,
    training_mode: Array | None = None,
    *,
    ratio: float = 0.5,
    seed: int | None = None,
) -> tuple[Array, Array]:
    """Inference passes `x` on; training zeroes a share (`ratio`, until opset 10) of it and scales the rest up."""
    dropped = ratio if share is None else float(share)
    if training_mode is None or not bool(training_mode) or dropped == 0.0:
        return x, np.ones(x.shape, bool)
    # A given seed means the generator that ONNX's own tests use.
    random = generator().random(x.shape, np.float32) if seed is None else np.random.RandomState(seed).random(x.shape)
    mask: Array = random >= dropped
    return x * mask * x.dtype.type(1.0 / (1.0 - dropped) if dropped < 1.0 else 0.0), mask


@dropout.gradient
def _(call: Node, dy: Tensor, _mask: Tensor | None = None) -> Gradients:
    is_training = call.has(2) and bool(call.input(2).data)
    ratio = float(call.input(1).data) if call.has(1) else call.real("ratio")
    if not is_training or ratio == 0.0:
        return (dy,)
    factor = 1.0 / (1.0 - ratio) if ratio < 1.0 else 0.0
    return (p.scale(p.mask(call.output(1), dy), factor),)


dropout.samples = lambda: [
    Sample([normal(2, 3)], outputs=2),
    Sample([normal(2, 3), np.float32(0.3)], outputs=1, varied=[0]),
    # Random numbers differ between implementations, so training is checked in the gradient only.
    Sample([normal(4, 5), np.float32(0.4), np.array(True)], {"seed": 3}, outputs=2, varied=[0], order=1, reference=""),
]
