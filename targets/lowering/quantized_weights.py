"""Products with weights of 8 or 4 bits: small in memory, and numbers only in registers.

w = (q - zero point) · scale, with a scale for each column, or for each block of a column. Four bits are stored without
sign, two rows of the matrix in a byte, the even one lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax, te, tirx

from edgec.targets.lowering import layouts
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.emitter import Emitter, Fusion

__all__ = ["QuantizedMatrix", "multiply_quantized", "read_quantized"]

KERNEL, PANEL, DEPTH_BLOCK, PAIRS = "edgec.kernel", "edgec.panel", "edgec.depth_block", "edgec.pairs"

_HALF = 8
"""What is added to an int4 so that it has no sign."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A constant right operand (K, N) of a product.

    Attributes:
        steps: The integers, int8 or uint8, shape (K, N).
        scales: float32, shape (ceil(K / block_size), N).
        zeros: Zero points as int32, of the shape of the scales; None where all are 0.
        block_size: Rows that share a scale.
        is_half_byte: Whether four bits are enough for a step.
    """

    steps: NDArray[np.generic]
    scales: NDArray[np.float32]
    zeros: NDArray[np.int32] | None
    block_size: int
    is_half_byte: bool


def read_quantized(emitter: Emitter, value: ir.Value | None, *, transposed: bool = False) -> QuantizedMatrix | None:
    """The matrix that ``value`` is, or whose transpose it is, if a DequantizeLinear makes it of constants in float32.

    None for one with a scale per row, or per block of a row: a sum over rows needs the numbers themselves.
    """
    node = None if value is None else value.producer()
    if node is None or node.domain or node.op_type != "DequantizeLinear" or value is None:
        return None
    steps, scales = (emitter.constant(source) for source in node.inputs[:2])
    zeros = emitter.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if steps is None or scales is None or steps.ndim != 2 or scales.dtype != np.float32:
        return None
    if steps.dtype.name not in ("int8", "uint8", "int4", "uint4") or value.dtype != ir.DataType.FLOAT:
        return None
    axis, block_size = integer(node, "axis", 1) % 2, integer(node, "block_size", 0)
    if scales.ndim < 2:
        scales, zeros = (None if a is None else _as_matrix(a, axis) for a in (scales, zeros))
        block_size = 0
    if transposed:
        axis = 1 - axis
        steps, scales, zeros = (None if a is None else a.T for a in (steps, scales, zeros))
    depth, columns = steps.shape
    if (block_size and axis == 1) or (not block_size and scales.shape[0] != 1):
        return None
    blocks = len(scales) if block_size else 1
    if zeros is not None:
        zeros = np.broadcast_to(zeros.astype(np.int32), (blocks, columns))
    is_half_byte = steps.dtype.itemsize == 1 and steps.dtype.name.endswith("int4")
    return QuantizedMatrix(
        steps.astype(np.int8 if steps.dtype.name.startswith("int") else np.uint8),
        np.ascontiguousarray(np.broadcast_to(scales, (blocks, columns))),
        zeros if zeros is not None and zeros.any() else None,
        block_size or depth,
        is_half_byte,
    )


def _as_matrix(array: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    """One number, or one per index of an axis, shaped to broadcast over a matrix."""
    return array.reshape((1, -1) if axis == 1 or array.size == 1 else (-1, 1))


def multiply_quantized(emitter: Emitter, x: relax.Expr, matrix: QuantizedMatrix, blocks: int) -> relax.Expr:
    """Input (..., K) times the matrix, in so many blocks of columns."""
    lanes = emitter.profile.lanes("float32")
    depth, columns = matrix.steps.shape

    def packed(array: NDArray[np.generic]) -> relax.Expr:
        return emitter.const(layouts.pack_matrix(np.pad(array, ((0, 0), (0, blocks * lanes - array.shape[1]))), lanes))

    zeros = matrix.zeros
    stored = matrix.steps
    if matrix.is_half_byte:
        offset = _HALF if matrix.steps.dtype == np.int8 else 0
        stored = _half_bytes((matrix.steps.astype(np.int16) + offset).astype(np.uint8))
        if zeros is not None:
            zeros = zeros + offset
    offset = _HALF if matrix.is_half_byte and matrix.steps.dtype == np.int8 and zeros is None else 0
    operands = [packed(stored), packed(matrix.scales), *([] if zeros is None else [packed(zeros)])]
    settings = _Settings(depth, columns, matrix.block_size, matrix.is_half_byte, offset)
    return emitter.te(quantized_matmul, settings, x, *operands, name="matmul_quantized", fusion=Fusion.EPILOGUE)


def _half_bytes(steps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(K, N) -> (ceil(K / 2), N)."""
    even = np.pad(steps, ((0, len(steps) % 2), (0, 0)))
    return np.asarray(even[::2] | even[1::2] << 4, np.uint8)


@dataclass(frozen=True)
class _Settings:
    """Of a kernel: the matrix's shape, and how its numbers are stored."""

    depth: int
    columns: int
    block_size: int
    is_half_byte: bool
    offset: int


def quantized_matmul(settings: _Settings, x: te.Tensor, q: te.Tensor, s: te.Tensor, *z: te.Tensor) -> te.Tensor:
    """Input (..., M, K), integers (blocks, K or K/2, lanes), scales (blocks, groups, lanes) -> (..., M, N).

    The numbers are a stage of their own, which the schedule computes in registers where each is read once, and keeps
    for some columns where rows of the input share it.
    """
    blocks, _, lanes = (int(size) for size in q.shape)
    depth, leading = settings.depth, [int(size) for size in x.shape[:-1]]

    def number(block: tirx.Var, row: tirx.Var, lane: tirx.Var) -> tirx.Expr:
        group = row // settings.block_size if settings.block_size < depth else 0
        scale = s[block, group, lane]
        if settings.is_half_byte:
            pair = q[block, row // 2, lane].astype("int32")
            step = tirx.bitwise_and(tirx.shift_right(pair, row % 2 * 4), tirx.const(15, "int32"))
        else:
            step = q[block, row, lane].astype("int32")
        if z:
            return (step - z[0][block, group, lane]).astype("float32") * scale
        if settings.offset:  # one multiply-add; the second product is exact
            return step.astype("float32") * scale - scale * tirx.const(float(settings.offset), "float32")
        return step.astype("float32") * scale

    weights = te.compute((blocks, depth, lanes), number, name="weights", attrs={PANEL: 1})
    k = te.reduce_axis((0, depth), "k")
    product = te.compute(
        (*leading, blocks * lanes),
        lambda *i: te.sum(x(*i[:-1], k) * weights[i[-1] // lanes, k, i[-1] % lanes], axis=[k]),
        name="matmul",
        attrs={
            KERNEL: "matmul",
            DEPTH_BLOCK: settings.block_size if depth % settings.block_size == 0 else depth,
            PAIRS: int(settings.is_half_byte),
        },
    )
    if settings.columns == blocks * lanes:
        return product
    return te.compute((*leading, settings.columns), lambda *i: product(*i), name="columns")
