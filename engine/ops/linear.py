"""Matrix products."""

from __future__ import annotations

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.ops.memory import SMALLEST_BATCH
from edgec.engine.ops.products import product as matrix_product
from edgec.engine.registry import Gradients, Sample, primitive
from edgec.engine.samples import normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


@primitive("MatMul", keeps_inputs={0: (1,), 1: (0,)})
def matmul(a: Array, b: Array) -> Array:
    return matrix_product(a, b)


@matmul.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    a_shape, b_shape = call.shape(0), call.shape(1)
    # As NumPy does: a vector on the left is a row, on the right a column.
    rows = a_shape if len(a_shape) > 1 else (1, *a_shape)
    columns = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    dy = dy if len(a_shape) > 1 else p.unsqueeze(dy, [-1 if len(b_shape) == 1 else -2])
    dy = dy if len(b_shape) > 1 else p.unsqueeze(dy, [-1])
    da = db = None
    if call.wants(0):
        b = p.reshape(call.input(1), columns)
        da = p.reshape(p.sum_to(p.matmul(dy, p.swap_axes(b, -1, -2)), rows), a_shape)
    if call.wants(1):
        a = p.reshape(call.input(0), rows)
        if len(b_shape) == 2 and len(a_shape) > 2:  # one large product instead of a sum over many small ones
            db = p.matmul(p.transpose(p.reshape(a, [-1, a.shape[-1]])), p.reshape(dy, [-1, dy.shape[-1]]))
        else:
            db = p.reshape(p.sum_to(p.matmul(p.swap_axes(a, -1, -2), dy), columns), b_shape)
    return da, db


matmul.samples = lambda: [
    Sample([normal(2, 3), normal(3, 4)]),
    Sample([normal(2, 1, 2, 3), normal(4, 3, 2)]),
    Sample([normal(2, 2, 3), normal(3, 4)]),
    Sample([normal(3), normal(3)]),
    Sample([normal(3), normal(2, 3, 2)]),
    Sample([normal(2, 2, 3), normal(3)]),
]


@primitive("Gemm", keeps_inputs={0: (1,), 1: (0,)})
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    if transB and not transA and len(a) >= SMALLEST_BATCH and len(b) > len(a):
        # The same product with its sides exchanged: OpenBLAS is a fifth faster with the longer one first.
        product: Array = matrix_product(b, a.T).T
    else:
        product = matrix_product(a.T if transA else a, b.T if transB else b)
    if alpha != 1.0:
        product *= product.dtype.type(alpha)
    if c is not None and beta != 0.0:
        product += c if beta == 1.0 else c * c.dtype.type(beta)
    return product


@gemm.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    trans_a, trans_b = call.integer("transA"), call.integer("transB")
    alpha, beta = call.real("alpha"), call.real("beta")
    da = db = dc = None
    if call.wants(0):
        first, second = (call.input(1), dy) if trans_a else (dy, call.input(1))
        da = p.call(
            "Gemm", first, second, alpha=alpha, transA=trans_b if trans_a else 0, transB=1 if trans_a else 1 - trans_b
        )
    if call.wants(1):
        first, second = (dy, call.input(0)) if trans_b else (call.input(0), dy)
        db = p.call(
            "Gemm", first, second, alpha=alpha, transA=1 if trans_b else 1 - trans_a, transB=trans_a if trans_b else 0
        )
    if call.wants(2):
        dc = p.sum_to(dy if beta == 1.0 else p.scale(dy, beta), call.shape(2))
    return da, db, dc


gemm.samples = lambda: [
    Sample([normal(2, 3), normal(3, 4), normal(4)]),
    Sample([normal(2, 3), normal(4, 3), normal(2, 1)], {"transB": 1}),
    Sample([normal(3, 2), normal(3, 4), normal(1, 4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    Sample([normal(3, 2), normal(4, 3), normal()], {"transA": 1, "transB": 1}),
    Sample([normal(2, 3), normal(3, 4)], {"alpha": -1.5}),
]
