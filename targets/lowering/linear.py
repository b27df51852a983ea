"""MatMul and Gemm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.targets.lowering import layouts
from edgec.targets.lowering.attention import emit_attention
from edgec.targets.lowering.attributes import integer, number
from edgec.targets.lowering.elementwise import combine
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_name, dtype_of, lowers, shape_of, static_shape
from edgec.targets.lowering.quantized_weights import QuantizedMatrix, multiply_quantized, read_quantized
from edgec.targets.lowering.scalars import Scalar, multiply

__all__ = ["batched_matmul", "packed_matmul", "times_constant"]

KERNEL = "edgec.kernel"

BY_COLUMN = "edgec.by_column"
"""Attribute of a product both of whose operands have the reduction last: how many axes lead that number products."""

CHUNK_BYTES = 16
"""What GPUs read at once: a reduction of whole chunks is the last axis of both operands."""


@lowers("MatMul")
def matmul(emitter: Emitter, node: ir.Node) -> None:
    """NumPy's matmul; a constant matrix on the right is packed at compile time."""
    if emit_attention(emitter, node):
        return
    a, b = node.inputs
    out_shape = static_shape(node.outputs[0])
    weights: QuantizedMatrix | np.ndarray | None = read_quantized(emitter, b)
    if weights is None:
        weights = emitter.constant(b)
    if isinstance(weights, QuantizedMatrix) or (weights is not None and weights.ndim <= 2):
        if not isinstance(weights, QuantizedMatrix):
            a, weights = emitter.halved(a, weights)
        x = emitter.plain(a)
        x = emitter.reshape(x, [1, *shape_of(x)] if len(shape_of(x)) == 1 else shape_of(x))
        result = times_constant(emitter, x, weights)
    else:
        left, right = (emitter.plain(value) for value in _halves(emitter, a, b))
        left_shape, right_shape = shape_of(left), shape_of(right)
        left = emitter.reshape(left, [1, *left_shape] if len(left_shape) == 1 else left_shape)
        right = emitter.reshape(right, [*right_shape, 1] if len(right_shape) == 1 else right_shape)
        result = _batched(emitter, left, right)
    result = emitter.narrowed(result, dtype_name(node.outputs[0]))
    emitter.set_plain(node.outputs[0], emitter.reshape(result, out_shape))


@lowers("Gemm")
def gemm(emitter: Emitter, node: ir.Node) -> None:
    """A product with alpha and a sum with beta: alpha goes into constant weights, beta into a constant bias."""
    alpha, beta = number(node, "alpha", 1.0), number(node, "beta", 1.0)
    a, b = node.inputs[:2]
    small = read_quantized(emitter, b, transposed=bool(integer(node, "transB", 0)))
    weights = emitter.constant(b)
    if weights is not None:
        a, weights = emitter.halved(a, weights)
    elif small is None:
        a, b = _halves(emitter, a, b)
    x = emitter.plain(a)
    if integer(node, "transA", 0):
        x = emitter.emit(relax.op.permute_dims(x))
    if small is not None:
        result = _scaled(emitter, times_constant(emitter, x, small), alpha)
    elif weights is not None:
        matrix = weights.T if integer(node, "transB", 0) else weights
        if matrix.dtype == np.float32:
            matrix, alpha = matrix * np.float32(alpha), 1.0
        result = _scaled(emitter, times_constant(emitter, x, matrix), alpha)
    else:
        y = emitter.plain(b)
        if integer(node, "transB", 0):
            y = emitter.emit(relax.op.permute_dims(y))
        result = _batched(emitter, x, y)
        result = _scaled(emitter, result, alpha)
    result = emitter.narrowed(result, dtype_name(node.outputs[0]))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = emitter.constant(node.inputs[2])
        if bias is not None:
            addend = emitter.const((bias * np.asarray(beta, bias.dtype)).astype(bias.dtype))
        else:
            addend = _scaled(emitter, emitter.plain(node.inputs[2]), beta)
        result = combine(emitter, lambda p, q: p + q, [result, addend], "add")
    emitter.set_plain(node.outputs[0], result)


