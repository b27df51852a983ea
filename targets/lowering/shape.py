"""Operators that only move elements, at places known at compile time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx, topi

from edgec.errors import UnsupportedError
from edgec.targets.lowering.attributes import integer, integers, text
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_of, lowers, shape_of, static_shape
from edgec.targets.lowering.memory import ARENA_ALIGNMENT_BYTES

__all__ = ["emit_channels"]

Index = Callable[[tirx.Expr], tirx.Expr]
"""From an output position along one axis to the input position it takes."""


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(emitter: Emitter, node: ir.Node) -> None:
    shape = static_shape(node.outputs[0])
    constant = emitter.constant(node.inputs[0])
    if constant is not None:
        emitter.set_constant(node.outputs[0], constant.reshape(shape))
        return
    emitter.set_plain(node.outputs[0], emitter.reshape(emitter.plain(node.inputs[0]), shape))


@lowers("Transpose")
def transpose(emitter: Emitter, node: ir.Node) -> None:
    """A reshape where only axes of size 1 change places."""
    shape = static_shape(node.inputs[0])
    perm = integers(node, "perm", list(reversed(range(len(shape)))))
    constant = emitter.constant(node.inputs[0])
    if constant is not None:
        emitter.set_constant(node.outputs[0], np.ascontiguousarray(constant.transpose(perm)))
        return
    x = emitter.plain(node.inputs[0])
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):
        emitter.set_plain(node.outputs[0], emitter.reshape(x, [shape[axis] for axis in perm]))
    else:
        emitter.set_plain(node.outputs[0], emitter.emit(relax.op.permute_dims(x, perm)))


@lowers("Concat")
def concat(emitter: Emitter, node: ir.Node) -> None:
    """Stays blocked along the channels where one input is and none has padding lanes, or all of them are blocked."""
    values = [value for value in node.inputs if value is not None and 0 not in static_shape(value)]
    out = node.outputs[0]
    shape = static_shape(out)
    axis = integer(node, "axis", 0) % len(shape)
    constants = [emitter.constant(value) for value in values]
    if all(constant is not None for constant in constants):
        emitter.set_constant(out, np.concatenate([c for c in constants if c is not None], axis))
    elif len(values) == 1:
        emitter.alias(out, values[0])
    elif len(shape) == 4 and axis == 1 and _has_aligned_channels(emitter, values):
        lanes = _common_lanes(emitter, values)
        exprs = [emitter.blocked(value, lanes).var for value in values]
        emitter.set_blocked(out, join(emitter, exprs, 1), shape[1])
    elif len(shape) == 4 and axis == 1 and all(emitter.is_blocked(value) for value in values):
        emit_channels(emitter, out, values, np.arange(shape[1]))
    elif len(shape) == 4 and axis in (2, 3) and all(emitter.is_blocked(value) for value in values):
        lanes = _common_lanes(emitter, values)
        exprs = [emitter.blocked(value, lanes).var for value in values]
        emitter.set_blocked(out, join(emitter, exprs, axis), shape[1])
    else:
        emitter.set_plain(out, join(emitter, [emitter.plain(value) for value in values], axis))


def join(emitter: Emitter, parts: Sequence[relax.Expr], axis: int) -> relax.Expr:
    """The parts one after the other along an axis; without a copy where they follow each other in memory."""
    sizes = [_size_bytes(part) for part in parts]
    if math.prod(shape_of(parts[0])[:axis]) == 1 and all(size % ARENA_ALIGNMENT_BYTES == 0 for size in sizes[:-1]):
        return emitter.te(lambda *tensors: topi.concatenate(tensors, axis), *parts, name="concatenate", view=0)
    return emitter.emit(relax.op.concat(list(parts), axis))


def _size_bytes(expr: relax.Expr) -> int:
    return math.prod(shape_of(expr)) * np.dtype(dtype_of(expr)).itemsize


def _common_lanes(emitter: Emitter, values: Sequence[ir.Value | None]) -> int:
    """The largest blocks that one of the values has."""
    return max(shape_of(emitter.blocked(value).var)[4] for value in values if emitter.is_blocked(value))


def _has_aligned_channels(emitter: Emitter, values: Sequence[ir.Value]) -> bool:
    if not any(emitter.is_blocked(value) for value in values):
        return False
    lanes = _common_lanes(emitter, values)
    return all(static_shape(value)[1] % lanes == 0 for value in values)


def emit_channels(emitter: Emitter, out: ir.Value, values: Sequence[ir.Value | None], channels: np.ndarray) -> None:
    """Set a blocked output whose channel i is channel ``channels[i]`` of the blocked inputs laid end to end."""
    block = _common_lanes(emitter, values)
    sources = [emitter.blocked(value, block) for value in values]
    starts = np.cumsum([0, *(source.channels for source in sources)])
    lanes = shape_of(sources[0].var)[4]
    padded = -(-len(channels) // lanes) * lanes
    table = np.zeros(padded, np.int32)  # padding lanes repeat a channel: finite
    table[: len(channels)] = channels
    step = int(channels[1] - channels[0]) if len(channels) > 1 else 1
    is_affine = len(sources) > 1 or bool((np.diff(channels) == step).all())

    def pick(tensors: Sequence[te.Tensor], channel: tirx.Expr, i: Sequence[tirx.Var]) -> tirx.Expr:
        result = None
        for tensor, start, source in reversed(list(zip(tensors, starts, sources, strict=False))):
            local = channel - int(start)
            last = shape_of(source.var)[1] * lanes - 1
            bounded = tirx.min(local, last) if result is None else local
            value = tensor(i[0], tirx.floordiv(bounded, lanes), i[2], i[3], tirx.floormod(bounded, lanes))
            end = int(start) + source.channels
            result = value if result is None else tirx.if_then_else(channel < end, value, result)
        return result

    def affine(*tensors: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            channel = (i[1] * lanes + i[4]) * step + int(channels[0])
            if padded > len(channels):
                channel = tirx.max(tirx.min(channel, int(channels.max())), int(channels.min()))
            return pick(tensors, channel, i)

        return te.compute(_channel_shape(tensors[0], padded), element, name="channels")

    def gathered(indices: te.Tensor, *tensors: te.Tensor) -> te.Tensor:
        shape = _channel_shape(tensors[0], padded)
        return te.compute(shape, lambda *i: pick(tensors, indices[i[1] * lanes + i[4]], i), name="channels")

    exprs = [source.var for source in sources]
    if is_affine:
        result = emitter.te(affine, *exprs, name="channels", fusion=Fusion.INJECTIVE)
    else:
        result = emitter.te(gathered, emitter.const(table), *exprs, name="channels", fusion=Fusion.INJECTIVE)
    emitter.set_blocked(out, result, len(channels))


def _channel_shape(tensor: te.Tensor, channels: int) -> list[int]:
    n, _, height, width, lanes = (int(s) for s in tensor.shape)
    return [n, channels // lanes, height, width, lanes]


@lowers("Split")
def split(emitter: Emitter, node: ir.Node) -> None:
    """Each output is a slice of its own."""
    axis = integer(node, "axis", 0) % len(static_shape(node.inputs[0]))
    start = 0
    for output in node.outputs:
        size = static_shape(output)[axis]
        _emit_slice(emitter, node.inputs[0], output, {axis: (start, 1)})
        start += size


@lowers("Slice")
def slice(emitter: Emitter, node: ir.Node) -> None:
    shape = static_shape(node.inputs[0])
    starts, ends = emitter.integers(node, 1) or [], emitter.integers(node, 2) or []
    axes = emitter.integers(node, 3) or list(range(len(starts)))
    steps = emitter.integers(node, 4) or [1] * len(starts)
    picks: dict[int, tuple[int, int]] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis % len(shape)]
        taken = range(size)[_clamped(start, size) : _clamped(end, size) : step]
        picks[axis % len(shape)] = (taken.start, step)
    _emit_slice(emitter, node.inputs[0], node.outputs[0], picks)


def _clamped(position: int, size: int) -> int | None:
    """A bound as Python's slices take it: ONNX writes huge numbers for the open end, either way."""
    if position < -size:
        return None if position < -(2**30) else position
    return position


