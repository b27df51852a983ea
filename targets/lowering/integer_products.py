"""ConvInteger and MatMulInteger: exact sums of products of bytes.

Where the CPU has an instruction for it, four bytes of the reduction are one 32-bit word of both operands, and the
kernels are those of floats over words. The zero point of the data is a constant per output channel, taken off the
sum; padding counts as that zero point, so the constant is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.intrinsics import DotProduct, word_of
from edgec.targets.lowering import layouts
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.convolution import (
    KERNEL,
    conv2d_blocked,
    conv2d_plain_input,
    conv_geometry,
    depthwise_blocked,
    merge_groups,
    pad_spatial,
    widened,
)
from edgec.targets.lowering.dynamic_quantization import apply_along_columns
from edgec.targets.lowering.elementwise import combine
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_name, lowers, shape_of, static_shape
from edgec.targets.lowering.linear import batched_matmul, packed_matmul
from edgec.targets.lowering.scalars import Scalar

__all__: list[str] = []

BLOCK = 16
"""Channels per block of a tensor of bytes, and of the sums that are made of it."""

COLUMN_STEP = "edgec.column_step"
"""Attribute of a kernel whose output columns repeat in what they do: a tile has a multiple of so many, or all."""

EXACT_FLOAT = 1 << 24
"""float32 holds every integer up to this."""


def _integer_product(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return a.astype("int32") * b.astype("int32")


def _centred_weights(emitter: Emitter, node: ir.Node, axis: int) -> np.ndarray:
    """Constant weights less their zero points, in the smallest type that holds them: int8 or int16."""
    weights = emitter.required_constant(node, 1)
    wide = weights.astype(np.int16)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        zero = emitter.required_constant(node, 3).astype(np.int16)
        wide -= zero.reshape([-1 if i == axis % wide.ndim else 1 for i in range(wide.ndim)]) if zero.ndim else zero
    narrow = wide.astype(np.int8)
    return narrow if (narrow == wide).all() else wide


def _zero_point(emitter: Emitter, node: ir.Node) -> int | None:
    """The data's zero point; None where it is known only at run time."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return 0
    zero = emitter.constant(node.inputs[2])
    if zero is None:
        return None
    if zero.size != 1:
        raise UnsupportedError(f"{node.op_type} '{node.name}' has several zero points for its first operand")
    return int(zero.reshape(()))


def _of_type(emitter: Emitter, value: ir.Value | None, dtype: str) -> tuple[ir.Value, int]:
    """The bytes as uint8 or int8, and what is added to them, and to their zero point, for that."""
    assert value is not None
    own = dtype_name(value)
    if own == dtype:
        return value, 0
    other = ir.Value(name=f"{value.name}/{dtype}", shape=value.shape, type=ir.TensorType(ir.DataType[dtype.upper()]))

    def flip(x: tirx.Expr) -> tirx.Expr:
        return tirx.bitwise_xor(x.astype("uint8"), tirx.const(0x80, "uint8")).astype(dtype)

    if emitter.is_blocked(value):
        if not emitter.is_blocked(other):
            blocked = emitter.blocked(value)
            emitter.set_blocked(other, combine(emitter, flip, [blocked.var], "flip"), blocked.channels)
    else:
        emitter.set_plain(other, combine(emitter, flip, [emitter.plain(value)], "flip"))
    return other, 128 if dtype == "uint8" else -128


def _with_bias(emitter: Emitter, node: ir.Node, addend: np.ndarray, axis: int) -> tuple[ir.Value, np.ndarray]:
    """One addend (channels) for the zero point and the bias, if a constant is all that the sums are added to.

    Returns:
        The value that the sums with the addend are, and the addend as int32, which wraps around as the sums do.
    """
    out = node.outputs[0]
    users = [usage.node for usage in out.uses()]
    if len(users) == 1 and not out.is_graph_output() and users[0].op_type == "Add":
        add = users[0]
        bias = emitter.constant(add.inputs[0] if add.inputs[1] is out else add.inputs[1])
        shape = static_shape(out)
        vector = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
        is_vector = bias is not None and bias.ndim <= len(shape) and np.broadcast_shapes(bias.shape, shape) == (*shape,)
        if bias is not None and is_vector and bias.size == addend.size:
            aligned = bias.reshape([1] * (len(shape) - bias.ndim) + list(bias.shape))
            if list(aligned.shape) == [addend.size if size == -1 else 1 for size in vector]:
                emitter.take(add)
                out, addend = add.outputs[0], addend + bias.reshape(-1)
    return out, addend.astype(np.int32)


