"""A pass over TensorIR: what remains of a vectorized axis becomes a shorter vector instead of a scalar loop."""

from __future__ import annotations

from functools import reduce
from typing import Any

from tvm import ir, prim, sym, tirx
from tvm_ffi.structural import structural_map, structural_walk

__all__ = ["conjuncts", "whole_vectors"]


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def whole_vectors(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Test vectors as a whole, where a vectorized loop tests each of its lanes against a limit.

    Of ``for lane in vectorized(16): if x * 16 + lane < 6625: ...`` TVM 0.27 makes a scalar loop. It is a full vector
    where ``x * 16 + 16 <= 6625``, else one of a single lane. The limit must be the same modulo 16 for any ``x``; what
    is not of this form stays as it is.
    """
    return function.with_body(structural_map(function.body, (tirx.For, _split)))


def _split(loop: tirx.For) -> tirx.Stmt:
    test = loop.body
    if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(test, tirx.IfThenElse) or test.else_case is not None:
        return loop
    conditions = conjuncts(test.condition)
    bounds = [condition for condition in conditions if _uses(condition, loop.loop_var)]
    if len(bounds) != 1 or not isinstance(bounds[0], prim.LT) or _uses(bounds[0].b, loop.loop_var):
        return loop
    analyzer, lanes = sym.Analyzer(), int(loop.extent)
    limit, first = bounds[0].b, _replace(bounds[0].a, loop.loop_var, prim.IntImm(str(loop.loop_var.ty.dtype), 0))
    remainder = analyzer.simplify(tirx.floormod(limit - first, lanes))
    if not analyzer.can_prove_equal(bounds[0].a - first, loop.loop_var) or not isinstance(remainder, prim.IntImm):
        return loop
    result: tirx.Stmt = tirx.IfThenElse(first < limit, _vector(loop, int(remainder)), None) if int(remainder) else None
    result = tirx.IfThenElse(first + lanes <= limit, _vector(loop, lanes), result)
    others = [condition for condition in conditions if condition is not bounds[0]]
    return tirx.IfThenElse(reduce(tirx.And, others), result, None) if others else result


def _vector(loop: tirx.For, lanes: int) -> tirx.Stmt:
    """The loop over its first lanes, without the test."""
    body, dtype = loop.body.then_case, str(loop.loop_var.ty.dtype)
    if lanes == 1:
        return _replace(body, loop.loop_var, prim.IntImm(dtype, 0))
    lane = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
    return tirx.For(
        lane,
        prim.IntImm(dtype, 0),
        prim.IntImm(dtype, lanes),
        tirx.ForKind.VECTORIZED,
        _replace(body, loop.loop_var, lane),
    )


def conjuncts(condition: prim.Expr) -> list[prim.Expr]:
    """What must all hold for the condition to."""
    if isinstance(condition, prim.And):
        return [*conjuncts(condition.a), *conjuncts(condition.b)]
    return [condition]


def _uses(expr: prim.Expr, variable: ir.Var) -> bool:
    found = False

    def visit(other: ir.Var) -> None:
        nonlocal found
        found = found or other.same_as(variable)

    structural_walk(expr, (ir.Var, visit))
    return found


def _replace(node: Any, variable: ir.Var, value: prim.Expr) -> Any:
    return structural_map(node, (ir.Var, lambda other: value if other.same_as(variable) else other))
