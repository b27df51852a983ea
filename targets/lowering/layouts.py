"""The blocked layout NCHWc: conversions at run time (tensor expressions) and at compile time (arrays)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from tvm import te, tirx

__all__ = [
    "block",
    "block_array",
    "image_shape",
    "pack_conv_weights",
    "pack_depthwise_weights",
    "pack_matrix",
    "unblock",
    "word_array",
    "words",
]

WORD_BYTES = 4


def image_shape(shape: Sequence[int]) -> list[int]:
    """(N, C, H, W) of a 4-D shape or, as an image of height 1, of a 3-D one."""
    return [*shape[:2], 1, shape[2]] if len(shape) == 3 else list(shape)


def block(x: te.Tensor, lanes: int) -> te.Tensor:
    """NCHW -> NCHWc, zeros in the lanes beyond the last channel."""
    n, channels, height, width = x.shape
    zero = tirx.const(0, x.dtype)

    def element(n_: tirx.Var, o: tirx.Var, y: tirx.Var, xx: tirx.Var, c: tirx.Var) -> tirx.Expr:
        if int(channels) % lanes == 0:
            return x[n_, o * lanes + c, y, xx]
        return tirx.if_then_else(o * lanes + c < channels, x[n_, o * lanes + c, y, xx], zero)

    return te.compute((n, -(-int(channels) // lanes), height, width, lanes), element, name="block")


def unblock(x: te.Tensor, channels: int) -> te.Tensor:
    """NCHWc -> NCHW with the padding lanes dropped."""
    n, _, height, width, lanes = x.shape
    return te.compute(
        (n, channels, height, width), lambda n_, c, y, xx: x[n_, c // lanes, y, xx, c % lanes], name="unblock"
    )


def words(x: te.Tensor) -> te.Tensor:
    """Bytes -> int32 elements of four, the first byte lowest, along the last axis."""
    return te.compute((*x.shape[:-1], x.shape[-1] // WORD_BYTES), lambda *i: word(x, i, i[-1]), name="words")


def word(x: te.Tensor, indices: Sequence[tirx.Var], number: tirx.Expr) -> tirx.Expr:
    """The four bytes of word ``number`` of the last axis; ``indices`` are those of the other axes, and one more."""
    parts = [x(*indices[:-1], number * WORD_BYTES + i).astype("uint8").astype("int32") for i in range(WORD_BYTES)]
    return reduce(tirx.bitwise_or, [tirx.shift_left(part, tirx.const(8 * i, "int32")) for i, part in enumerate(parts)])


def word_array(array: np.ndarray) -> np.ndarray:
    """Constant bytes (int8, uint8) as int32 elements of four, the first byte lowest, along the last axis."""
    return np.ascontiguousarray(array).view("<i4")


def block_array(array: np.ndarray, lanes: int, fill: float = 0.0) -> np.ndarray:
    """A constant NCHW array in NCHWc layout; ``fill`` is in the lanes beyond the last channel."""
    n, channels, height, width = array.shape
    blocks = -(-channels // lanes)
    padded = np.full((n, blocks * lanes, height, width), fill, array.dtype)
    padded[:, :channels] = array
    return np.ascontiguousarray(padded.reshape(n, blocks, lanes, height, width).transpose(0, 1, 3, 4, 2))


def pack_conv_weights(weights: np.ndarray, out_lanes: int, in_lanes: int, by_output: bool = False) -> np.ndarray:
    """Convolution weights (O, I, kh, kw) -> (O/o, I/i, kh, kw, i, o), padded with zeros; ``by_output``: (..., o, i)."""
    out_channels, in_channels, kh, kw = weights.shape
    out_blocks, in_blocks = -(-out_channels // out_lanes), -(-in_channels // in_lanes)
    padded = np.zeros((out_blocks * out_lanes, in_blocks * in_lanes, kh, kw), weights.dtype)
    padded[:out_channels, :in_channels] = weights
    split = padded.reshape(out_blocks, out_lanes, in_blocks, in_lanes, kh, kw)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 1, 3) if by_output else split.transpose(0, 2, 4, 5, 3, 1))


def pack_depthwise_weights(weights: np.ndarray, lanes: int) -> np.ndarray:
    """Depthwise weights (C, 1, kh, kw) -> (C/c, kh, kw, c), padded with zeros."""
    channels, _, kh, kw = weights.shape
    return np.asarray(block_array(weights.reshape(1, channels, kh, kw), lanes)[0])


def pack_matrix(matrix: np.ndarray, lanes: int, by_output: bool = False) -> np.ndarray:
    """The right operand (K, N) of a matrix product -> (ceil(N/lanes), K, lanes), padded with zeros.

    With ``by_output`` it is (ceil(N/lanes), lanes, K).
    """
    rows, columns = matrix.shape
    blocks = -(-columns // lanes)
    padded = np.zeros((rows, blocks * lanes), matrix.dtype)
    padded[:, :columns] = matrix
    split = padded.reshape(rows, blocks, lanes)
    return np.ascontiguousarray(split.transpose(1, 2, 0) if by_output else split.transpose(1, 0, 2))