def _plus(emitter: Emitter, total: relax.Expr, addend: np.ndarray) -> relax.Expr:
    """``total`` and the addend, which is shaped to broadcast over it."""
    return combine(emitter, lambda a, b: a + b, [total, emitter.const(addend)], "bias") if addend.any() else total


# -- convolution -------------------------------------------------------------------------------------------------


@lowers("ConvInteger")
def conv_integer(emitter: Emitter, node: ir.Node) -> None:
    """From blocks of 16 bytes to blocks of 16 sums; a 1-D convolution is one over images of height 1."""
    weights = _centred_weights(emitter, node, 0)
    if weights.ndim not in (3, 4):
        raise UnsupportedError(f"ConvInteger '{node.name}' has {weights.ndim - 2} spatial axes; 1 and 2 are supported")
    zero = _zero_point(emitter, node)
    if zero is None:
        raise UnsupportedError(f"ConvInteger '{node.name}' has a zero point that is no constant")
    x = node.inputs[0]
    geometry = conv_geometry(node, list(weights.shape[2:]), static_shape(x)[2:])
    if weights.ndim == 3:
        weights, geometry = weights[:, :, None], widened(geometry)
    strides, dilations, pads = geometry
    group, out_channels = integer(node, "group", 1), weights.shape[0]
    sums = weights.sum(axis=(1, 2, 3), dtype=np.int64)
    dot = emitter.profile.dot_product if weights.dtype == np.int8 else None
    is_depthwise = group == static_shape(x)[1] == out_channels
    if dot is not None and not (is_depthwise and dilations[1] > 1):
        x, offset = _of_type(emitter, x, dot.data_dtype)
        zero += offset
        if is_depthwise:
            total = _depthwise_words(emitter, x, weights, geometry, dot, zero)
        else:
            total = _convolve_words(emitter, x, weights, geometry, group, dot, zero)
    elif is_depthwise:
        packed = emitter.const(layouts.pack_depthwise_weights(weights, BLOCK))
        arguments = (emitter.blocked(x, BLOCK).var, packed, strides, dilations, pads, _integer_product, zero)
        total = emitter.te(depthwise_blocked, *arguments, name="depthwise_integer", fusion=Fusion.EPILOGUE)
    else:
        weights, group = merge_groups(weights, group, BLOCK)
        packed = emitter.const(layouts.pack_conv_weights(weights, BLOCK, BLOCK))
        settings = (strides, dilations, pads, group, weights.shape[1], _integer_product, zero)
        total = _emit_conv(emitter, conv2d_blocked, emitter.blocked(x, BLOCK).var, packed, *settings)
    out, addend = _with_bias(emitter, node, -zero * sums, 1)
    spread = layouts.block_array(addend.reshape(1, -1, 1, 1), BLOCK)
    emitter.set_blocked(out, _plus(emitter, total, spread), out_channels)


