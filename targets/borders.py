"""Parts the inside of an image from its border, so that no loop over channels tests what it reads."""

from __future__ import annotations

from functools import reduce

from tvm import ir, prim, tirx
from tvm_ffi import structural_equal
from tvm_ffi.structural import StructuralVisitor, structural_map, structural_visit

from edgec.targets.whole_vectors import conjuncts

__all__ = ["part_borders"]

MAX_CONDITIONS = 4
"""What lies at the border is written out for all cases of up to so many conditions: the four sides of an image."""


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def part_borders(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Take the conditions of padding out of loops that do not change them.

    A convolution reads ``if_then_else(inside, x[...], 0)``. LLVM takes such a test out of a loop, but unrolls a short
    loop (8 input channels with AVX2, 4 with NEON) before it looks, and is left with a branch for every element. A loop
    nest gets a version without conditions, for where all hold, and one whose inner loops stand once for each case.
    """
    return function.with_body(_part(function.body, frozenset()))


def _part(statement: tirx.Stmt, outer: frozenset[int]) -> tirx.Stmt:
    """``outer``: the loop variables around the statement."""
    conditions = _conditions(statement)
    if not conditions:
        return statement
    if isinstance(statement, tirx.SeqStmt) and _has_loop(statement):
        return tirx.SeqStmt([_part(inner, outer) for inner in statement.seq])
    if isinstance(statement, tirx.AttrStmt):
        return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, _part(statement.body, outer))
    if not isinstance(statement, tirx.For | tirx.SeqStmt):
        return statement
    if all(_variables(condition) <= outer for condition in conditions):
        inside = reduce(_assume_true, conditions, statement)
        return tirx.IfThenElse(reduce(tirx.And, conditions), inside, _written_out(statement))
    if isinstance(statement, tirx.SeqStmt):
        return statement
    return _with_body(statement, _part(statement.body, outer | {statement.loop_var.__chandle__()}))


def _written_out(statement: tirx.Stmt) -> tirx.Stmt:
    """The innermost loops, and what has none, each once for every case of its conditions."""
    if isinstance(statement, tirx.SeqStmt) and _has_loop(statement):
        return tirx.SeqStmt([_written_out(inner) for inner in statement.seq])
    if not isinstance(statement, tirx.For | tirx.SeqStmt):
        return statement
    if isinstance(statement, tirx.For) and _has_loop(statement.body):
        return _with_body(statement, _written_out(statement.body))
    return _cases(statement) if len(_conditions(statement)) <= MAX_CONDITIONS else statement


def _cases(statement: tirx.Stmt) -> tirx.Stmt:
    """A row outside of the image is all padding: where its condition fails, no other is left."""
    conditions = _conditions(statement)
    if not conditions:
        return statement
    first = conditions[0]
    return tirx.IfThenElse(first, _cases(_assume_true(statement, first)), _cases(_assume_false(statement, first)))


def _with_body(loop: tirx.For, body: tirx.Stmt) -> tirx.For:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations)


def _is_border(call: ir.Call) -> bool:
    """Whether the call reads padding: one test for all lanes, and a constant where it fails."""
    if call.op != ir.Op.get("prim.if_then_else"):
        return False
    condition, _, outside = call.args
    fill = outside.value if isinstance(outside, prim.Broadcast) else outside
    return isinstance(fill, prim.FloatImm | prim.IntImm) and str(condition.ty) == "bool" and not _loads(condition)


def _conditions(statement: tirx.Stmt) -> list[prim.Expr]:
    """The distinct conjuncts of all conditions of padding."""
    found: list[prim.Expr] = []

    def visit(call: ir.Call, visitor: StructuralVisitor) -> None:
        if _is_border(call):
            for condition in conjuncts(call.args[0]):
                if not any(structural_equal(condition, other) for other in found):
                    found.append(condition)
        visitor.default_visit(call)

    structural_visit(statement, (ir.Call, visit))
    return found


def _assume_true(statement: tirx.Stmt, condition: prim.Expr) -> tirx.Stmt:
    def replace(call: ir.Call) -> prim.Expr:
        if not _is_border(call):
            return call
        left = [part for part in conjuncts(call.args[0]) if not structural_equal(part, condition)]
        return tirx.if_then_else(reduce(tirx.And, left), *call.args[1:]) if left else call.args[1]

    return structural_map(statement, (ir.Call, replace))


def _assume_false(statement: tirx.Stmt, condition: prim.Expr) -> tirx.Stmt:
    def replace(call: ir.Call) -> prim.Expr:
        is_false = _is_border(call) and any(structural_equal(p, condition) for p in conjuncts(call.args[0]))
        return call.args[2] if is_false else call

    return structural_map(statement, (ir.Call, replace))


def _variables(expression: prim.Expr) -> set[int]:
    found: set[int] = set()
    structural_visit(expression, (ir.Var, lambda variable, _: found.add(variable.__chandle__())))
    return found


def _loads(expression: prim.Expr) -> bool:
    found: list[ir.TensorLoad] = []
    structural_visit(expression, (ir.TensorLoad, lambda load, _: found.append(load)))
    return bool(found)


def _has_loop(statement: tirx.Stmt) -> bool:
    found: list[tirx.For] = []
    structural_visit(statement, (tirx.For, lambda loop, _: found.append(loop)))
    return bool(found)
