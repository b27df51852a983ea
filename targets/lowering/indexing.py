"""Operators that read places which data decide."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.emitter import Emitter, Fusion, lowers, shape_of, static_shape
from edgec.targets.lowering.shape import emit_channels, move

__all__: list[str] = []


def _bounded(index: tirx.Expr, size: int) -> tirx.Expr:
    """A position from an index that may count from the end; a wrong one is clamped, never read out of bounds."""
    index = index.astype("int64")
    index = tirx.Select(index < 0, index + size, index)
    return tirx.max(tirx.min(index, tirx.const(size - 1, "int64")), tirx.const(0, "int64"))


@lowers("Gather")
def gather(emitter: Emitter, node: ir.Node) -> None:
    """Constant indices in equal steps become a slice; channels of a blocked tensor stay blocked."""
    data, indices = node.inputs[0], emitter.constant(node.inputs[1])
    sizes, out_shape = static_shape(data), static_shape(node.outputs[0])
    axis = integer(node, "axis", 0) % len(sizes)
    if indices is None:
        x, positions = emitter.plain(data), emitter.plain(node.inputs[1])
        rank = len(shape_of(positions))

        def kernel(table: te.Tensor, index: te.Tensor) -> te.Tensor:
            def element(*i: tirx.Var) -> tirx.Expr:
                place = _bounded(index(*i[axis : axis + rank]), sizes[axis])
                return table(*i[:axis], place, *i[axis + rank :])

            return te.compute(out_shape, element, name="gather")

        emitter.set_plain(node.outputs[0], emitter.te(kernel, x, positions, name="gather", fusion=Fusion.INJECTIVE))
        return
    places = indices.astype(np.int64).reshape(-1)
    places = np.where(places < 0, places + sizes[axis], places)
    if places.size and (places.min() < 0 or places.max() >= sizes[axis]):
        raise UnsupportedError(f"Gather '{node.name}' reads beyond axis {axis} of size {sizes[axis]}")
    constant = emitter.constant(data)
    if constant is not None:
        emitter.set_constant(node.outputs[0], np.take(constant, places, axis).reshape(out_shape))
    elif emitter.is_blocked(data) and len(sizes) == 4 and axis == 1 and indices.ndim == 1:
        emit_channels(emitter, node.outputs[0], [data], places)
    else:
        _gather_constant(emitter, node, places, axis)


def _gather_constant(emitter: Emitter, node: ir.Node, places: np.ndarray, axis: int) -> None:
    x = emitter.plain(node.inputs[0])
    flat = [*shape_of(x)[:axis], len(places), *shape_of(x)[axis + 1 :]]
    start, step = int(places[0]), int(places[1] - places[0]) if len(places) > 1 else 1
    if (np.diff(places) == step).all():
        result = move(emitter, x, flat, {axis: lambda i: i * step + start}, "slice")
    else:

        def kernel(data: te.Tensor, table: te.Tensor) -> te.Tensor:
            return te.compute(flat, lambda *i: data(*i[:axis], table[i[axis]], *i[axis + 1 :]), name="gather")

        result = emitter.te(kernel, x, emitter.const(places), name="gather", fusion=Fusion.INJECTIVE)
    emitter.set_plain(node.outputs[0], emitter.reshape(result, static_shape(node.outputs[0])))


@lowers("GatherElements")
def gather_elements(emitter: Emitter, node: ir.Node) -> None:
    x, indices = emitter.plain(node.inputs[0]), emitter.plain(node.inputs[1])
    axis = integer(node, "axis", 0) % len(shape_of(x))
    size = shape_of(x)[axis]

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        return te.compute(
            index.shape,
            lambda *i: data(*i[:axis], _bounded(index(*i), size), *i[axis + 1 :]),
            name="gather_elements",
        )

    result = emitter.te(kernel, x, indices, name="gather_elements", fusion=Fusion.INJECTIVE)
    emitter.set_plain(node.outputs[0], result)


@lowers("GatherND")
def gather_nd(emitter: Emitter, node: ir.Node) -> None:
    """Constant indices that go through all places in order become a reshape."""
    x, indices = emitter.plain(node.inputs[0]), emitter.constant(node.inputs[1])
    sizes, out_shape = shape_of(x), static_shape(node.outputs[0])
    *leading, depth = static_shape(node.inputs[1])
    batch = integer(node, "batch_dims", 0)
    if indices is not None and not batch:
        places = indices.reshape(-1, depth)
        if np.array_equal(places, np.indices(sizes[:depth]).reshape(depth, -1).T):
            emitter.set_plain(node.outputs[0], emitter.reshape(x, out_shape))
            return

    def kernel(data: te.Tensor, index: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            places = [_bounded(index(*i[: len(leading)], axis), sizes[batch + axis]) for axis in range(depth)]
            return data(*i[:batch], *places, *i[len(leading) :])

        return te.compute(out_shape, element, name="gather_nd")

    result = emitter.te(kernel, x, emitter.plain(node.inputs[1]), name="gather_nd", fusion=Fusion.INJECTIVE)
    emitter.set_plain(node.outputs[0], result)


@lowers("OneHot")
def one_hot(emitter: Emitter, node: ir.Node) -> None:
    """``values[1]`` where the index meets the position on the new axis, ``values[0]`` elsewhere."""
    indices, values = emitter.plain(node.inputs[0]), emitter.plain(node.inputs[2])
    shape = static_shape(node.outputs[0])
    axis = integer(node, "axis", -1) % len(shape)

    def kernel(index: te.Tensor, pair: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            wanted = index(*i[:axis], *i[axis + 1 :]).astype("int64")
            wanted = tirx.Select(wanted < 0, wanted + shape[axis], wanted)
            return tirx.Select(wanted == i[axis], pair[1], pair[0])

        return te.compute(shape, element, name="one_hot")

    emitter.set_plain(node.outputs[0], emitter.te(kernel, indices, values, name="one_hot", fusion=Fusion.INJECTIVE))


@lowers("Trilu")
def trilu(emitter: Emitter, node: ir.Node) -> None:
    """The upper or lower triangle of matrices, zero elsewhere."""
    x = emitter.plain(node.inputs[0])
    offset = (emitter.integers(node, 1) or [0])[0]
    is_upper = bool(integer(node, "upper", 1))

    def kernel(data: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            distance = i[-1] - i[-2]
            kept = distance >= offset if is_upper else distance <= offset
            return tirx.Select(kept, data(*i), tirx.const(0, data.dtype))

        return te.compute(data.shape, element, name="trilu")

    emitter.set_plain(node.outputs[0], emitter.te(kernel, x, name="trilu", fusion=Fusion.INJECTIVE))
