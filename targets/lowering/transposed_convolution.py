"""ConvTranspose as an ordinary convolution whose output channels hold the pixels between two input pixels.

With stride s, output position i*s + p takes weights p, p + s, p + 2s ...: each of the s phases (s*s on an image) is a
convolution without stride, with its own part of the weights. One convolution computes all phases as channels, and a
move puts them side by side. No multiplication with inserted zeros is done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering import layouts
from edgec.targets.lowering.attributes import integer, integers, text
from edgec.targets.lowering.convolution import add_bias, conv2d_blocked, depthwise_blocked
from edgec.targets.lowering.emitter import (
    Emitter,
    Fusion,
    dtype_name,
    dtype_of,
    lowers,
    shape_of,
    static_shape,
)

__all__: list[str] = []


@dataclass(frozen=True)
class Phases:
    """One axis: output position y is row (y + crop) // stride - first of phase (y + crop) % stride.

    Attributes:
        stride: Number of phases.
        taps: Weights of a phase, the shorter ones filled up with zeros.
        crop: Full output positions cut off at the beginning (ONNX's pad).
        pads: What the input is padded with at the beginning and the end; negative amounts cut off.
        first: The row of phase 0 that the convolution computes first.
    """

    stride: int
    taps: int
    crop: int
    pads: tuple[int, int]
    first: int


def _phases(size: int, out_size: int, kernel: int, stride: int, begin: int) -> Phases:
    taps = -(-kernel // stride)
    first, last = begin // stride, (out_size - 1 + begin) // stride
    return Phases(stride, taps, begin, (taps - 1 - first, last - (size - 1)), first)


@lowers("ConvTranspose")
def conv_transpose(emitter: Emitter, node: ir.Node) -> None:
    x, out = node.inputs[0], node.outputs[0]
    weights = emitter.required_constant(node, 1)
    if weights.ndim not in (3, 4):
        raise UnsupportedError(
            f"ConvTranspose '{node.name}' has {weights.ndim - 2} spatial axes; 1 and 2 are supported"
        )
    rank = weights.ndim - 2
    strides, dilations = integers(node, "strides", [1] * rank), integers(node, "dilations", [1] * rank)
    sizes, out_sizes = static_shape(x)[2:], static_shape(out)[2:]
    kernel = [(k - 1) * d + 1 for k, d in zip(weights.shape[2:], dilations, strict=True)]
    begins = _begins(node, sizes, out_sizes, kernel, strides)
    if rank == 1:
        weights, dilations = weights[:, :, None], [1, *dilations]
        sizes, out_sizes, kernel, strides, begins = (
            [v, *vs] for v, vs in zip((1, 1, 1, 1, 0), (sizes, out_sizes, kernel, strides, begins), strict=True)
        )
    rows, columns = (_phases(*axis) for axis in zip(sizes, out_sizes, kernel, strides, begins, strict=True))
    group = integer(node, "group", 1)
    x, weights = emitter.halved(x, weights, keeps_weights=weights.shape[:2] == (group, 1) != (1, 1))
    stacked = _stack_phases(_by_output(_dilate(weights, dilations), group), rows, columns)
    pads = [rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]]
    image = emitter.blocked(x, emitter.profile.lanes(dtype_name(x))).var
    result = _convolve(emitter, image, stacked, group, pads)
    result = emitter.narrowed(add_bias(emitter, node, result, rows.stride * columns.stride), dtype_name(out))
    result = emitter.te(_interleave, result, rows, columns, out_sizes, name="interleave", fusion=Fusion.INJECTIVE)
    emitter.set_blocked(out, result, static_shape(out)[1])


def _begins(node: ir.Node, sizes: list[int], out_sizes: list[int], kernel: list[int], strides: list[int]) -> list[int]:
    """How much is cut off at the beginning of each axis."""
    rank = len(sizes)
    auto_pad = text(node, "auto_pad", "NOTSET")
    if auto_pad == "NOTSET" and "output_shape" not in node.attributes:
        return integers(node, "pads", [0] * (2 * rank))[:rank]
    if auto_pad == "VALID":
        return [0] * rank
    extra = integers(node, "output_padding", [0] * rank)
    total = [
        max(0, s * (size - 1) + more + k - new)
        for size, new, k, s, more in zip(sizes, out_sizes, kernel, strides, extra, strict=True)
    ]
    return [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total]


def _dilate(weights: np.ndarray, dilations: list[int]) -> np.ndarray:
    """The weights with zeros in between, so that the rest needs no dilation."""
    kh, kw = weights.shape[2:]
    dy, dx = dilations
    result = np.zeros((*weights.shape[:2], (kh - 1) * dy + 1, (kw - 1) * dx + 1), weights.dtype)
    result[:, :, ::dy, ::dx] = weights
    return result


def _by_output(weights: np.ndarray, group: int) -> np.ndarray:
    """(C, O/group, kh, kw) -> (O, C, kh, kw), or (C, 1, kh, kw) where every channel is a group of its own."""
    channels, outputs, kh, kw = weights.shape
    if group == channels and outputs == 1:
        return weights
    result = np.zeros((group, outputs, group, channels // group, kh, kw), weights.dtype)
    for g, part in enumerate(np.split(weights, group)):
        result[g, :, g] = part.swapaxes(0, 1)
    return result.reshape(group * outputs, channels, kh, kw)


def _stack_phases(weights: np.ndarray, rows: Phases, columns: Phases) -> np.ndarray:
    """(O, I, kh, kw) -> (phases, O, I, taps, taps), the taps reversed as a correlation wants them."""
    outputs, inputs, kh, kw = weights.shape
    full = np.zeros((outputs, inputs, rows.taps * rows.stride, columns.taps * columns.stride), weights.dtype)
    full[:, :, :kh, :kw] = weights
    split = full.reshape(outputs, inputs, rows.taps, rows.stride, columns.taps, columns.stride)[:, :, ::-1, :, ::-1]
    return split.transpose(3, 5, 0, 1, 2, 4).reshape(-1, outputs, inputs, rows.taps, columns.taps)


def _convolve(emitter: Emitter, x: relax.Expr, stacked: np.ndarray, group: int, pads: list[int]) -> relax.Expr:
    """All phases at once: (N, phases * O/o, H', W', o)."""
    lanes = shape_of(x)[4]
    if group > 1 and stacked.shape[2] == 1:
        packed = np.concatenate([layouts.pack_depthwise_weights(phase, lanes) for phase in stacked])
        arguments = (x, emitter.const(packed), [1, 1], [1, 1], pads, emitter.product(dtype_of(x)))
        return emitter.te(depthwise_blocked, *arguments, name="depthwise", fusion=Fusion.EPILOGUE)
    packed = np.concatenate([layouts.pack_conv_weights(phase, lanes, lanes) for phase in stacked])
    ones, product = [1, 1], emitter.product(dtype_of(x))
    all_arguments = (x, emitter.const(packed), ones, ones, pads, 1, None, product)
    return emitter.te(conv2d_blocked, *all_arguments, name="conv2d", fusion=Fusion.EPILOGUE)


def _interleave(x: te.Tensor, rows: Phases, columns: Phases, out_sizes: list[int]) -> te.Tensor:
    """(N, phases * O/o, H', W', o) -> (N, O/o, out height, out width, o)."""
    n, stacked, _, _, lanes = (int(s) for s in x.shape)
    blocks = stacked // (rows.stride * columns.stride)

    def element(b: tirx.Var, o: tirx.Var, y: tirx.Var, xx: tirx.Var, c: tirx.Var) -> tirx.Expr:
        row, column = y + rows.crop, xx + columns.crop
        phase = tirx.floormod(row, rows.stride) * columns.stride + tirx.floormod(column, columns.stride)
        return x[
            b,
            phase * blocks + o,
            tirx.floordiv(row, rows.stride) - rows.first,
            tirx.floordiv(column, columns.stride) - columns.first,
            c,
        ]

    return te.compute((n, blocks, *out_sizes, lanes), element, name="interleave")
