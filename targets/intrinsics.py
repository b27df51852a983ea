"""Operations that TensorIR lacks, as operators of its own, and what LLVM makes of each: one row of a table each.

Integer kernels need a product of bytes summed into 32 bits, four bytes of different places as one word, rounding to
the nearest integer in one instruction, rounding and saturating to a byte, and a float product that is rounded before
anything is added to it: LLVM would contract the two to a multiply-add, and the result would not be the engine's, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import tvm
from tvm import ir, prim, sym, tirx
from tvm.ir.op import register_op_attr
from tvm_ffi.structural import structural_map

__all__ = [
    "DOT_PRODUCTS",
    "SMALL",
    "WORD_BYTES",
    "DotProduct",
    "lower_intrinsics",
    "nearest_integer",
    "rounded",
    "rounded_to_ones",
    "saturated",
    "word_of",
]

WORD_BYTES = 4
"""Bytes of a 32-bit element whose products a dot instruction adds up."""

SMALL = 32000.0
"""Below this magnitude, a number and a zero point fit into 16 bits; there is room for a bound's own rounding."""

_PURE = 1  # tirx::CallEffectKind::kPure


@dataclass(frozen=True)
class DotProduct:
    """An instruction, or a short sequence of them, that adds products of four bytes to a 32-bit sum, exactly.

    Attributes:
        name: The instruction, as its maker writes it.
        data_dtype: Type of the bytes of the first operand; those of the second are int8.
        lanes: 32-bit elements of the vectors it exists for -> LLVM's name of the intrinsic.
        expand: From (sum, data, weights, intrinsic), each word of four bytes an int32, to the new sum.
        prepares: Whether other instructions prepare the data, so that taps which read the same can share these.
    """

    name: str
    data_dtype: str
    lanes: Mapping[int, str]
    expand: Callable[[prim.Expr, prim.Expr, prim.Expr, str], prim.Expr]
    prepares: bool = False

    @property
    def operator(self) -> str:
        return f"edgec.{self.name}"

    def __call__(self, data: tirx.Expr, weights: tirx.Expr) -> tirx.Expr:
        """The sum of products of two words; it becomes the instruction where it is added to a sum in a vector."""
        return tirx.call_intrin("int32", self.operator, data, weights)


def _bytes_of(word: prim.Expr) -> prim.Expr:
    return tirx.reinterpret(f"int8x{_lanes(word) * WORD_BYTES}", word)


def _halves_of(word: prim.Expr) -> prim.Expr:
    return tirx.reinterpret(f"int16x{_lanes(word) * 2}", word)


def _accumulate(total: prim.Expr, data: prim.Expr, weights: prim.Expr, intrinsic: str) -> prim.Expr:
    """One instruction: sum, data, weights."""
    dtype = f"int32x{_lanes(data)}"
    return tirx.call_llvm_pure_intrin(dtype, intrinsic, total, _bytes_of(data), _bytes_of(weights))


def _accumulate_by_element(total: prim.Expr, data: prim.Expr, weights: prim.Expr, intrinsic: str) -> prim.Expr:
    """The last operand may be an element of a vector: the data."""
    return _accumulate(total, weights, data, intrinsic)


def _multiply_pairs(total: prim.Expr, data: prim.Expr, weights: prim.Expr, intrinsic: str) -> prim.Expr:
    """Products of 16-bit halves, which cannot overflow as those of PMADDUBSW do: bytes 0 and 2, then 1 and 3."""
    dtype, count = f"int32x{_lanes(data)}", f"int16x{_lanes(data) * 2}"
    eight = tirx.const(8, count)
    even = (
        _halves_of(tirx.bitwise_and(data, tirx.const(0x00FF00FF, dtype))),
        tirx.shift_right(tirx.shift_left(_halves_of(weights), eight), eight),
    )
    odd = (
        _halves_of(tirx.bitwise_and(tirx.shift_right(data, tirx.const(8, dtype)), tirx.const(0x00FF00FF, dtype))),
        tirx.shift_right(_halves_of(weights), eight),
    )
    for pair in (even, odd):
        total = total + tirx.call_llvm_pure_intrin(dtype, intrinsic, *pair)
    return total


