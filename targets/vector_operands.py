"""A pass over TensorIR: scalars that lie side by side are loaded as one vector and multiplied by, lane by lane."""

from __future__ import annotations

from tvm import ir, prim, sym, tirx
from tvm_ffi import structural_hash
from tvm_ffi.structural import structural_map, structural_walk

__all__ = ["vector_operands"]

LANES = {"float32": 4, "int32": 4, "float16": 8, "int8": 4, "uint8": 4}
"""Elements of a vector of NEON; of bytes, which are widened, those of the vector of int32 that they are to be."""

LEAST_LANES = 3
"""A vector of which fewer elements are used is not worth its register."""


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def vector_operands(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Replace ``broadcast(x[4 * i + 1], 4)`` by ``broadcast(x[4 * i : 4 * i + 4].lane(1), 4)``.

    Instructions of Arm that multiply by an element of a vector need no broadcast then, and a quarter of the loads.
    It is done where at least three elements of the vector are used, for buffers of whole vectors. In a padded image
    the scalar may be an ``if_then_else``, whose other side is a constant.
    """
    analyzer = sym.Analyzer()
    lanes: dict[tuple[str, int], set[int]] = {}

    def place(node: prim.Broadcast) -> tuple[tuple[str, int], int, prim.Expr] | None:
        """(which vector, which of its lanes, where it begins) of a scalar that is loaded to be broadcast."""
        scalar = _narrow(node.value)
        load = scalar.args[1] if _is_choice(scalar) else scalar
        if not isinstance(load, ir.TensorLoad) or len(load.indices) != 1:
            return None
        count = int(node.lanes)
        if LANES.get(str(load.source.dtype)) != count or int(load.source.shape[0]) % count:
            return None
        found = analyzer.modular_set(load.indices[0])
        if int(found.coeff) % count:
            return None
        lane = int(found.base) % count
        first = analyzer.simplify(load.indices[0] - lane)
        return (str(load.source.name), structural_hash(first)), lane, first

    def count(node: prim.Broadcast) -> None:
        if (known := place(node)) is not None:
            lanes.setdefault(known[0], set()).add(known[1])

    def replace(node: prim.Broadcast) -> prim.Expr:
        known = place(node)
        if known is None or len(lanes[known[0]]) < LEAST_LANES:
            return node
        _, lane, first = known
        scalar, ramp = _narrow(node.value), prim.Ramp(first, 1, int(node.lanes))
        if str(scalar.ty.dtype) == str(node.value.ty.dtype):
            return prim.Broadcast(prim.Shuffle([_vector(scalar, ramp)], [lane]), node.lanes)
        halves = _vector(scalar, ramp).astype(f"int16x{node.lanes}")  # SMLAL multiplies by an element of 16 bits
        return prim.Shuffle([halves], [lane] * int(node.lanes)).astype(str(node.ty.dtype))

    structural_walk(function.body, (prim.Broadcast, count))
    return function.with_body(structural_map(function.body, (prim.Broadcast, replace)))


def _narrow(scalar: prim.Expr) -> prim.Expr:
    """The byte that is widened to an int32, or the scalar itself."""
    is_widened = isinstance(scalar, prim.Cast) and str(scalar.ty.dtype) == "int32"
    return scalar.value if is_widened and str(scalar.value.ty.dtype) in ("int8", "uint8") else scalar


def _is_choice(node: prim.Expr) -> bool:
    """Whether it is a load where a condition holds, and a constant elsewhere."""
    is_choice = isinstance(node, ir.Call) and getattr(node.op, "name", "") == "prim.if_then_else"
    return is_choice and isinstance(node.args[2], prim.IntImm | prim.FloatImm)


def _vector(scalar: prim.Expr, indices: prim.Ramp) -> prim.Expr:
    """What is loaded for the scalar, as a vector from these indices."""
    if not _is_choice(scalar):
        return tirx.BufferLoad(scalar.source, [indices])
    condition, load, fill = scalar.args
    return tirx.if_then_else(condition, _vector(load, indices), prim.Broadcast(fill, indices.lanes))
