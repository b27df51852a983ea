"""A pass over TensorIR: what remains of a tiled axis is computed beside the whole tiles, not tested within each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from tvm import ir, prim, sym, tirx
from tvm_ffi import structural_equal
from tvm_ffi.structural import StructuralVisitor, structural_map, structural_visit

from edgec.targets.whole_vectors import conjuncts

__all__ = ["part_remainders"]


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def part_remainders(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Give whole tiles a version without tests, and the last one a version with fewer elements.

    Of ``for j in unrolled(4): if tile % 13 * 4 + j < 49: ...``, in a loop over ``tile`` and whatever else, it makes
    ``if tile % 13 * 4 + 4 <= 49: (for j in unrolled(4): ...) else: (for j in unrolled(1): ...)`` directly within the
    loop over ``tile``. TVM's LoopPartition cannot where the tiles of several axes are one parallel loop, and LLVM is
    left with a branch per element of the tile in the innermost loop.
    """
    return function.with_body(_part(function.body, sym.Analyzer(), []))


@dataclass(frozen=True)
class _Remainder:
    """The test ``first + j < limit`` of a tile of ``size`` elements, of which the last tile has ``rest``."""

    first: prim.Expr
    limit: prim.Expr
    size: int
    rest: int


def _part(statement: tirx.Stmt, analyzer: sym.Analyzer, outer: list[ir.Var]) -> tirx.Stmt:
    """``outer``: the variables of the loops around the statement, whose ranges the analyzer knows."""
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_part(inner, analyzer, outer) for inner in statement.seq])
    if isinstance(statement, tirx.AttrStmt):
        body = _part(statement.body, analyzer, outer)
        return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
    if not isinstance(statement, tirx.For) or statement.kind in (tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED):
        return statement
    variable = statement.loop_var
    analyzer.bind(variable, ir.Range.from_min_extent(statement.min, statement.extent))
    body = _parted(statement.body, analyzer, [*outer, variable])
    kind, binding, annotations = statement.kind, statement.thread_binding, statement.annotations
    return tirx.For(variable, statement.min, statement.extent, kind, body, binding, annotations)


def _parted(body: tirx.Stmt, analyzer: sym.Analyzer, outer: list[ir.Var]) -> tirx.Stmt:
    """What a loop holds: two versions, or what its own loops are parted to."""
    found = _find(body, analyzer, outer)
    if found is None:
        return _part(body, analyzer, outer)
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    shared = [inner for inner in statements if isinstance(inner, tirx.AllocBuffer)]
    both = [inner for inner in statements if not isinstance(inner, tirx.AllocBuffer)]
    whole, last = ([_tile(inner, found, count) for inner in both] for count in (found.size, found.rest))
    choice = tirx.IfThenElse(found.first + found.size <= found.limit, _sequence(whole), _sequence(last))
    return _sequence([*shared, choice])


def _sequence(statements: list[tirx.Stmt]) -> tirx.Stmt:
    return tirx.SeqStmt(statements) if len(statements) > 1 else statements[0]


def _find(body: tirx.Stmt, analyzer: sym.Analyzer, outer: list[ir.Var]) -> _Remainder | None:
    """The first test that nothing but the loops around the body and an unrolled one decides."""
    found: list[_Remainder] = []

    def visit(loop: tirx.For, visitor: StructuralVisitor) -> None:
        if loop.kind == tirx.ForKind.UNROLLED:
            found.extend(_tests(loop, analyzer, outer))
        visitor.default_visit(loop)

    structural_visit(body, (tirx.For, visit))
    return found[0] if found else None


def _tests(loop: tirx.For, analyzer: sym.Analyzer, outer: list[ir.Var]) -> list[_Remainder]:
    found: list[_Remainder] = []

    def visit(test: tirx.IfThenElse, visitor: StructuralVisitor) -> None:
        if test.else_case is None:
            known = (_remainder(condition, loop, analyzer, outer) for condition in conjuncts(test.condition))
            found.extend(remainder for remainder in known if remainder is not None)
        visitor.default_visit(test)

    structural_visit(loop.body, (tirx.IfThenElse, visit))
    return found


def _remainder(condition: prim.Expr, loop: tirx.For, analyzer: sym.Analyzer, outer: list[ir.Var]) -> _Remainder | None:
    """The condition as that of a tile along the loop, if the tiles begin at multiples of their size."""
    if not isinstance(condition, prim.LT) or not isinstance(condition.b, prim.IntImm):
        return None
    zero = prim.IntImm(str(loop.loop_var.ty.dtype), 0)
    first = analyzer.simplify(_replaced(condition.a, loop.loop_var, zero))
    used = _variables(first)
    if not used or not all(any(variable.same_as(other) for other in outer) for variable in used):
        return None
    if not analyzer.can_prove_equal(condition.a - first, loop.loop_var):
        return None
    size, limit = int(loop.extent), int(condition.b)
    rest, known = limit % size, analyzer.modular_set(first)
    if not rest or int(known.coeff) % size or int(known.base) % size or not analyzer.can_prove(first <= limit - rest):
        return None
    return _Remainder(first, condition.b, size, rest)


def _tile(statement: tirx.Stmt, tile: _Remainder, count: int) -> tirx.Stmt:
    """The statement, where its loops over the tile have so many elements, and do not test them."""
    analyzer = sym.Analyzer()

    def is_test(condition: prim.Expr, loop: tirx.For) -> bool:
        if not isinstance(condition, prim.LT) or not structural_equal(condition.b, tile.limit):
            return False
        return bool(analyzer.can_prove_equal(condition.a, tile.first + loop.loop_var))

    def replace(loop: tirx.For) -> tirx.Stmt:
        tested = False

        def untested(test: tirx.IfThenElse) -> tirx.Stmt:
            nonlocal tested
            left = [condition for condition in conjuncts(test.condition) if not is_test(condition, loop)]
            if test.else_case is not None or len(left) == len(conjuncts(test.condition)):
                return test
            tested = True
            return tirx.IfThenElse(reduce(tirx.And, left), test.then_case, None) if left else test.then_case

        body = structural_map(loop.body, (tirx.IfThenElse, untested)) if _is_of_size(loop, tile.size) else loop.body
        if not tested:
            return loop
        variable = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
        extent = prim.IntImm(str(loop.extent.ty.dtype), count)
        return tirx.For(variable, loop.min, extent, loop.kind, _replaced(body, loop.loop_var, variable))

    return structural_map(statement, (tirx.For, replace))


def _is_of_size(loop: tirx.For, size: int) -> bool:
    return loop.kind == tirx.ForKind.UNROLLED and int(loop.extent) == size


def _variables(expression: prim.Expr) -> list[ir.Var]:
    found: list[ir.Var] = []
    structural_visit(expression, (ir.Var, lambda variable, _: found.append(variable)))
    return found


def _replaced(node: tirx.Stmt | prim.Expr, variable: ir.Var, value: prim.Expr) -> tirx.Stmt:
    return structural_map(node, (ir.Var, lambda other: value if other.same_as(variable) else other))
