"""Conv: blocked direct convolution, depthwise convolution, and a general form for other groupings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering import layouts
from edgec.targets.lowering.emitter import Blocked, Emitter, dtype_of, lowers, shape_of, static_shape

__all__ = ["conv_geometry"]

KERNEL = "edgec.kernel"
"""Attribute of a tensor expression that names the schedule family of its kernel."""


def conv_geometry(node: ir.Node, kernel: list[int], spatial: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(strides, dilations, pads) of a convolution or pooling node; pads are all begins, then all ends."""
    rank = len(kernel)
    strides = _ints(node, "strides", [1] * rank)
    dilations = _ints(node, "dilations", [1] * rank)
    auto_pad = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if auto_pad == "VALID":
        return strides, dilations, [0] * (2 * rank)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            for size, s, k, d in zip(spatial, strides, kernel, dilations, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return strides, dilations, small + large if auto_pad == "SAME_UPPER" else large + small
    return strides, dilations, _ints(node, "pads", [0] * (2 * rank))


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


@lowers("Conv")
def conv(emitter: Emitter, node: ir.Node) -> None:
    x, w = node.inputs[0], node.inputs[1]
    weights = emitter.required_constant(node, 1)
    if weights.ndim == 3:  # 1-D: a 2-D convolution of height 1
        raise UnsupportedError(f"Conv '{node.name}' is one-dimensional", where=f"weights {weights.shape}")
    if weights.ndim != 4:
        raise UnsupportedError(f"Conv '{node.name}' has {weights.ndim - 2} spatial axes; 2 are supported")
    in_shape = static_shape(x)
    strides, dilations, pads = conv_geometry(node, list(weights.shape[2:]), in_shape[2:])
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    lanes = emitter.profile.lanes(weights.dtype.name)
    out_channels = weights.shape[0]
    if group == 1:
        result = _direct(emitter, x, weights, strides, dilations, pads, lanes)
    elif group == in_shape[1] == out_channels:
        padded = _pad_blocked(emitter, emitter.blocked(x), pads)
        packed = relax.const(layouts.pack_depthwise_weights(weights, lanes))
        result = emitter.te(depthwise_blocked, padded, packed, strides, dilations, name="depthwise")
    else:
        _general(emitter, node, weights, strides, dilations, pads, group)
        return
    bias = emitter.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        packed_bias = layouts.block_array(bias.reshape(1, -1, 1, 1), lanes)
        result = emitter.emit(relax.op.add(result, relax.const(packed_bias)))
    elif len(node.inputs) > 2 and node.inputs[2] is not None:
        raise UnsupportedError(f"Conv '{node.name}' has a bias that is not a constant", where=f"tensor '{w}'")
    emitter.set_blocked(node.outputs[0], result, out_channels)


def _direct(
    emitter: Emitter,
    x: ir.Value,
    weights: np.ndarray,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    lanes: int,
) -> relax.Expr:
    """A convolution without groups. Few input channels are read from the plain layout, else from the blocked one."""
    in_channels = weights.shape[1]
    if in_channels < lanes and not emitter.is_blocked(x):
        source = emitter.plain(x)
        if any(pads):
            source = emitter.te(pad_spatial, source, pads, 2, name="pad")
        packed = relax.const(layouts.pack_conv_weights(weights, lanes, in_channels))
        return emitter.te(conv2d_plain_input, source, packed, strides, dilations, name="conv2d")
    padded = _pad_blocked(emitter, emitter.blocked(x), pads)
    packed = relax.const(layouts.pack_conv_weights(weights, lanes, lanes))
    return emitter.te(conv2d_blocked, padded, packed, strides, dilations, name="conv2d")


def _pad_blocked(emitter: Emitter, x: Blocked, pads: list[int]) -> relax.Expr:
    return emitter.te(pad_spatial, x.var, pads, 2, name="pad") if any(pads) else x.var


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


def conv2d_blocked(x: te.Tensor, w: te.Tensor, strides: list[int], dilations: list[int]) -> te.Tensor:
    """Direct convolution: x (N, I/i, H, W, i), already padded; w (O/o, I/i, kh, kw, i, o) -> (N, O/o, H', W', o)."""
    n, in_blocks, height, width, in_lanes = (int(s) for s in x.shape)
    out_blocks, _, kh, kw, _, lanes = (int(s) for s in w.shape)
    out_h, out_w = _out(height, kh, strides[0], dilations[0]), _out(width, kw, strides[1], dilations[1])
    ic, ky, kx, ici = _reduce_axes((in_blocks, "ic"), (kh, "ky"), (kw, "kx"), (in_lanes, "ici"))
    return te.compute(
        (n, out_blocks, out_h, out_w, lanes),
        lambda b, o, y, xx, c: te.sum(
            x[b, ic, y * strides[0] + ky * dilations[0], xx * strides[1] + kx * dilations[1], ici]
            * w[o, ic, ky, kx, ici, c],
            axis=[ic, ky, kx, ici],
        ),
        name="conv2d",
        attrs={KERNEL: "conv2d"},
    )


def conv2d_plain_input(x: te.Tensor, w: te.Tensor, strides: list[int], dilations: list[int]) -> te.Tensor:
    """First layer: x (N, I, H, W), already padded; w (O/o, 1, kh, kw, I, o) -> (N, O/o, H', W', o)."""
    n, channels, height, width = (int(s) for s in x.shape)
    out_blocks, _, kh, kw, _, lanes = (int(s) for s in w.shape)
    out_h, out_w = _out(height, kh, strides[0], dilations[0]), _out(width, kw, strides[1], dilations[1])
    ic, ky, kx = _reduce_axes((channels, "ic"), (kh, "ky"), (kw, "kx"))
    return te.compute(
        (n, out_blocks, out_h, out_w, lanes),
        lambda b, o, y, xx, c: te.sum(
            x[b, ic, y * strides[0] + ky * dilations[0], xx * strides[1] + kx * dilations[1]] * w[o, 0, ky, kx, ic, c],
            axis=[ic, ky, kx],
        ),
        name="conv2d",
        attrs={KERNEL: "conv2d"},
    )


def depthwise_blocked(x: te.Tensor, w: te.Tensor, strides: list[int], dilations: list[int]) -> te.Tensor:
    """Depthwise convolution: x (N, C/c, H, W, c), already padded; w (C/c, kh, kw, c) -> (N, C/c, H', W', c)."""
    n, blocks, height, width, lanes = (int(s) for s in x.shape)
    _, kh, kw, _ = (int(s) for s in w.shape)
    out_h, out_w = _out(height, kh, strides[0], dilations[0]), _out(width, kw, strides[1], dilations[1])
    ky, kx = _reduce_axes((kh, "ky"), (kw, "kx"))
    return te.compute(
        (n, blocks, out_h, out_w, lanes),
        lambda b, o, y, xx, c: te.sum(
            x[b, o, y * strides[0] + ky * dilations[0], xx * strides[1] + kx * dilations[1], c] * w[o, ky, kx, c],
            axis=[ky, kx],
        ),
        name="depthwise",
        attrs={KERNEL: "conv2d"},
    )


def _out(size: int, kernel: int, stride: int, dilation: int) -> int:
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def _reduce_axes(*axes: tuple[int, str]) -> list[tirx.IterVar]:
    return [te.reduce_axis((0, extent), name) for extent, name in axes]


def _general(
    emitter: Emitter,
    node: ir.Node,
    weights: np.ndarray,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    group: int,
) -> None:
    """Groups of several channels, in the plain layout."""
    top, left, bottom, right = pads
    result = emitter.emit(
        relax.op.nn.conv2d(
            emitter.plain(node.inputs[0]),
            relax.const(weights),
            strides=strides,
            padding=[top, left, bottom, right],
            dilation=dilations,
            groups=group,
        )
    )
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = emitter.required_constant(node, 2)
        result = emitter.emit(relax.op.add(result, relax.const(bias.reshape(1, -1, 1, 1))))
    emitter.set_plain(node.outputs[0], result)
    assert shape_of(result)[1] == weights.shape[0] and dtype_of(result) == weights.dtype.name