def _emit_slice(emitter: Emitter, source: ir.Value | None, out: ir.Value, picks: dict[int, tuple[int, int]]) -> None:
    """Set ``out`` to what (start, step) picks along each axis; blocked where the input is."""
    shape, out_shape = static_shape(source), static_shape(out)
    constant = emitter.constant(source)
    if constant is not None:
        taken = [start + np.arange(size) * step for size, (start, step) in _every_axis(out_shape, picks)]
        emitter.set_constant(out, np.ascontiguousarray(constant[np.ix_(*taken)]))
        return
    picks = {axis: pick for axis, pick in picks.items() if pick != (0, 1) or shape[axis] != out_shape[axis]}
    if not picks:
        emitter.alias(out, source)
    elif emitter.is_blocked(source) and len(shape) == 4 and set(picks) <= {1, 2, 3}:
        _slice_blocked(emitter, source, out, picks)
    else:
        emitter.set_plain(out, _take(emitter, emitter.plain(source), out_shape, picks))


def _every_axis(shape: list[int], picks: dict[int, tuple[int, int]]) -> list[tuple[int, tuple[int, int]]]:
    return [(size, picks.get(axis, (0, 1))) for axis, size in enumerate(shape)]


def _slice_blocked(emitter: Emitter, source: ir.Value | None, out: ir.Value, picks: dict[int, tuple[int, int]]) -> None:
    _, channels, height, width = static_shape(out)
    start, step = picks.get(1, (0, 1))
    x = emitter.blocked(source).var
    n, _, _, _, lanes = shape_of(x)
    is_aligned = start % lanes == 0 and step == 1 and channels % lanes == 0
    moves = {axis: pick for axis, pick in picks.items() if axis != 1}
    if 1 in picks and not is_aligned:
        if moves:  # rare: both at once, and not at a block's border
            emitter.set_plain(out, _take(emitter, emitter.plain(source), static_shape(out), picks))
            return
        emit_channels(emitter, out, [source], start + np.arange(channels) * step)
        return
    if 1 in picks:
        moves[1] = (start // lanes, 1)
    blocks = -(-channels // lanes)
    emitter.set_blocked(out, _take(emitter, x, [n, blocks, height, width, lanes], moves), channels)


def _take(emitter: Emitter, x: relax.Expr, shape: Sequence[int], picks: dict[int, tuple[int, int]]) -> relax.Expr:
    def index(start: int, step: int) -> Index:
        return lambda i: i * step + start

    (axis, (start, step)), *others = picks.items()
    rest = shape_of(x)[axis + 1 :]
    offset = start * math.prod(rest) * np.dtype(dtype_of(x)).itemsize
    is_piece = not others and step == 1 and math.prod(shape[:axis]) == 1 and offset % ARENA_ALIGNMENT_BYTES == 0
    view = offset if is_piece else None
    return move(emitter, x, shape, {axis: index(*pick) for axis, pick in picks.items()}, "slice", view)


def move(
    emitter: Emitter,
    x: relax.Expr,
    shape: Sequence[int],
    indices: dict[int, Index],
    name: str,
    view: int | None = None,
) -> relax.Expr:
    """Emit a kernel whose output takes, axis by axis, the input position that ``indices`` says (else the same).

    ``view``: the byte from which the output is a piece of the input as it is.
    """

    def kernel(data: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            return data(*(indices[axis](v) if axis in indices else v for axis, v in enumerate(i)))

        return te.compute(list(shape), element, name=name)

    return emitter.te(kernel, x, name=name, fusion=Fusion.INJECTIVE, view=view)


@lowers("Pad")
def pad(emitter: Emitter, node: ir.Node) -> None:
    """Padding with a constant, a reflection, the edge or the other side; negative amounts cut off."""
    shape = static_shape(node.inputs[0])
    rank = len(shape)
    amounts = emitter.integers(node, 1) or []
    axes = emitter.integers(node, 3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    begins = dict(zip(axes, amounts[: len(axes)], strict=True))
    ends = dict(zip(axes, amounts[len(axes) :], strict=True))
    value = emitter.required_constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    fill = 0 if value is None or value.size == 0 else value.reshape(()).item()
    mode = text(node, "mode", "constant")
    padded = {axis: (begins[axis], ends[axis]) for axis in axes if begins[axis] or ends[axis]}
    if not padded:
        emitter.alias(node.outputs[0], node.inputs[0])
    elif emitter.is_blocked(node.inputs[0]) and rank == 4 and set(padded) <= {2, 3}:
        blocked = emitter.blocked(node.inputs[0])
        emitter.set_blocked(node.outputs[0], _padded(emitter, blocked.var, padded, mode, fill), blocked.channels)
    else:
        emitter.set_plain(node.outputs[0], _padded(emitter, emitter.plain(node.inputs[0]), padded, mode, fill))


def _padded(emitter: Emitter, x: relax.Expr, padded: dict[int, tuple[int, int]], mode: str, fill: float) -> relax.Expr:
    sizes = shape_of(x)
    shape = [size + sum(padded.get(axis, (0, 0))) for axis, size in enumerate(sizes)]
    if mode != "constant":
        indices = {axis: _MIRRORS[mode](begin, sizes[axis]) for axis, (begin, _) in padded.items()}
        return move(emitter, x, shape, indices, f"pad_{mode}")

    def kernel(data: te.Tensor) -> te.Tensor:
        def element(*i: tirx.Var) -> tirx.Expr:
            inside = []
            source = list(i)
            for axis, (begin, end) in padded.items():
                source[axis] = i[axis] - begin
                inside += [i[axis] >= begin] * (begin > 0) + [i[axis] < begin + sizes[axis]] * (end > 0)
            value = data(*source)
            return tirx.if_then_else(tirx.all(*inside), value, tirx.const(fill, data.dtype)) if inside else value

        return te.compute(shape, element, name="pad")

    return emitter.te(kernel, x, name="pad", fusion=Fusion.INJECTIVE)


def _reflect(begin: int, size: int) -> Index:
    """Mirrored at the first and the last element, without repeating them."""
    if size == 1:
        return lambda i: i * 0
    period = 2 * (size - 1)
    return lambda i: (size - 1) - tirx.abs(tirx.floormod(i - begin, period) - (size - 1))


_MIRRORS: dict[str, Callable[[int, int], Index]] = {
    "reflect": _reflect,
    "edge": lambda begin, size: lambda i: tirx.max(tirx.min(i - begin, size - 1), 0),
    "wrap": lambda begin, size: lambda i: tirx.truncmod(i + -begin % size, size),  # TVM 0.27 loses a floormod's offset
}


@lowers("Expand")
def expand(emitter: Emitter, node: ir.Node) -> None:
    x = emitter.plain(node.inputs[0])
    shape = static_shape(node.outputs[0])
    aligned = [1] * (len(shape) - len(shape_of(x))) + shape_of(x)
    repeated = {axis: (lambda i: i * 0) for axis, size in enumerate(aligned) if size == 1 and shape[axis] != 1}
    x = emitter.reshape(x, aligned)
    emitter.set_plain(node.outputs[0], move(emitter, x, shape, repeated, "expand") if repeated else x)


@lowers("Tile")
def tile(emitter: Emitter, node: ir.Node) -> None:
    x = emitter.plain(node.inputs[0])
    shape = static_shape(node.outputs[0])
    sizes = shape_of(x)

    def index(size: int) -> Index:
        return lambda i: tirx.floormod(i, size)

    repeated = {axis: index(size) for axis, size in enumerate(sizes) if size != shape[axis]}
    emitter.set_plain(node.outputs[0], move(emitter, x, shape, repeated, "tile") if repeated else x)


@lowers("DepthToSpace")
def depth_to_space(emitter: Emitter, node: ir.Node) -> None:
    """Channels become pixels: in DCR order the block's position is the slow part of the channel, in CRD the fast."""
    size = integer(node, "blocksize", 1)
    channels = static_shape(node.outputs[0])[1]
    is_dcr = text(node, "mode", "DCR") == "DCR"

    def kernel(data: te.Tensor) -> te.Tensor:
        def element(n: tirx.Var, c: tirx.Var, y: tirx.Var, x: tirx.Var) -> tirx.Expr:
            place = tirx.floormod(y, size) * size + tirx.floormod(x, size)
            channel = place * channels + c if is_dcr else c * size * size + place
            return data(n, channel, tirx.floordiv(y, size), tirx.floordiv(x, size))

        return te.compute(static_shape(node.outputs[0]), element, name="depth_to_space")

    x = emitter.plain(node.inputs[0])
    emitter.set_plain(node.outputs[0], emitter.te(kernel, x, name="depth_to_space", fusion=Fusion.INJECTIVE))


@lowers("SpaceToDepth")
def space_to_depth(emitter: Emitter, node: ir.Node) -> None:
    size = integer(node, "blocksize", 1)
    channels = static_shape(node.inputs[0])[1]

    def kernel(data: te.Tensor) -> te.Tensor:
        def element(n: tirx.Var, c: tirx.Var, y: tirx.Var, x: tirx.Var) -> tirx.Expr:
            place = tirx.floordiv(c, channels)
            row, column = tirx.floordiv(place, size), tirx.floormod(place, size)
            return data(n, tirx.floormod(c, channels), y * size + row, x * size + column)

        return te.compute(static_shape(node.outputs[0]), element, name="space_to_depth")

    x = emitter.plain(node.inputs[0])
    emitter.set_plain(node.outputs[0], emitter.te(kernel, x, name="space_to_depth", fusion=Fusion.INJECTIVE))


@lowers("Shape")
def shape(emitter: Emitter, node: ir.Node) -> None:
    sizes = static_shape(node.inputs[0])
    start, end = integer(node, "start", 0), integer(node, "end", len(sizes))
    emitter.set_constant(node.outputs[0], np.array(sizes[start:end], np.int64))


@lowers("Constant")
def constant(emitter: Emitter, node: ir.Node) -> None:
    name, attribute = next(iter(node.attributes.items()))
    readers: dict[str, Callable[[], np.ndarray]] = {
        "value": lambda: attribute.as_tensor().numpy(),
        "value_int": lambda: np.array(attribute.as_int(), np.int64),
        "value_ints": lambda: np.array(attribute.as_ints(), np.int64),
        "value_float": lambda: np.array(attribute.as_float(), np.float32),
        "value_floats": lambda: np.array(attribute.as_floats(), np.float32),
    }
    if name not in readers:
        raise UnsupportedError(f"Constant '{node.name}' holds {name}", fix="use a tensor, numbers or lists of numbers")
    emitter.set_constant(node.outputs[0], np.asarray(readers[name]()))


@lowers("ConstantOfShape")
def constant_of_shape(emitter: Emitter, node: ir.Node) -> None:
    sizes = emitter.integers(node, 0) or []
    value = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
    emitter.set_constant(node.outputs[0], np.full(sizes, value.reshape(()), value.dtype))
