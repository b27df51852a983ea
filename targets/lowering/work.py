"""What a kernel has to do at least: arithmetic operations, and bytes between it and memory, counted on its TensorIR."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from tvm import ir, prim, tirx
from tvm_ffi import structural_hash
from tvm_ffi.structural import StructuralVisitor, structural_visit

from edgec.targets.intrinsics import DOT_PRODUCTS, WORD_BYTES
from edgec.targets.lowering.plan import Plan

__all__ = ["Work", "kernel_work", "plan_work"]

_ARITHMETIC = (prim.Add, prim.Sub, prim.Div, prim.Min, prim.Max)
_DOT_PRODUCTS = frozenset(row.operator for row in DOT_PRODUCTS.values())


@dataclass(frozen=True)
class Work:
    """One call of a kernel.

    Attributes:
        flops: Additions, multiplications, divisions, minima and maxima of floating-point numbers, and products of
            bytes and their sums, as the kernel computes them: with the lanes that pad a block of channels, and a
            product and its sum as two. What a call stands for (``exp``, ``sqrt``) counts for nothing.
        bytes: Each argument read or written once, and no more of it than there are accesses.
        shapes: Dtype and shape of each argument, inputs first.
    """

    flops: int
    bytes: int
    shapes: tuple[str, ...]


def plan_work(plan: Plan) -> list[Work]:
    """The work of each step of the plan."""
    work = {name: kernel_work(function) for name, function in plan.kernels.items()}
    rows = []
    for call in plan.calls:
        if call.kernel in work:
            rows.append(work[call.kernel])
        else:  # an output copied for a second name
            spec = plan.outputs[call.arguments[-1].position]
            rows.append(Work(0, 2 * spec.size_bytes, (_spelled(spec.dtype, spec.shape),) * 2))
    return rows


def kernel_work(function: tirx.PrimFunc) -> Work:
    """The work of a kernel that is not scheduled yet: its loops say how often each statement is executed."""
    flops, times = 0, 1
    seen: set[int] = set()  # what stands in one expression several times is computed once
    accesses: Counter[int] = Counter()

    def visit_loop(loop: tirx.For, visitor: StructuralVisitor) -> None:
        nonlocal times
        before, times = times, times * int(loop.extent)
        visitor.default_visit(loop)
        times = before

    def visit_store(store: tirx.BufferStore, visitor: StructuralVisitor) -> None:
        accesses[store.buffer.__chandle__()] += times
        seen.clear()
        visitor.default_visit(store)

    def visit_load(load: ir.TensorLoad, _visitor: StructuralVisitor) -> None:
        accesses[load.source.__chandle__()] += times

    def visit_arithmetic(node: prim.Expr, visitor: StructuralVisitor) -> None:
        nonlocal flops
        key = structural_hash(node)
        if key in seen:
            return
        seen.add(key)
        flops += times * ("float" in str(node.ty.dtype))
        visitor.default_visit(node)

    def visit_select(node: prim.Select, visitor: StructuralVisitor) -> None:
        nonlocal flops
        before = flops
        visitor.visit(node.true_value)
        one, flops = flops, before
        visitor.visit(node.false_value)
        flops = max(one, flops)  # the dearer side

    def visit_call(call: ir.Call, visitor: StructuralVisitor) -> None:
        nonlocal flops
        if getattr(call.op, "name", "") in _DOT_PRODUCTS:
            flops += times * 2 * WORD_BYTES
        visitor.default_visit(call)

    def visit_product(node: prim.Mul, visitor: StructuralVisitor) -> None:
        nonlocal flops
        if isinstance(node.a, prim.Cast) and isinstance(node.b, prim.Cast) and str(node.ty.dtype) == "int32":
            flops += times * 2
        visit_arithmetic(node, visitor)

    visits = [(tirx.For, visit_loop), (tirx.BufferStore, visit_store), (ir.TensorLoad, visit_load)]
    visits.append((prim.Select, visit_select))
    visits += [(ir.Call, visit_call), (prim.Mul, visit_product)]
    structural_visit(function.body, [*visits, *((kind, visit_arithmetic) for kind in _ARITHMETIC)])
    traffic = 0
    for buffer in function.params:
        size = int(np.prod([int(extent) for extent in buffer.shape], dtype=np.int64))
        traffic += min(size, accesses[buffer.__chandle__()]) * np.dtype(str(buffer.dtype)).itemsize
    return Work(flops, traffic, tuple(_spelled(str(b.dtype), [int(e) for e in b.shape]) for b in function.params))


def _spelled(dtype: str, shape: tuple[int, ...] | list[int]) -> str:
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'}"