# Sources: Intel Architecture Instruction Set Extensions (VPDPBUSD, PMADDWD); Arm Architecture Reference Manual (SDOT).
DOT_PRODUCTS = {
    row.name: row
    for row in (
        DotProduct(
            "vpdpbusd",
            "uint8",
            {lanes: f"llvm.x86.avx512.vpdpbusd.{lanes * 32}" for lanes in (4, 8, 16)},
            _accumulate,
        ),
        DotProduct(
            "vpmaddwd",
            "uint8",
            {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"},
            _multiply_pairs,
            prepares=True,
        ),
        DotProduct("sdot", "int8", {4: "llvm.aarch64.neon.sdot"}, _accumulate_by_element),
        DotProduct("dp4a", "int8", {}, _accumulate),  # of GPUs: targets/cuda/intrinsics.py
    )
}

_NEAREST, _ROUNDED, _WORD = "edgec.nearest_integer", "edgec.rounded", "edgec.word_of"
_ONES = "edgec.rounded_to_ones"
_SATURATED = {f"edgec.to_{dtype}": dtype for dtype in ("int8", "uint8")}
_SMALL = {f"edgec.small_to_{dtype}": dtype for dtype in ("int8", "uint8")}
_BY_OPERATOR = {row.operator: row for row in DOT_PRODUCTS.values()}
for _name in (*_BY_OPERATOR, *_SATURATED, *_SMALL, _NEAREST, _ONES, _ROUNDED, _WORD):
    register_op_attr(_name, "TVectorizable", True)
    register_op_attr(_name, "TCallEffectKind", _PURE)
    register_op_attr(_name, "TScriptPrinterName", _name)


def nearest_integer(x: tirx.Expr) -> tirx.Expr:
    """A float32 within the range of int32, rounded to it, half to even."""
    return tirx.call_intrin("int32", _NEAREST, x)


def rounded_to_ones(x: tirx.Expr) -> tirx.Expr:
    """A float32 rounded to an integer, half to even, as a float32; zero keeps the sign of ``x``."""
    return tirx.call_intrin("float32", _ONES, x)


def rounded(x: tirx.Expr) -> tirx.Expr:
    """The float32 product or sum ``x`` as a value of its own, which LLVM contracts with nothing."""
    return tirx.call_intrin("float32", _ROUNDED, x)


def saturated(x: tirx.Expr, zero_point: tirx.Expr, dtype: str, *, is_small: bool = False) -> tirx.Expr:
    """A float32 rounded half to even, plus an int32 zero point, as the nearest ``uint8`` or ``int8``.

    Of what is known to be smaller than `SMALL`, 16 bits hold the rounded number and the zero point.
    """
    return tirx.call_intrin(dtype, f"edgec.{'small_' if is_small else ''}to_{dtype}", x, zero_point)


def word_of(parts: Sequence[tirx.Expr]) -> tirx.Expr:
    """Four bytes as an int32, the first one lowest."""
    return tirx.call_intrin("int32", _WORD, *parts)


def lower_intrinsics(arch: str) -> tvm.transform.Pass:
    """The pass that replaces the operators above by LLVM's intrinsics for ``x86_64`` or ``aarch64``, in vectors."""

    def is_neon(node: prim.Expr) -> bool:
        return arch == "aarch64" and _lanes(node) % _NEON_LANES == 0

    def sum_(node: prim.Add) -> prim.Expr:
        row = _dot_of(node.b)
        if row is None:
            return node
        data, weights = node.b.args
        if _is_zero(data):  # padding, where it counts as zero; LLVM does not know what the instruction makes of it
            return node.a
        if _lanes(node) not in row.lanes:
            return node
        return row.expand(node.a, data, weights, row.lanes[_lanes(node)])

    def call(node: ir.Call) -> prim.Expr:
        name = getattr(node.op, "name", "")
        if name == _NEAREST:
            return _converted(node.args[0]) if is_neon(node) else _nearest(node.args[0])
        if name == _ONES:
            return tirx.call_llvm_pure_intrin(str(node.ty.dtype), "llvm.roundeven", *node.args)
        if name == _ROUNDED:
            return tirx.call_llvm_pure_intrin(str(node.ty.dtype), "llvm.arithmetic.fence", *node.args)
        if name == _WORD:
            return _interleaved(node.args)
        if name in _SATURATED or name in _SMALL:
            x, zero_point = node.args
            if not is_neon(node):
                return _clamped(x, zero_point, (_SATURATED | _SMALL)[name])
            if name in _SMALL:
                return _narrowed_small(x, zero_point, _SMALL[name])
            return _narrowed(x, zero_point, _SATURATED[name])
        row = _BY_OPERATOR.get(name)
        return node if row is None else _byte_by_byte(row, *node.args)

    @tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def lower(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
        body = structural_map(function.body, (prim.Add, sum_))
        return function.with_body(structural_map(body, (ir.Call, call)))

    return lower


_NEON_LANES = 4


def _typed(dtype: str, like: prim.Expr) -> str:
    lanes = _lanes(like)
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _nearest(x: prim.Expr) -> prim.Expr:
    return tirx.call_llvm_pure_intrin(_typed("int32", x), "llvm.lrint", x)


def _clamped(x: prim.Expr, zero_point: prim.Expr, dtype: str) -> prim.Expr:
    """Bounds before rounding, which is the same, since they are integers.

    The upper bound of uint8 comes last: a number beyond int32 becomes its least value, which is large without sign.
    """
    info = np.iinfo(dtype)
    offset = zero_point.astype(_typed("float32", x))
    low, high = (tirx.const(float(bound), _typed("float32", x)) for bound in (info.min, info.max))
    if dtype == "uint8":
        steps = (_nearest(tirx.max(x, low - offset)) + zero_point).astype(_typed("uint32", x))
        return tirx.min(steps, tirx.const(info.max, _typed("uint32", x))).astype(_typed(dtype, x))
    return (_nearest(tirx.min(tirx.max(x, low - offset), high - offset)) + zero_point).astype(_typed(dtype, x))


_WHOLE_NUMBERS = 3 << 22
"""To this, float32 adds anything small rounded half to even, and has the sum in its low bits; its own are zeros."""


def _narrowed_small(x: prim.Expr, zero_point: prim.Expr, dtype: str) -> prim.Expr:
    """As below, where 16 bits hold all numbers: halves of words, without saturation.

    A sum that rounds does both, conversion and addition of an even zero point; an odd one would make halves odd.
    """
    zero = zero_point.value if isinstance(zero_point, prim.Broadcast) else zero_point
    if isinstance(zero, prim.IntImm) and int(zero) % 2 == 0:
        whole = tirx.const(float(_WHOLE_NUMBERS + int(zero)), str(x.ty.dtype))
        value = tirx.call_llvm_pure_intrin(str(x.ty.dtype), "llvm.arithmetic.fence", x)
        return _bounded(tirx.reinterpret(_typed("int32", x), value + whole).astype(_typed("int16", x)), dtype)
    return _bounded(_converted(x).astype(_typed("int16", x)) + zero_point.astype(_typed("int16", x)), dtype)


def _narrowed(x: prim.Expr, zero_point: prim.Expr, dtype: str) -> prim.Expr:
    """What narrows saturates too, to 16 bits and then to 8."""
    steps = _bounded(_converted(x), "int16")
    if not _is_zero(zero_point):
        offset = zero_point.astype(_typed("int16", x))
        steps = tirx.call_llvm_pure_intrin(_typed("int16", x), "llvm.sadd.sat", steps, offset)
    return _bounded(steps, dtype)


def _converted(x: prim.Expr) -> prim.Expr:
    """FCVTNS, for which LLVM takes two instructions otherwise, saturates to 32 bits."""
    parts = [list(range(first, first + _NEON_LANES)) for first in range(0, _lanes(x), _NEON_LANES)]
    words = [
        tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.fcvtns", prim.Shuffle([x], part)) for part in parts
    ]
    return prim.Shuffle(words, list(range(_lanes(x)))) if len(words) > 1 else words[0]


def _bounded(x: prim.Expr, dtype: str) -> prim.Expr:
    """Integers saturated to a narrower type."""
    info, own = np.iinfo(dtype), str(x.ty.dtype)
    return tirx.min(tirx.max(x, tirx.const(info.min, own)), tirx.const(info.max, own)).astype(_typed(dtype, x))


def _dot_of(node: prim.Expr) -> DotProduct | None:
    return _BY_OPERATOR.get(getattr(node.op, "name", "")) if isinstance(node, ir.Call) else None


def _is_zero(node: prim.Expr) -> bool:
    """Whether all bytes of a word, or of a vector of the same words, are the constant zero."""
    if isinstance(node, ir.Call) and getattr(node.op, "name", "") == _WORD:
        return all(_is_zero(part) for part in node.args)
    value = node.value if isinstance(node, prim.Broadcast) else node
    return isinstance(value, prim.IntImm) and int(value) == 0


def _interleaved(parts: Sequence[prim.Expr]) -> prim.Expr:
    """Words of the elements that four vectors of bytes have at the same place: one permutation, where there is one."""
    lanes = _lanes(parts[0])
    if lanes == 1:
        words = [tirx.shift_left(part.astype("uint8").astype("uint32"), 8 * i) for i, part in enumerate(parts)]
        return tirx.reinterpret("int32", reduce(tirx.bitwise_or, words))
    order = [part * lanes + lane for lane in range(lanes) for part in range(WORD_BYTES)]
    whole = _one_load(parts)
    return tirx.reinterpret(f"int32x{lanes}", prim.Shuffle([whole] if whole is not None else list(parts), order))


def _one_load(parts: Sequence[prim.Expr]) -> prim.Expr | None:
    """The load of all vectors at once, where they lie one after the other in memory; LLVM does not always see that."""
    lanes = _lanes(parts[0])
    if not all(isinstance(part, ir.TensorLoad) and isinstance(part.indices[-1], prim.Ramp) for part in parts):
        return None
    if not all(part.source.same_as(parts[0].source) and len(part.indices) == 1 for part in parts):
        return None
    analyzer, first = sym.Analyzer(), parts[0].indices[0]
    for number, part in enumerate(parts):
        ramp = part.indices[0]
        if int(ramp.stride) != 1 or not analyzer.can_prove_equal(ramp.base - first.base, number * lanes):
            return None
    return tirx.BufferLoad(parts[0].source, [prim.Ramp(first.base, 1, lanes * WORD_BYTES)])


def _byte_by_byte(row: DotProduct, data: prim.Expr, weights: prim.Expr) -> prim.Expr:
    """The sum where there is no instruction for it: single words, and vectors of an odd size."""
    dtype = str(data.ty.dtype)
    top = tirx.const(24, dtype)
    total = None
    for number in range(WORD_BYTES):
        left = tirx.const(24 - 8 * number, dtype)
        value, weight = (tirx.shift_right(tirx.shift_left(word, left), top) for word in (data, weights))
        if row.data_dtype == "uint8":
            value = tirx.bitwise_and(value, tirx.const(255, dtype))
        total = value * weight if total is None else total + value * weight
    return total


def _lanes(node: prim.Expr) -> int:
    return int(tvm.DataType(str(node.ty.dtype)).lanes)