def _halves(emitter: Emitter, a: ir.Value | None, b: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Both factors as float16, where both are and the target adds products of such in float32."""
    halves = emitter.half(a), emitter.half(b)
    return halves if all(dtype_name(half) == "float16" for half in halves) else (a, b)


def _scaled(emitter: Emitter, expr: relax.Expr, factor: float) -> relax.Expr:
    if factor == 1.0:
        return expr
    return combine(emitter, lambda p: p * tirx.const(factor, p.ty.dtype), [expr], "scale")


def times_constant(emitter: Emitter, x: relax.Expr, matrix: np.ndarray | QuantizedMatrix) -> relax.Expr:
    """Input (..., K) times a constant (K, N), or (K,); a GPU's product of float16 is float32."""
    if isinstance(matrix, QuantizedMatrix):
        columns = matrix.steps.shape[1]
        return multiply_quantized(emitter, x, matrix, _column_blocks(columns, emitter.profile.lanes("float32")))
    if matrix.ndim == 1:
        matrix = matrix.reshape(-1, 1)
    lanes = emitter.profile.lanes(matrix.dtype.name)
    blocks = _column_blocks(matrix.shape[1], lanes)
    padded = np.pad(matrix, ((0, 0), (0, blocks * lanes - matrix.shape[1])))
    by_column = emitter.profile.gpu is not None
    packed = emitter.const(layouts.pack_matrix(padded, lanes, by_column))
    assert dtype_of(x) == matrix.dtype.name
    arguments = (x, packed, matrix.shape[1], emitter.product(matrix.dtype.name), by_column)
    return emitter.te(packed_matmul, *arguments, name="matmul", fusion=Fusion.EPILOGUE)


def _batched(emitter: Emitter, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    dtype = dtype_of(a)
    *batch, depth = shape_of(a)[:-2] + shape_of(a)[-1:]
    is_whole = depth * np.dtype(dtype).itemsize % CHUNK_BYTES == 0
    by_column = emitter.profile.gpu is not None and is_whole and batch == shape_of(b)[:-2]
    if by_column:
        axes = list(range(len(batch)))
        b = emitter.emit(relax.op.permute_dims(b, [*axes, len(axes) + 1, len(axes)]))
    arguments = (a, b, emitter.product(dtype), by_column)
    return emitter.te(batched_matmul, *arguments, name="matmul", fusion=Fusion.EPILOGUE)


def _column_blocks(columns: int, lanes: int) -> int:
    """Vectors that columns take, and one more where no tile of several would divide them, see `schedules.matmul`."""
    blocks = -(-columns // lanes)
    return blocks + 1 if columns % lanes and blocks > 5 and all(blocks % vectors for vectors in (2, 3, 5)) else blocks


def packed_matmul(
    x: te.Tensor, w: te.Tensor, columns: int, product_of: Scalar = multiply, by_column: bool = False
) -> te.Tensor:
    """Input (..., M, K), weights (blocks, K, lanes) -> (..., M, N) with N <= blocks * lanes.

    With ``by_column``, the weights are (blocks, lanes, K), as tensor cores take them. ``product_of`` is that of an
    element and a weight. The product has whole vectors of columns; those beyond N are dropped by a second stage.
    """
    blocks, *matrix = (int(s) for s in w.shape)
    lanes, depth = matrix if by_column else matrix[::-1]
    leading = [int(s) for s in x.shape[:-1]]
    k = te.reduce_axis((0, depth), "k")

    def element(*i: tirx.Var) -> tirx.Expr:
        block, lane = i[-1] // lanes, i[-1] % lanes
        return te.sum(product_of(x(*i[:-1], k), w[block, lane, k] if by_column else w[block, k, lane]), axis=[k])

    attrs: dict[str, object] = {KERNEL: "matmul", **({BY_COLUMN: 0} if by_column else {})}
    product = te.compute((*leading, blocks * lanes), element, name="matmul", attrs=attrs)
    if columns == blocks * lanes:
        return product
    return te.compute((*leading, columns), lambda *i: product(*i), name="columns")


def batched_matmul(a: te.Tensor, b: te.Tensor, product_of: Scalar = multiply, by_column: bool = False) -> te.Tensor:
    """Product of (..., M, K) and (..., K, N), the leading axes broadcast; ``by_column``: b is (..., N, K)."""
    batch = np.broadcast_shapes([int(s) for s in a.shape[:-2]], [int(s) for s in b.shape[:-2]])
    k = te.reduce_axis((0, int(a.shape[-1])), "k")

    def pick(tensor: te.Tensor, indices: Sequence[tirx.Var]) -> list[tirx.Expr]:
        offset = len(batch) - (len(tensor.shape) - 2)
        return [0 if int(size) == 1 else i for size, i in zip(tensor.shape[:-2], indices[offset:-2], strict=True)]

    def element(*i: tirx.Var) -> tirx.Expr:
        within = (i[-1], k) if by_column else (k, i[-1])
        return te.sum(product_of(a(*pick(a, i), i[-2], k), b(*pick(b, i), *within)), axis=[k])

    attrs: dict[str, object] = {KERNEL: "matmul", **({BY_COLUMN: len(batch)} if by_column else {})}
    shape = (*batch, int(a.shape[-2]), int(b.shape[-2 if by_column else -1]))
    return te.compute(shape, element, name="matmul", attrs=attrs)
