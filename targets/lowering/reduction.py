"""Reductions along axes, softmax, and positions of extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.targets.lowering import scalars
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.elementwise import combine, emit_map
from edgec.targets.lowering.emitter import Emitter, Fusion, dtype_of, lowers, shape_of, static_shape
from edgec.targets.lowering.pooling import emit_global_pool
from edgec.targets.lowering.scalars import Scalar

__all__ = ["emit_mean", "emit_reduction"]

KERNEL = "edgec.kernel"


@dataclass(frozen=True)
class Reduction:
    """What a Reduce operator computes: ``after(combine(before(x)))``, ``after`` getting the number of elements too."""

    combine: Callable[..., tirx.Expr]
    before: Scalar | None = None
    after: Callable[[tirx.Expr, int], tirx.Expr] | None = None


_product = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")

_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": Reduction(te.sum),
    "ReduceMean": Reduction(te.sum, after=lambda s, n: s * tirx.const(1 / n, s.ty.dtype)),
    "ReduceMax": Reduction(te.max),
    "ReduceMin": Reduction(te.min),
    "ReduceProd": Reduction(_product),
    "ReduceL1": Reduction(te.sum, before=tirx.abs),
    "ReduceL2": Reduction(te.sum, before=lambda x: x * x, after=lambda s, _: tirx.sqrt(s)),
    "ReduceSumSquare": Reduction(te.sum, before=lambda x: x * x),
}


@lowers(*_REDUCTIONS)
def reduce(emitter: Emitter, node: ir.Node) -> None:
    """Reductions over the spatial axes alone are global pools and stay blocked."""
    shape = static_shape(node.inputs[0])
    axes = emitter.integers(node, 1) or []
    kind = _REDUCTIONS[node.op_type]
    if not axes and integer(node, "noop_with_empty_axes", 0):  # each element is reduced for itself
        before, after = kind.before or (lambda x: x), kind.after or (lambda s, _: s)
        emit_map(emitter, node, lambda x: after(before(x), 1))
        return
    axes = sorted(axis % len(shape) for axis in axes) if axes else list(range(len(shape)))
    pools = {"ReduceMean": "sum", "ReduceMax": "max"}
    if emitter.is_blocked(node.inputs[0]) and axes == [2, 3] and node.op_type in pools and integer(node, "keepdims", 1):
        emit_global_pool(emitter, node, pools[node.op_type])
        return
    result = emit_reduction(emitter, emitter.plain(node.inputs[0]), axes, kind.combine, kind.before, node.op_type)
    if kind.after is not None:
        count, after = int(np.prod([shape[axis] for axis in axes])), kind.after
        result = combine(emitter, lambda s: after(s, count), [result], "finish")
    emitter.set_plain(node.outputs[0], emitter.reshape(result, static_shape(node.outputs[0])))


def emit_reduction(
    emitter: Emitter,
    x: relax.Expr | Sequence[relax.Expr],
    axes: Sequence[int],
    combine_: Callable[..., tirx.Expr] = te.sum,
    before: Scalar | None = None,
    name: str = "reduce",
) -> relax.Expr:
    """Reduce ``before(x)``, the axes kept as 1.

    Args:
        emitter: The emission.
        x: The tensor, or several for ``before`` to combine, those after the first broadcast along ``axes``.
        axes: Axes of the first tensor.
        combine_: ``te.sum``, ``te.max`` or another reducer.
        before: Applied to each element.
        name: The kernel's name.
    """
    exprs = list(x) if isinstance(x, list | tuple) else [x]

    def kernel(*tensors: te.Tensor) -> te.Tensor:
        shape = [int(s) for s in tensors[0].shape]
        reduced = {axis: te.reduce_axis((0, shape[axis]), f"r{axis}") for axis in axes}

        def element(*indices: tirx.Var) -> tirx.Expr:
            source = [reduced.get(axis, index) for axis, index in enumerate(indices)]
            values = [tensors[0](*source)]
            for tensor in tensors[1:]:
                sizes = zip(source, tensor.shape, shape, strict=True)
                values.append(tensor(*(i if int(size) == full else 0 for i, size, full in sizes)))
            return combine_(before(*values) if before else values[0], axis=list(reduced.values()))

        extents = [1 if axis in reduced else size for axis, size in enumerate(shape)]
        return te.compute(extents, element, name=name.lower(), attrs={KERNEL: "reduce"})

    return emitter.te(kernel, *exprs, name=name.lower(), fusion=Fusion.EPILOGUE)


def emit_mean(
    emitter: Emitter, x: relax.Expr | Sequence[relax.Expr], axes: Sequence[int], before: Scalar | None = None
) -> relax.Expr:
    """The mean of ``before(x)`` along ``axes``, kept as 1."""
    first = x[0] if isinstance(x, list | tuple) else x
    count = int(np.prod([shape_of(first)[axis] for axis in axes]))
    total = emit_reduction(emitter, x, axes, te.sum, before, "mean")
    return combine(emitter, lambda s: s * tirx.const(1 / count, s.ty.dtype), [total], "finish")


@lowers("Softmax", "LogSoftmax")
def softmax(emitter: Emitter, node: ir.Node) -> None:
    """The maximum, the sum of exp(x - maximum), and the quotient: exp twice is cheaper than storing it once."""
    x = emitter.plain(node.inputs[0])
    axis = integer(node, "axis", -1) % len(shape_of(x))
    highest = emit_reduction(emitter, x, [axis], te.max, name="softmax_max")
    total = emit_reduction(emitter, [x, highest], [axis], te.sum, lambda v, m: scalars.exp(v - m), "softmax_sum")
    if node.op_type == "Softmax":
        result = combine(emitter, lambda v, m, s: scalars.exp(v - m) / s, [x, highest, total], "softmax")
    else:
        result = combine(emitter, lambda v, m, s: v - m - tirx.log(s), [x, highest, total], "log_softmax")
    emitter.set_plain(node.outputs[0], result)


@lowers("ArgMax", "ArgMin")
def arg_extreme(emitter: Emitter, node: ir.Node) -> None:
    """The extreme, then the first position that equals it (the last with select_last_index)."""
    x = emitter.plain(node.inputs[0])
    axis = integer(node, "axis", 0) % len(shape_of(x))
    extreme = emit_reduction(emitter, x, [axis], te.max if node.op_type == "ArgMax" else te.min, name="extreme")
    last = bool(integer(node, "select_last_index", 0))
    result = emitter.te(positions, x, extreme, axis, last, name="position", fusion=Fusion.EPILOGUE)
    emitter.set_plain(node.outputs[0], emitter.reshape(result, static_shape(node.outputs[0])))


def positions(x: te.Tensor, extreme: te.Tensor, axis: int, last: bool) -> te.Tensor:
    """The position (int64) of ``extreme`` along ``axis``, which is kept as 1; always inside it."""
    size = int(x.shape[axis])
    k = te.reduce_axis((0, size), "k")

    def element(*i: tirx.Var) -> tirx.Expr:
        found = x(*i[:axis], k, *i[axis + 1 :]) == extreme(*i)
        position = tirx.Select(found, tirx.Cast("int64", k), tirx.const(0 if last else size - 1, "int64"))
        return te.max(position, axis=[k]) if last else te.min(position, axis=[k])

    return te.compute(extreme.shape, element, name="position", attrs={KERNEL: "reduce"})


@lowers("CumSum")
def cumsum(emitter: Emitter, node: ir.Node) -> None:
    """Each element as the sum of what comes before: quadratic, but parallel and of one kernel."""
    x = emitter.plain(node.inputs[0])
    shape = shape_of(x)
    axis = int(emitter.required_constant(node, 1).reshape(())) % len(shape)
    exclusive, reverse = integer(node, "exclusive", 0), integer(node, "reverse", 0)

    def kernel(data: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, shape[axis]), "k")

        def element(*i: tirx.Var) -> tirx.Expr:
            distance = k - i[axis] if reverse else i[axis] - k
            value = data(*i[:axis], k, *i[axis + 1 :])
            return te.sum(tirx.Select(distance >= exclusive, value, tirx.const(0, data.dtype)), axis=[k])

        return te.compute(shape, element, name="cumsum", attrs={KERNEL: "reduce"})

    assert dtype_of(x) != "bool"
    emitter.set_plain(node.outputs[0], emitter.te(kernel, x, name="cumsum", fusion=Fusion.EPILOGUE))
