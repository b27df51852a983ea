"""Products with weights of 8 or 4 bits: small in memory, and numbers only in registers.

w = (q - zero point) · scale, with a scale for each column, or for each block of a column. Two rows
of the matrix share a byte where they have four bits, the even one lower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from tvm import relax, te, tirx

from edgec.targets.lowering import layouts
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.emitter import Emitter, Fusion

__all__ = ["QuantizedMatrix", "multiply_quantized", "read_quantized"]

KERNEL, PANEL, PARTIAL, PAIRS = "edgec.kernel", "edgec.panel", "edgec.partial", "edgec.pairs"

FEW_ROWS = 16
"""Up to so many rows of the input, to make numbers of integers for each tile anew costs less than to store them."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A constant right operand (K, N) of a product.

    Attributes:
        steps: The integers, int8 or uint8, shape (K, N).
        scales: float32, shape (ceil(K / block_size), N).
        zeros: Zero points, of the shape of the scales.
        block_size: Rows that share a scale.
        is_half_byte: Whether four bits are enough for a step.
    """

    steps: NDArray[np.generic]
    scales: NDArray[np.float32]
    zeros: NDArray[np.int32]
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
    zeros = np.zeros(scales.shape, np.int32) if zeros is None else zeros
    if scales.ndim < 2:
        scales, zeros = _as_matrix(scales, axis), _as_matrix(zeros, axis)
        block_size = 0
    if transposed:
        axis, steps, scales, zeros = 1 - axis, steps.T, scales.T, zeros.T
    depth, columns = steps.shape
    if (block_size and axis == 1) or (not block_size and scales.shape[0] != 1):
        return None
    blocks = len(scales) if block_size else 1
    zeros = np.broadcast_to(zeros.astype(np.int32), (blocks, columns))
    is_half_byte = steps.dtype.itemsize == 1 and steps.dtype.name.endswith("int4")
    return QuantizedMatrix(
        steps.astype(np.int8 if steps.dtype.name.startswith("int") else np.uint8),
        np.ascontiguousarray(np.broadcast_to(scales, (blocks, columns))),
        zeros,
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
        return emitter.const(layouts.pack_matrix(np.pad(array, ((0, 0), (0, blocks * lanes - columns))), lanes))

    steps, zeros = matrix.steps, matrix.zeros
    if matrix.is_half_byte:
        if steps.dtype == np.uint8:  # all are stored with sign
            steps, zeros = steps.astype(np.int8) - np.int8(8), zeros - np.int32(8)
        steps = _half_bytes(steps)
    operands = [packed(steps), packed(matrix.scales), *([packed(zeros)] if zeros.any() else [])]
    kernel = _Kernel(depth, columns, matrix.block_size, matrix.is_half_byte)
    return emitter.te(kernel, x, *operands, name="matmul_quantized", fusion=Fusion.EPILOGUE)


def _half_bytes(steps: NDArray[np.generic]) -> NDArray[np.int8]:
    """(K, N) -> (ceil(K / 2), N)."""
    even = np.pad(steps, ((0, len(steps) % 2), (0, 0))).astype(np.uint8)
    return ((even[::2] & 15) | even[1::2] << 4).astype(np.uint8).view(np.int8)


@dataclass(frozen=True)
class _Kernel:
    """Input (..., M, K), integers (blocks, K or K/2, lanes), scales (blocks, groups, lanes) -> (..., M, N).

    Attributes:
        depth: K.
        columns: N.
        block_size: Rows of the matrix that share a scale.
        is_half_byte: Whether two rows share a byte.
    """

    depth: int
    columns: int
    block_size: int
    is_half_byte: bool

    def __call__(self, x: te.Tensor, q: te.Tensor, s: te.Tensor, *z: te.Tensor) -> te.Tensor:
        blocks, _, lanes = (int(size) for size in q.shape)
        leading = [int(size) for size in x.shape[:-1]]
        is_whole = self.block_size >= self.depth
        has_few_rows = math.prod(leading) <= FEW_ROWS
        if has_few_rows and not is_whole and self.depth % self.block_size == 0:
            return self._without_padding(self._in_groups(x, q, s, *z), blocks * lanes)

        def number(block: tirx.Expr, row: tirx.Expr, lane: tirx.Expr) -> tirx.Expr:
            step = self._step(q, z, block, row, lane)
            return step if is_whole else step * s[block, row // self.block_size, lane]

        # Kept for some columns where several tiles of rows share them, else computed in registers.
        attrs = {} if has_few_rows else {PANEL: 1}
        weights = te.compute((blocks, self.depth, lanes), number, name="weights", attrs=attrs)
        k = te.reduce_axis((0, self.depth), "k")
        product = te.compute(
            (*leading, blocks * lanes),
            lambda *i: te.sum(x(*i[:-1], k) * weights[i[-1] // lanes, k, i[-1] % lanes], axis=[k]),
            name="matmul",
            attrs={KERNEL: "matmul", PAIRS: int(self.is_half_byte and has_few_rows)},
        )
        if is_whole:
            sums = product
            product = te.compute(sums.shape, lambda *i: sums(*i) * s[i[-1] // lanes, 0, i[-1] % lanes], name="scaled")
        return self._without_padding(product, blocks * lanes)

    def _in_groups(self, x: te.Tensor, q: te.Tensor, s: te.Tensor, *z: te.Tensor) -> te.Tensor:
        """Sums over the rows that share a scale, and the sum of these: one product less for every number."""
        blocks, _, lanes = (int(size) for size in q.shape)
        leading = [int(size) for size in x.shape[:-1]]
        size = self.block_size
        k, group = te.reduce_axis((0, size), "k"), te.reduce_axis((0, self.depth // size), "group")

        def term(*i: tirx.Expr) -> tirx.Expr:
            *rows, g, n = i
            return te.sum(x(*rows, g * size + k) * self._step(q, z, n // lanes, g * size + k, n % lanes), axis=[k])

        groups = self.depth // size
        attrs = {PARTIAL: 1, PAIRS: int(self.is_half_byte)}
        partial = te.compute((*leading, groups, blocks * lanes), term, name="partial", attrs=attrs)
        return te.compute(
            (*leading, blocks * lanes),
            lambda *i: te.sum(partial(*i[:-1], group, i[-1]) * s[i[-1] // lanes, group, i[-1] % lanes], axis=[group]),
            name="matmul",
            attrs={KERNEL: "matmul"},
        )

    def _step(
        self, q: te.Tensor, z: tuple[te.Tensor, ...], block: tirx.Expr, row: tirx.Expr, lane: tirx.Expr
    ) -> tirx.Expr:
        """An integer less its zero point, as float32."""
        if self.is_half_byte:
            pair = q[block, row // 2, lane].astype("int32").astype("uint32")
            up = tirx.shift_left(pair, (28 - row % 2 * 4).astype("uint32"))
            # Signed, TVM 0.27 takes the two shifts for a product and a quotient, which cancel.
            step = tirx.shift_right(tirx.reinterpret("int32", up), tirx.const(28, "int32"))
        else:
            step = q[block, row, lane].astype("int32")
        if z:
            step = step - z[0][block, 0 if self.block_size >= self.depth else row // self.block_size, lane]
        return step.astype("float32")

    def _without_padding(self, product: te.Tensor, padded: int) -> te.Tensor:
        if self.columns == padded:
            return product
        return te.compute((*product.shape[:-1], self.columns), lambda *i: product(*i), name="columns")
