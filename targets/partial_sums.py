"""A pass over TensorIR: long sums in float16 become sums of short ones, whose rounding errors do not grow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import ir, prim, tirx
from tvm_ffi.structural import structural_map, structural_walk

__all__ = ["LONGEST", "LONGEST_UNROLLED", "partial_sums"]

LONGEST = 32
"""Products that are added up before their sum is added to the total.

The error of n additions in float16 grows with the root of n. With sums of 32, networks come as close to float32 as
with exact sums (docs/precision.md has what was measured), for one addition in 32 more.
"""

LONGEST_UNROLLED = 72
"""The same where they are written out: a window of 3×3 over a block of eight channels. LLVM would keep the totals of
its three rows in registers, and the sums on the stack (2.05 instructions per multiply-add instead of 1.48)."""


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def partial_sums(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Cut reductions to float16 of more than `LONGEST` terms into parts, each with a sum of its own.

    Of ``acc = 0; for k in 256: acc += f(k)`` it makes
    ``total = 0; for o in 8: (acc = 0; for i in 32: acc += f(32 * o + i); total += acc); acc = total``, where ``acc``
    may be a whole register tile, and the reduction several loops. Reductions that are not decomposed into such a pair
    of loops stay as they are.
    """
    return function.with_body(structural_map(function.body, (tirx.SeqStmt, _cut_all)))


@dataclass(frozen=True)
class _Nest:
    """Loops and conditions around one store, from the outside in."""

    around: tuple[tirx.For | tirx.IfThenElse, ...]
    store: tirx.BufferStore

    def with_store(self, value: prim.Expr, buffer: tirx.Buffer) -> tirx.Stmt:
        """The same nest, with variables of its own, around a store of ``value``."""
        return _rebuilt(list(self.around), tirx.BufferStore(buffer, value, list(self.store.indices)), {})


def _cut_all(sequence: tirx.SeqStmt) -> tirx.SeqStmt:
    statements = list(sequence.seq)
    result: list[tirx.Stmt] = []
    while statements:
        cut = _cut(*statements[:2]) if len(statements) > 1 else None
        if cut is None:
            result.append(statements.pop(0))
        else:
            result += cut
            del statements[:2]
    return tirx.SeqStmt(result)