def _convolve_words(
    emitter: Emitter,
    x: ir.Value,
    weights: np.ndarray,
    geometry: tuple[list[int], list[int], list[int]],
    group: int,
    dot: DotProduct,
    zero: int,
) -> relax.Expr:
    """A convolution over words of four channels, or of a window's columns and channels where these are few."""
    strides, dilations, pads = geometry
    fill = int(np.full(4, zero).astype(dot.data_dtype).view(np.int32)[0])
    by_output = emitter.profile.gpu is not None
    if group == 1 and weights.shape[1] < BLOCK and not emitter.is_blocked(x) and not by_output:
        return _convolve_plain(emitter, x, weights, geometry, dot, zero)
    if group > 1:
        weights, group = merge_groups(weights, group, BLOCK)
    in_words = _channel_words(weights)
    packed = emitter.const(layouts.pack_conv_weights(in_words, BLOCK, BLOCK // layouts.WORD_BYTES, by_output))
    image = emitter.blocked(x, BLOCK).var
    if any(pads) and emitter.profile.by_element:
        image, pads = _stored_padding(emitter, image, pads, zero), [0, 0, 0, 0]
    words = emitter.words(image)
    settings = (strides, dilations, pads, group, in_words.shape[1], dot, fill, by_output)
    return _emit_conv(emitter, conv2d_blocked, words, packed, *settings)


def _convolve_plain(
    emitter: Emitter,
    x: ir.Value,
    weights: np.ndarray,
    geometry: tuple[list[int], list[int], list[int]],
    dot: DotProduct,
    zero: int,
) -> relax.Expr:
    """A convolution of few channels in the plain layout, which are gathered into words.

    A word holds bytes of one column, or also of the next ones where that takes fewer words: the 25 bytes of a 5×5
    window of one channel are 10 words instead of 25. Rows are whole vectors where a CPU multiplies by their elements.
    """
    strides, dilations, pads = geometry
    inputs, kw = weights.shape[1], weights.shape[3]
    in_word = layouts.WORD_BYTES
    columns = min(1, math.lcm(inputs, in_word) // inputs, key=lambda n: -(-kw // n) * -(-n * inputs // in_word))
    image = emitter.reshape(emitter.plain(x), layouts.image_shape(shape_of(emitter.plain(x))))
    width = shape_of(image)[3] + pads[1] + pads[3]
    out_w = (width - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    whole = emitter.profile.lanes("int32") if emitter.profile.by_element and any(pads) else 1
    if columns == 1:  # gathered where they are computed
        fill = int(np.full(4, zero).astype(dot.data_dtype).view(np.int32)[0])
        words = emitter.te(gather_words, image, 1, 1, 1, fusion=Fusion.INJECTIVE)
        words = _copied(emitter, words, [*pads[:3], pads[3] + -width % whole], fill)
    else:
        taps, span = -(-kw // columns), columns * dilations[1]
        step = math.gcd(strides[1], span)
        missing = max(0, (out_w - 1) * strides[1] + (taps * columns - 1) * dilations[1] + 1 - width)
        words_of_row = (width + missing - (columns - 1) * dilations[1] - 1) // step + 1
        image = _copied(emitter, image, [*pads[:3], pads[3] + missing + -words_of_row % whole * step], zero)
        words = emitter.te(gather_words, image, columns, dilations[1], step, fusion=Fusion.INJECTIVE)
        strides, dilations = [strides[0], strides[1] // step], [dilations[0], span // step]
    packed = layouts.pack_conv_weights(_window_words(weights, columns), BLOCK, shape_of(words)[1])
    return _emit_conv(emitter, conv2d_plain_input, words, emitter.const(packed), strides, dilations, dot, out_w)


def _copied(emitter: Emitter, image: relax.Expr, pads: list[int], fill: int) -> relax.Expr:
    """The padded image, by a kernel of its own: conditions would keep others from computing in vectors."""
    if not any(pads):
        return image
    return emitter.te(pad_spatial, image, pads, 2, fill, name="pad", fusion=Fusion.OPAQUE)


def _stored_padding(emitter: Emitter, image: relax.Expr, pads: list[int], zero: int) -> relax.Expr:
    """The padded image in memory: conditions would part the vectors of what is read, or be tested for each again."""
    return emitter.te(pad_spatial, image, pads, 2, zero, name="pad", fusion=Fusion.INJECTIVE)


def _emit_conv(emitter: Emitter, function: Callable[..., te.Tensor], *arguments: object) -> relax.Expr:
    return emitter.te(function, *arguments, name="conv2d_integer", fusion=Fusion.EPILOGUE)


def _channel_words(weights: np.ndarray) -> np.ndarray:
    """int8 (O, I, kh, kw) -> int32 (O, ceil(I/4), kh, kw), zeros in the bytes beyond the last channel."""
    return _window_words(weights, 1)


def _window_words(weights: np.ndarray, columns: int) -> np.ndarray:
    """int8 (O, I, kh, kw) -> int32 (O, ceil(columns * I / 4), kh, ceil(kw / columns)), zeros beyond the last byte."""
    outputs, inputs, kh, kw = weights.shape
    taps, size = -(-kw // columns), columns * inputs
    whole = np.pad(weights, ((0, 0), (0, 0), (0, 0), (0, taps * columns - kw)))
    lines = whole.reshape(outputs, inputs, kh, taps, columns).transpose(0, 2, 3, 4, 1).reshape(outputs, kh, taps, size)
    padded = np.pad(lines, ((0, 0), (0, 0), (0, 0), (0, -size % layouts.WORD_BYTES)))
    words = layouts.word_array(padded.reshape(outputs, kh, taps, -1, layouts.WORD_BYTES))[..., 0]
    return words.transpose(0, 3, 1, 2)


def _depthwise_words(
    emitter: Emitter,
    x: ir.Value,
    weights: np.ndarray,
    geometry: tuple[list[int], list[int], list[int]],
    dot: DotProduct,
    zero: int,
) -> relax.Expr:
    """A depthwise convolution over words of four columns, each for as many output columns as it covers whole."""
    strides, dilations, pads = geometry
    channels, _, kh, kw = weights.shape
    count = -(-kw // 4)
    phases = (4 * count - kw) // strides[1] + 1
    shifted = np.zeros((phases, channels, kh, count * 4), np.int8)
    for phase in range(phases):
        shifted[phase, :, :, phase * strides[1] : phase * strides[1] + kw] = weights[:, 0]
    words = layouts.word_array(shifted.reshape(phases, channels, kh, count, 4))[..., 0]
    packed = np.stack([layouts.block_array(words[phase][None], BLOCK)[0] for phase in range(phases)], axis=1)
    image = emitter.blocked(x, BLOCK).var
    _, _, height, width, _ = shape_of(image)
    out_h = (height + pads[0] + pads[2] - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    out_w = (width + pads[1] + pads[3] - kw) // strides[1] + 1
    read = (-(-out_w // phases) - 1) * phases * strides[1] + 4 * count  # the last words may begin in the image only
    pads = [*pads[:3], max(pads[3], read - width - pads[1])]
    if any(pads) and emitter.profile.by_element:
        image, pads = _stored_padding(emitter, image, pads, zero), [0, 0, 0, 0]
    arguments = (image, emitter.const(packed), (out_h, out_w), strides, dilations, pads, dot, zero)
    return emitter.te(depthwise_words, *arguments, name="depthwise_integer", fusion=Fusion.EPILOGUE)


def depthwise_words(
    x: te.Tensor,
    w: te.Tensor,
    out_size: tuple[int, int],
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    dot: DotProduct,
    fill: int,
) -> te.Tensor:
    """Depthwise convolution: bytes x (N, C/c, H, W, c); words w (C/c, phases, kh, count, c) -> (N, C/c, *out_size, c).

    Output columns ``p`` to ``p + phases`` read the same ``count`` words; the weights of each are shifted to fit, with
    zeros around. The padding is enough for the last words.
    """
    n, blocks, _, _, lanes = (int(size) for size in x.shape)
    _, phases, kh, count, _ = (int(size) for size in w.shape)
    image = pad_spatial(x, pads, 2, fill)
    ky, group = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, count), "kx")

    def element(b: tirx.Var, o: tirx.Var, y: tirx.Var, xx: tirx.Var, c: tirx.Var) -> tirx.Expr:
        row = y * strides[0] + ky * dilations[0]
        first = xx // phases * (phases * strides[1]) + group * 4
        word = word_of([image[b, o, row, first + i, c] for i in range(4)])
        return te.sum(dot(word, w[o, xx % phases, ky, group, c]), axis=[ky, group])

    attrs = {KERNEL: "depthwise", COLUMN_STEP: phases}
    return te.compute((n, blocks, *out_size, lanes), element, name="depthwise", attrs=attrs)


def gather_words(x: te.Tensor, columns: int, dilation: int, step: int) -> te.Tensor:
    """Bytes (N, C, H, W) -> words (N, ceil(columns * C / 4), H, W') of all channels of so many columns.

    The columns are ``dilation`` apart, the words begin at every ``step``-th that has them all. What the bytes beyond
    the last one hold is open.
    """
    n, channels, height, width = (int(size) for size in x.shape)
    size = columns * channels

    def element(b: tirx.Var, group: tirx.Var, y: tirx.Var, xx: tirx.Var) -> tirx.Expr:
        word = None
        for byte in range(min(layouts.WORD_BYTES, size)):
            index = group * layouts.WORD_BYTES + byte
            index = index if size % layouts.WORD_BYTES == 0 else tirx.min(index, size - 1)
            column = xx * step + tirx.floordiv(index, channels) * dilation
            value = x[b, tirx.floormod(index, channels), y, column]
            part = tirx.shift_left(value.astype("uint8").astype("int32"), tirx.const(8 * byte, "int32"))
            word = part if word is None else tirx.bitwise_or(word, part)
        return word

    words = (width - (columns - 1) * dilation - 1) // step + 1
    return te.compute((n, -(-size // layouts.WORD_BYTES), height, words), element, name="gather_words")


# -- matrix products ---------------------------------------------------------------------------------------------


@lowers("MatMulInteger")
def matmul_integer(emitter: Emitter, node: ir.Node) -> None:
    """NumPy's matmul of bytes; a constant matrix on the right is packed at compile time."""
    weights = emitter.constant(node.inputs[1])
    if weights is None or weights.ndim != 2:
        out, total = node.outputs[0], _product_of_data(emitter, node)
    else:
        out, total = _product_with_weights(emitter, node)
    emitter.set_plain(out, emitter.reshape(total, static_shape(out)))


def _product_with_weights(emitter: Emitter, node: ir.Node) -> tuple[ir.Value, relax.Expr]:
    matrix = _centred_weights(emitter, node, 1)
    columns, sums = matrix.shape[1], matrix.sum(axis=0, dtype=np.int64)
    zero = _zero_point(emitter, node)
    dot = emitter.profile.dot_product if matrix.dtype == np.int8 else None
    value, offset = (node.inputs[0], 0) if dot is None else _of_type(emitter, node.inputs[0], dot.data_dtype)
    x = emitter.plain(value)
    if len(shape_of(x)) == 1:
        x = emitter.reshape(x, [1, *shape_of(x)])
    product: Scalar = _integer_product if dot is None else dot
    if dot is not None:
        missing = -len(matrix) % layouts.WORD_BYTES
        if missing:
            x = emitter.emit(relax.op.nn.pad(x, [0, 0] * (len(shape_of(x)) - 1) + [0, missing]))
        padded = np.pad(matrix, ((0, missing), (0, 0)))
        matrix = layouts.word_array(padded.reshape(-1, layouts.WORD_BYTES, columns).swapaxes(1, 2))[..., 0]
        x = emitter.words(x)
    by_column = emitter.profile.gpu is not None
    packed = emitter.const(layouts.pack_matrix(matrix, emitter.profile.lanes("int32"), by_column))
    arguments = (x, packed, columns, product, by_column)
    total = emitter.te(packed_matmul, *arguments, name="matmul_integer", fusion=Fusion.EPILOGUE)
    if zero is not None:
        out, addend = _with_bias(emitter, node, -(zero + offset) * sums, -1)
        return out, _plus(emitter, total, addend)

    def less(t: tirx.Expr, s: tirx.Expr, z: tirx.Expr) -> tirx.Expr:
        return t - (z.astype("int32") + offset) * s

    operands = [emitter.const(sums.astype(np.int32)), emitter.plain(node.inputs[2])]
    return node.outputs[0], apply_along_columns(emitter, less, total, operands, "zero_point")


def _product_of_data(emitter: Emitter, node: ir.Node) -> relax.Expr:
    """Of two tensors known at run time only; in float32 where that is exact."""
    left, right = (_centred_data(emitter, node, index) for index in (0, 1))
    if shape_of(left)[-1] * 255 * 255 < EXACT_FLOAT:
        left, right = (combine(emitter, lambda v: v.astype("float32"), [expr], "to_float") for expr in (left, right))
    product = emitter.te(batched_matmul, left, right, name="matmul", fusion=Fusion.EPILOGUE)
    return combine(emitter, lambda v: v.astype("int32"), [product], "to_integer")


def _centred_data(emitter: Emitter, node: ir.Node, index: int) -> relax.Expr:
    """Operand ``index`` less its zero point, as int32 with at least two axes."""
    expr = emitter.plain(node.inputs[index])
    if len(shape_of(expr)) == 1:
        expr = emitter.reshape(expr, [1, *shape_of(expr)] if index == 0 else [*shape_of(expr), 1])
    zero = node.inputs[2 + index] if len(node.inputs) > 2 + index else None
    if zero is None:
        return combine(emitter, lambda v: v.astype("int32"), [expr], "to_integer")
    shape = shape_of(emitter.plain(zero))
    spread = [*shape, 1] if index == 0 and len(shape) == 1 else shape or [1]
    operands = [expr, emitter.reshape(emitter.plain(zero), spread)]
    return combine(emitter, lambda v, z: v.astype("int32") - z.astype("int32"), operands, "centre")
