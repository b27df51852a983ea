"""Reductions along axes, softmax, and positions of extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.targets.lowering import scalars
from edgec.targets.lowering.attributes import integer
from edgec.targets.lowering.elementwise import combine, emit_map
from edgec.targets.lowering.emitter import Emitter, Fusion, before_widening, dtype_of, lowers, shape_of, static_shape
from edgec.targets.lowering.pooling import emit_global_pool
from edgec.targets.lowering.rows import MAXIMUM, MINIMUM, PRODUCT, SUM, Fold, kept_stage, reduce_row
from edgec.targets.lowering.scalars import Scalar

__all__ = ["emit_mean", "emit_reduction"]

KERNEL = "edgec.kernel"


@dataclass(frozen=True)
class Reduction:
    """What a Reduce operator computes: ``after(fold(before(x)))``, ``after`` getting the number of elements too."""

    fold: Fold
    before: Scalar | None = None
    after: Callable[[tirx.Expr, int], tirx.Expr] | None = None


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": Reduction(SUM),
    "ReduceMean": Reduction(SUM, after=lambda s, n: s * tirx.const(1 / n, s.ty.dtype)),
    "ReduceMax": Reduction(MAXIMUM),
    "ReduceMin": Reduction(MINIMUM),
    "ReduceProd": Reduction(PRODUCT),
    "ReduceL1": Reduction(SUM, before=tirx.abs),
    "ReduceL2": Reduction(SUM, before=lambda x: x * x, after=lambda s, _: tirx.sqrt(s)),
    "ReduceSumSquare": Reduction(SUM, before=lambda x: x * x),
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
    pools = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max"}
    is_blocked = emitter.is_blocked(before_widening(node.inputs[0]))
    if is_blocked and axes == [2, 3] and node.op_type in pools and integer(node, "keepdims", 1):
        emit_global_pool(emitter, node, pools[node.op_type])
        return
    result = emit_reduction(emitter, emitter.plain(node.inputs[0]), axes, kind.fold, kind.before, node.op_type)
    if kind.after is not None:
        count, after = int(np.prod([shape[axis] for axis in axes])), kind.after
        result = combine(emitter, lambda s: after(s, count), [result], "finish")
    emitter.set_plain(node.outputs[0], emitter.reshape(result, static_shape(node.outputs[0])))


def emit_reduction(
    emitter: Emitter,
    x: relax.Expr | Sequence[relax.Expr],
    axes: Sequence[int],
    fold: Fold = SUM,
    before: Scalar | None = None,
    name: str = "reduce",
) -> relax.Expr:
    """Reduce ``before(x)``, the axes kept as 1.

    Args:
        emitter: The emission.
        x: The tensor, or several for ``before`` to combine, those after the first broadcast along ``axes``.
        axes: Axes of the first tensor.
        fold: How elements become one.
        before: Applied to each element.
        name: The kernel's name.
    """
    exprs = list(x) if isinstance(x, list | tuple) else [x]
    function = before or (lambda v: v)
    shape = shape_of(exprs[0])
    extents = [1 if axis in axes else size for axis, size in enumerate(shape)]
    if len(exprs) == 1 and list(axes) == list(range(axes[0], len(shape))):
        # Without a row TVM's GPU rules leave everything to one thread.
        rows, length = shape[: axes[0]] or [1] * (emitter.profile.gpu is not None), math.prod(shape[axes[0] :])
        lanes = emitter.profile.row_lanes(dtype_of(exprs[0]))

        def along_rows(tensor: te.Tensor) -> te.Tensor:
            return reduce_row(rows, length, lambda row, at: function(tensor(*row, at)), fold, lanes, name.lower())

        merged = emitter.reshape(exprs[0], [*rows, length])
        return emitter.reshape(emitter.te(along_rows, merged, name=name.lower(), fusion=Fusion.EPILOGUE), extents)

    def kernel(*tensors: te.Tensor) -> te.Tensor:
        reduced = {axis: te.reduce_axis((0, shape[axis]), f"r{axis}") for axis in axes}

        def element(*indices: tirx.Var) -> tirx.Expr:
            source = [reduced.get(axis, index) for axis, index in enumerate(indices)]
            values = [tensors[0](*source)]
            for tensor in tensors[1:]:
                sizes = zip(source, tensor.shape, shape, strict=True)
                values.append(tensor(*(i if int(size) == full else 0 for i, size, full in sizes)))
            return fold.reduce(function(*values), axis=list(reduced.values()))

        return te.compute(extents, element, name=name.lower(), attrs={KERNEL: "reduce"})

    return emitter.te(kernel, *exprs, name=name.lower(), fusion=Fusion.EPILOGUE)


def emit_mean(
    emitter: Emitter, x: relax.Expr | Sequence[relax.Expr], axes: Sequence[int], before: Scalar | None = None
) -> relax.Expr:
    """The mean of ``before(x)`` along ``axes``, kept as 1."""
    first = x[0] if isinstance(x, list | tuple) else x
    count = math.prod(shape_of(first)[axis] for axis in axes)
    total = emit_reduction(emitter, x, axes, SUM, before, "mean")
    return combine(emitter, lambda s: s * tirx.const(1 / count, s.ty.dtype), [total], "finish")


@lowers("Softmax", "LogSoftmax")
def softmax(emitter: Emitter, node: ir.Node) -> None:
    """The maximum, the sum of exp(x - maximum), and the quotient.

    Along the last axis in one kernel. Along others exp is computed twice, which is cheaper than storing it.
    """
    x = emitter.plain(node.inputs[0])
    axis = integer(node, "axis", -1) % len(shape_of(x))
    is_log = node.op_type == "LogSoftmax"
    if axis == len(shape_of(x)) - 1:
        lanes = emitter.profile.row_lanes(dtype_of(x))
        result = emitter.te(softmax_rows, x, is_log, lanes, name=node.op_type.lower(), fusion=Fusion.EPILOGUE)
        emitter.set_plain(node.outputs[0], result)
        return
    highest = emit_reduction(emitter, x, [axis], MAXIMUM, name="softmax_max")
    total = emit_reduction(emitter, [x, highest], [axis], SUM, lambda v, m: scalars.exp(v - m), "softmax_sum")
    if is_log:
        result = combine(emitter, lambda v, m, s: v - m - tirx.log(s), [x, highest, total], "log_softmax")
    else:
        result = combine(emitter, lambda v, m, s: scalars.exp(v - m) / s, [x, highest, total], "softmax")
    emitter.set_plain(node.outputs[0], result)


def softmax_rows(x: te.Tensor, is_log: bool, lanes: int) -> te.Tensor:
    """Softmax or its logarithm along the last axis: (*rows, length) -> the same shape."""
    *rows, length = (int(size) for size in x.shape)
    highest = reduce_row(rows, length, lambda row, at: x(*row, at), MAXIMUM, lanes, "softmax_max")

    def shifted(*i: tirx.Expr) -> tirx.Expr:
        return x(*i) - highest(*i[:-1], 0)

    if is_log:
        total = reduce_row(rows, length, lambda row, at: scalars.exp(shifted(*row, at)), SUM, lanes, "softmax_sum")
        offset = kept_stage((*rows, 1), lambda *i: highest(*i) + tirx.log(total(*i)), "offset")
        return te.compute(x.shape, lambda *i: x(*i) - offset(*i[:-1], 0), name="log_softmax")
    powers = kept_stage(x.shape, lambda *i: scalars.exp(shifted(*i)), "softmax_exp")
    total = reduce_row(rows, length, lambda row, at: powers(*row, at), SUM, lanes, "softmax_sum")
    factor = kept_stage((*rows, 1), lambda *i: tirx.const(1, x.dtype) / total(*i), "factor")
    return te.compute(x.shape, lambda *i: powers(*i) * factor(*i[:-1], 0), name="softmax")


@lowers("ArgMax", "ArgMin")
def arg_extreme(emitter: Emitter, node: ir.Node) -> None:
    """The extreme, then the first position that equals it (the last with select_last_index)."""
    x = emitter.plain(node.inputs[0])
    axis = integer(node, "axis", 0) % len(shape_of(x))
    extreme = emit_reduction(emitter, x, [axis], MAXIMUM if node.op_type == "ArgMax" else MINIMUM, name="extreme")
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
