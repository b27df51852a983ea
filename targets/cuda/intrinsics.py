"""What becomes of edgec's own operators (:mod:`edgec.targets.intrinsics`) on a GPU: a function of the prelude each."""

from __future__ import annotations

from tvm import ir, prim, tirx
from tvm_ffi.structural import structural_map

from edgec.targets.intrinsics import DOT_PRODUCTS

__all__ = ["finish_for_cuda", "lower_to_cuda"]

_FUNCTIONS = {
    "edgec.nearest_integer": "__float2int_rn",
    **{f"edgec.{size}to_{dtype}": f"edgec_to_{dtype}" for size in ("", "small_") for dtype in ("int8", "uint8")},
    "edgec.rounded_to_ones": "rintf",
    "edgec.word_of": "edgec_word_of",
}

_ROUNDED = "edgec.rounded"
_DOT = DOT_PRODUCTS["dp4a"].operator

# The compiler contracts products and sums unless they are written as these (CUDA Math API, single precision).
_UNCONTRACTED = {prim.Add: "__fadd_rn", prim.Sub: "__fsub_rn", prim.Mul: "__fmul_rn"}


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def lower_to_cuda(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Replace the operators by calls."""
    body = structural_map(function.body, (prim.Add, _sum))
    return function.with_body(structural_map(body, (ir.Call, _call)))


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def finish_for_cuda(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Replace what passes of TVM 0.27, `LowerIntrin` the last of them, leave to be done.

    A byte that is spread over the four of a word is a call of a function, since TVM does that only with constants.
    Lanes exchange numbers as the whole warp: TVM asks which of them are active, and threads that were apart need not be
    together again by then (CUDA C++ Programming Guide, "Warp Vote Functions").
    """
    body = structural_map(function.body, (prim.Broadcast, _spread))
    return function.with_body(structural_map(body, (ir.Call, _whole_warp)))


def _sum(node: prim.Add) -> prim.Expr:
    """A dot product and what it is added to are one instruction."""
    if not (isinstance(node.b, ir.Call) and getattr(node.b.op, "name", "") == _DOT):
        return node
    return tirx.call_pure_extern(str(node.ty.dtype), "edgec_dot4", *node.b.args, node.a)


def _spread(node: prim.Broadcast) -> prim.Expr:
    dtype = str(node.ty.dtype)
    if dtype not in ("int8x4", "uint8x4") or isinstance(node.value, prim.IntImm):
        return node
    return tirx.call_pure_extern(dtype, "edgec_spread", node.value)


def _whole_warp(node: ir.Call) -> prim.Expr:
    is_mask = getattr(node.op, "name", "") == "tirx.cuda.__activemask"
    return tirx.const(0xFFFFFFFF, "uint32") if is_mask else node


def _call(node: ir.Call) -> prim.Expr:
    name = getattr(node.op, "name", "")
    if name not in (_DOT, _ROUNDED, *_FUNCTIONS):
        return node
    dtype = str(node.ty.dtype)
    if name == _DOT:
        return tirx.call_pure_extern(dtype, "edgec_dot4", *node.args, tirx.const(0, dtype))
    if name == _ROUNDED:
        (x,) = node.args
        exact = _UNCONTRACTED.get(type(x))
        return x if exact is None else tirx.call_pure_extern(dtype, exact, x.a, x.b)
    return tirx.call_pure_extern(dtype, _FUNCTIONS[name], *node.args)