def _cut(first: tirx.Stmt, second: tirx.Stmt) -> list[tirx.Stmt] | None:
    """The statements for a pair of one that clears a sum and one that adds to it; None for any other."""
    clear, update = _nest(first), _nest(second)
    if clear is None or update is None or not _is_sum(clear.store, update.store):
        return None
    reduced = []
    for loop in update.around:
        if not isinstance(loop, tirx.For) or _uses(update.store.indices, loop.loop_var):
            break
        reduced.append(loop)
    inner = len(reduced)  # the loops from here on are within a part
    while inner and math.prod(int(loop.extent) for loop in reduced[inner - 1 :]) <= _longest(reduced[inner - 1]):
        inner -= 1
    if inner == 0:
        return None
    accumulator = clear.store.buffer
    total = tirx.decl_buffer(
        accumulator.shape, accumulator.dtype, f"{accumulator.name}_total", scope=accumulator.scope()
    )
    *outer, cut = reduced[:inner]
    length = _part(int(cut.extent), max(1, LONGEST // math.prod(int(loop.extent) for loop in reduced[inner:])))
    rest = list(update.around[inner:])
    indices = list(clear.store.indices)

    def part(start: prim.Expr, size: int) -> tirx.Stmt:
        variable = tirx.Var(cut.loop_var.name, cut.loop_var.ty)
        inside = _rebuilt(rest, update.store, {cut.loop_var: start + variable if size > 1 else start})
        if size > 1:
            inside = tirx.For(variable, _zero(cut), prim.IntImm(_dtype(cut), size), cut.kind, inside)
        both = tirx.BufferLoad(total, indices) + tirx.BufferLoad(accumulator, indices)
        return tirx.SeqStmt([clear.with_store(clear.store.value, accumulator), inside, clear.with_store(both, total)])

    count, remainder = divmod(int(cut.extent), length)
    number = tirx.Var(f"{cut.loop_var.name}_part", cut.loop_var.ty)
    parts: tirx.Stmt = tirx.For(
        number, _zero(cut), prim.IntImm(_dtype(cut), count), cut.kind, part(number * length, length)
    )
    if remainder:
        parts = tirx.SeqStmt([parts, part(prim.IntImm(_dtype(cut), count * length), remainder)])
    return [
        tirx.AllocBuffer(total),
        clear.with_store(clear.store.value, total),
        _rebuilt(list(outer), parts, {}),
        clear.with_store(tirx.BufferLoad(total, indices), accumulator),
    ]


def _longest(loop: tirx.For) -> int:
    return LONGEST_UNROLLED if loop.kind == tirx.ForKind.UNROLLED else LONGEST


def _part(extent: int, limit: int) -> int:
    """How long a part is: the largest divisor that is not much shorter than allowed, else as long as allowed."""
    return next((d for d in range(limit, limit // 2, -1) if extent % d == 0), limit)


def _nest(statement: tirx.Stmt) -> _Nest | None:
    around = []
    while isinstance(statement, tirx.For | tirx.IfThenElse):
        around.append(statement)
        if isinstance(statement, tirx.IfThenElse):
            if statement.else_case is not None:
                return None
            statement = statement.then_case
        else:
            statement = statement.body
    return _Nest(tuple(around), statement) if isinstance(statement, tirx.BufferStore) else None


def _is_sum(clear: tirx.BufferStore, update: tirx.BufferStore) -> bool:
    """Whether the first sets a float16 to 0 and the second adds to it."""
    if str(clear.buffer.dtype) != "float16" or not clear.buffer.same_as(update.buffer):
        return False
    is_clear = isinstance(clear.value, prim.FloatImm) and float(clear.value.value) == 0
    added = update.value
    return is_clear and isinstance(added, prim.Add) and _is_load_of(added.a, update)


def _is_load_of(expr: prim.Expr, store: tirx.BufferStore) -> bool:
    return isinstance(expr, ir.TensorLoad) and expr.source.same_as(store.buffer)


def _rebuilt(around: list[Any], inside: tirx.Stmt, values: dict[Any, prim.Expr]) -> tirx.Stmt:
    """``inside`` in loops and conditions like ``around`` with variables of their own, and ``values`` for others."""
    if not around:
        return _replaced(inside, values)
    outermost, *rest = around
    if isinstance(outermost, tirx.IfThenElse):
        return tirx.IfThenElse(_replaced(outermost.condition, values), _rebuilt(rest, inside, values), None)
    variable = tirx.Var(outermost.loop_var.name, outermost.loop_var.ty)
    return tirx.For(
        variable,
        outermost.min,
        outermost.extent,
        outermost.kind,
        _rebuilt(rest, inside, {**values, outermost.loop_var: variable}),
        outermost.thread_binding,
        outermost.annotations,
    )


def _replaced(node: Any, values: dict[Any, prim.Expr]) -> Any:
    def replace(variable: ir.Var) -> prim.Expr:
        return next((value for other, value in values.items() if other.same_as(variable)), variable)

    return structural_map(node, (ir.Var, replace))


def _uses(indices: Any, variable: ir.Var) -> bool:
    found = False

    def visit(other: ir.Var) -> None:
        nonlocal found
        found = found or other.same_as(variable)

    for index in indices:
        structural_walk(index, (ir.Var, visit))
    return found


def _zero(loop: tirx.For) -> prim.Expr:
    return prim.IntImm(_dtype(loop), 0)


def _dtype(loop: tirx.For) -> str:
    return str(loop.loop_var.ty.dtype)
