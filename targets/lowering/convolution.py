"""Conv: blocked direct convolution, depthwise convolution, and groups merged to fill whole blocks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering import layouts, winograd
from edgec.targets.lowering.attributes import integer, integers, text
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_name, dtype_of, lowers, shape_of, static_shape
from edgec.targets.lowering.scalars import Scalar, multiply

__all__ = [
    "add_bias",
    "conv2d_blocked",
    "conv2d_plain_input",
    "conv_geometry",
    "depthwise_blocked",
    "merge_groups",
    "pad_spatial",
    "widened",
]

KERNEL = "edgec.kernel"
"""Attribute of a tensor expression that names the schedule family of its kernel."""

GEOMETRY = "edgec.geometry"
"""Attribute of a convolution whose weights have the reduction last: strides, dilations, pads at the top and the left,
groups, input channels of a group, and what the input is padded with."""


def conv_geometry(node: ir.Node, kernel: list[int], spatial: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(strides, dilations, pads) of a convolution or pooling node; pads are all begins, then all ends."""
    rank = len(kernel)
    strides = integers(node, "strides", [1] * rank)
    dilations = integers(node, "dilations", [1] * rank)
    auto_pad = text(node, "auto_pad", "NOTSET")
    if auto_pad == "VALID":
        return strides, dilations, [0] * (2 * rank)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            for size, s, k, d in zip(spatial, strides, kernel, dilations, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return strides, dilations, small + large if auto_pad == "SAME_UPPER" else large + small
    return strides, dilations, integers(node, "pads", [0] * (2 * rank))


@lowers("Conv")
def conv(emitter: Emitter, node: ir.Node) -> None:
    """Blocked in and out; a 1-D convolution is one over images of height 1."""
    x = node.inputs[0]
    weights = emitter.required_constant(node, 1)
    if weights.ndim not in (3, 4):
        raise UnsupportedError(f"Conv '{node.name}' has {weights.ndim - 2} spatial axes; 1 and 2 are supported")
    geometry = conv_geometry(node, list(weights.shape[2:]), static_shape(x)[2:])
    if weights.ndim == 3:
        weights, geometry = weights[:, :, None], widened(geometry)
    strides, dilations, pads = geometry
    group = integer(node, "group", 1)
    in_channels, out_channels = static_shape(x)[1], weights.shape[0]
    is_depthwise = 1 < group == in_channels == out_channels
    x, weights = emitter.halved(x, weights, keeps_weights=is_depthwise)
    lanes = emitter.profile.lanes(dtype_name(x))
    if group == 1:
        result = _direct(emitter, x, weights, strides, dilations, pads, lanes)
    elif is_depthwise:
        packed, product = emitter.const(layouts.pack_depthwise_weights(weights, lanes)), emitter.product(dtype_name(x))
        arguments = (emitter.blocked(x, lanes).var, packed, strides, dilations, pads, product)
        result = emitter.te(depthwise_blocked, *arguments, name="depthwise", fusion=Fusion.EPILOGUE)
    else:
        weights, group = merge_groups(weights, group, lanes)
        result = _blocked(emitter, emitter.blocked(x, lanes).var, weights, strides, dilations, pads, group)
    result = emitter.narrowed(add_bias(emitter, node, result, 1), dtype_name(node.outputs[0]))
    emitter.set_blocked(node.outputs[0], result, out_channels)


def widened(geometry: tuple[list[int], list[int], list[int]]) -> tuple[list[int], list[int], list[int]]:
    """The geometry of a 1-D window as that of a 2-D one of height 1."""
    (stride,), (dilation,), (begin, end) = geometry
    return [1, stride], [1, dilation], [0, begin, 0, end]


def add_bias(emitter: Emitter, node: ir.Node, result: relax.Expr, repeats: int) -> relax.Expr:
    """Add the optional third input, ``repeats`` times over, to a blocked result."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return result
    bias, lanes = emitter.constant(node.inputs[2]), shape_of(result)[4]
    if bias is not None:
        packed = layouts.block_array(bias.reshape(1, -1, 1, 1), lanes)
        addend = emitter.const(np.tile(packed, (1, repeats, 1, 1, 1)).astype(dtype_of(result)))
    else:
        image = emitter.reshape(emitter.plain(node.inputs[2]), [1, shape_of(emitter.plain(node.inputs[2]))[0], 1, 1])
        addend = emitter.te(layouts.block, image, lanes)
        if repeats > 1:
            addend = emitter.emit(relax.op.tile(addend, (1, repeats, 1, 1, 1)))
        addend = emitter.narrowed(addend, dtype_of(result))
    return emitter.emit(relax.op.add(result, addend))


def merge_groups(weights: np.ndarray, group: int, lanes: int) -> tuple[np.ndarray, int]:
    """Weights of fewer, larger groups that each fill whole blocks, with zeros between channels of different groups.

    Returns:
        Weights (O, merged * I, kh, kw) and the number of groups left; one where no merging fills whole blocks. Where
        the last group is short of members, O is more than there are output channels: the rest of its block.
    """
    out_channels, inputs, kh, kw = weights.shape
    outputs = out_channels // group

    def fits(merged: int, channels: int) -> bool:
        """Whether so many groups fill whole blocks, and all of them no more blocks than their channels do."""
        blocks = -(-group // merged) * merged * channels // lanes
        return merged * channels % lanes == 0 and blocks == -(-group * channels // lanes)

    merged = next((m for m in range(1, group) if fits(m, inputs) and fits(m, outputs)), group)
    groups = -(-group // merged)
    result = np.zeros((groups * merged, outputs, merged, inputs, kh, kw), weights.dtype)
    members = np.arange(group)
    result[members, :, members % merged] = weights.reshape(group, outputs, inputs, kh, kw)
    return result.reshape(groups * merged * outputs, merged * inputs, kh, kw), groups


def _direct(
    emitter: Emitter,
    x: ir.Value | None,
    weights: np.ndarray,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    lanes: int,
) -> relax.Expr:
    """A convolution without groups. Few input channels are read from the plain layout, else from the blocked one."""
    in_channels = weights.shape[1]
    if in_channels < lanes and not emitter.is_blocked(x) and emitter.profile.gpu is None:
        source = emitter.plain(x)
        source = emitter.reshape(source, layouts.image_shape(shape_of(source)))
        if any(pads):  # few channels are copied quickly; conditions on single elements would stay in the inner loop
            source = emitter.te(pad_spatial, source, pads, 2, name="pad", fusion=Fusion.INJECTIVE)
        packed = emitter.const(layouts.pack_conv_weights(weights, lanes, in_channels))
        arguments = (source, packed, strides, dilations, emitter.product(weights.dtype.name))
        return emitter.te(conv2d_plain_input, *arguments, name="conv2d", fusion=Fusion.EPILOGUE)
    return _blocked(emitter, emitter.blocked(x, lanes).var, weights, strides, dilations, pads, 1)


def _blocked(
    emitter: Emitter,
    x: relax.Expr,
    weights: np.ndarray,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    group: int,
) -> relax.Expr:
    """A convolution from blocked to blocked, with groups of whole blocks: Winograd's or the direct one."""
    if weights.shape[2:] == (3, 3) and strides == dilations == [1, 1]:
        result = winograd.convolution(emitter, x, weights, pads, group)
        if result is not None:
            return result
    lanes = shape_of(x)[4]
    by_output = emitter.profile.gpu is not None
    packed = emitter.const(layouts.pack_conv_weights(weights, lanes, lanes, by_output))
    settings = (strides, dilations, pads, group, weights.shape[1], emitter.product(weights.dtype.name), 0.0, by_output)
    return emitter.te(conv2d_blocked, x, packed, *settings, name="conv2d", fusion=Fusion.EPILOGUE)


def pad_spatial(x: te.Tensor, pads: list[int], first_axis: int, value: float = 0.0) -> te.Tensor:
    """Pad the spatial axes, which begin at ``first_axis``; ``pads`` are all begins, then all ends."""
    rank = len(pads) // 2
    begin = [0] * first_axis + list(pads[:rank]) + [0] * (len(x.shape) - first_axis - rank)
    end = [0] * first_axis + list(pads[rank:]) + [0] * (len(x.shape) - first_axis - rank)
    shape = [int(s) + b + e for s, b, e in zip(x.shape, begin, end, strict=True)]
    fill = tirx.const(value, x.dtype)

    def element(*indices: tirx.Var) -> tirx.Expr:
        inside = []
        source = []
        for i, size, b, e in zip(indices, x.shape, begin, end, strict=True):
            source.append(i - b if b else i)
            if b:
                inside.append(i >= b)
            if e:
                inside.append(i < b + size)
        return tirx.if_then_else(tirx.all(*inside), x(*source), fill) if inside else x(*source)

    return te.compute(shape, element, name="pad")


def conv2d_blocked(
    x: te.Tensor,
    w: te.Tensor,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    group: int = 1,
    channels: int | None = None,
    product: Scalar = multiply,
    fill: float = 0.0,
    by_output: bool = False,
) -> te.Tensor:
    """Direct convolution: x (N, I/i, H, W, i); w (O/o, I/i/group, kh, kw, i, o) -> (N, O/o, H', W', o).

    With ``by_output``, w is (O/o, I/i/group, kh, kw, o, i), as tensor cores take it. Groups are made of whole blocks.
    The padding is a stage of its own, which the schedule inlines. Where the input ``channels`` of a group do not fill
    their last block, its padding lanes are left out. ``product`` is that of an element and a weight, ``fill`` what the
    input is padded with.
    """
    x = pad_spatial(x, pads, 2, fill) if any(pads) else x
    n, _, height, width, in_lanes = (int(s) for s in x.shape)
    out_blocks, in_blocks, kh, kw, *block = (int(s) for s in w.shape)
    lanes = block[0 if by_output else 1]
    out_h, out_w = _out(height, kh, strides[0], dilations[0]), _out(width, kw, strides[1], dilations[1])
    channels = channels or in_blocks * in_lanes
    whole = channels == in_blocks * in_lanes
    *outer, ky, kx, inner = _reduce_axes(
        *((in_blocks, "ic"),) * whole, (kh, "ky"), (kw, "kx"), (in_lanes if whole else channels, "ici")
    )
    ic, ici = (outer[0], inner) if whole else (tirx.floordiv(inner, in_lanes), tirx.floormod(inner, in_lanes))

    def element(b: tirx.Var, o: tirx.Var, y: tirx.Var, xx: tirx.Var, c: tirx.Var) -> tirx.Expr:
        source = ic if group == 1 else tirx.floordiv(o, out_blocks // group) * in_blocks + ic
        row, column = y * strides[0] + ky * dilations[0], xx * strides[1] + kx * dilations[1]
        within = (c, ici) if by_output else (ici, c)
        term = product(x[b, source, row, column, ici], w[o, ic, ky, kx, *within])
        return te.sum(term, axis=[*outer, ky, kx, inner])

    is_pointwise = (kh, kw, *strides) == (1, 1, 1, 1) and not any(pads)
    attrs: dict[str, object] = {KERNEL: "pointwise" if is_pointwise else "conv2d"}
    if by_output:
        attrs[GEOMETRY] = [*strides, *dilations, *pads[:2], group, channels, int(fill)]
    return te.compute((n, out_blocks, out_h, out_w, lanes), element, name="conv2d", attrs=attrs)


def conv2d_plain_input(
    x: te.Tensor,
    w: te.Tensor,
    strides: list[int],
    dilations: list[int],
    product: Scalar = multiply,
    out_w: int | None = None,
) -> te.Tensor:
    """First layer: x (N, I, H, W), already padded; w (O/o, 1, kh, kw, I, o) -> (N, O/o, H', W', o).

    W' is ``out_w`` where rows are longer than that takes.
    """
    n, channels, height, width = (int(s) for s in x.shape)
    out_blocks, _, kh, kw, _, lanes = (int(s) for s in w.shape)
    out_h, out_w = _out(height, kh, strides[0], dilations[0]), out_w or _out(width, kw, strides[1], dilations[1])
    ic, ky, kx = _reduce_axes((channels, "ic"), (kh, "ky"), (kw, "kx"))
    return te.compute(
        (n, out_blocks, out_h, out_w, lanes),
        lambda b, o, y, xx, c: te.sum(
            product(
                x[b, ic, y * strides[0] + ky * dilations[0], xx * strides[1] + kx * dilations[1]],
                w[o, 0, ky, kx, ic, c],
            ),
            axis=[ic, ky, kx],
        ),
        name="conv2d",
        attrs={KERNEL: "conv2d"},
    )


def depthwise_blocked(
    x: te.Tensor,
    w: te.Tensor,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    product: Scalar = multiply,
    fill: float = 0.0,
) -> te.Tensor:
    """Depthwise convolution: x (N, C/c, H, W, c); w (M * C/c, kh, kw, c) -> (N, M * C/c, H', W', c).

    With M > 1 there are M sets of weights, whose results lie one after the other.
    """
    x = pad_spatial(x, pads, 2, fill) if any(pads) else x
    n, blocks, height, width, lanes = (int(s) for s in x.shape)
    out_blocks, kh, kw, _ = (int(s) for s in w.shape)
    out_h, out_w = _out(height, kh, strides[0], dilations[0]), _out(width, kw, strides[1], dilations[1])
    ky, kx = _reduce_axes((kh, "ky"), (kw, "kx"))

    def element(b: tirx.Var, o: tirx.Var, y: tirx.Var, xx: tirx.Var, c: tirx.Var) -> tirx.Expr:
        source = o if blocks == out_blocks else tirx.floormod(o, blocks)
        row, column = y * strides[0] + ky * dilations[0], xx * strides[1] + kx * dilations[1]
        return te.sum(product(x[b, source, row, column, c], w[o, ky, kx, c]), axis=[ky, kx])

    return te.compute((n, out_blocks, out_h, out_w, lanes), element, name="depthwise", attrs={KERNEL: "depthwise"})


def _out(size: int, kernel: int, stride: int, dilation: int) -> int:
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def _reduce_axes(*axes: tuple[int, str]) -> list[tirx.IterVar]:
    return [te.reduce_axis((0, extent), name) for extent, name in axes]
