"""softmax(scale * Q K^T) V as one kernel, on GPUs whose tensor cores multiply float16."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from tvm import te, tirx

from edgec.targets.lowering.attributes import integer, integers
from edgec.targets.lowering.emitter import Emitter, Fusion, before_widening, dtype_name, static_shape
from edgec.targets.lowering.rows import KERNEL

__all__ = ["ATTENTION", "SCALE", "emit_attention", "head_axes"]

ATTENTION = "edgec.attention"
"""Attribute of the scores' stage: for queries, keys, values and the result, whether heads come before rows."""

SCALE = "edgec.scale"
"""Attribute of the scores' stage: what they are multiplied by."""

_FIRST_CAPABILITY, _MOST_DEPTH, _DEPTH_STEP = 80, 128, 16
_WITH_ROWS_FIRST, _TRANSPOSED, _TRANSPOSED_WITH_ROWS_FIRST = [0, 2, 1, 3], [0, 1, 3, 2], [0, 2, 3, 1]


@dataclass(frozen=True)
class _Operand:
    """Heads of float16: ``value`` is (images, heads, rows, depth), or with the rows before the heads."""

    value: ir.Value
    has_heads_first: bool

    @property
    def extents(self) -> list[int]:
        """Images, heads, rows, depth."""
        shape = static_shape(self.value)
        return [shape[axis] for axis in head_axes(self.has_heads_first)]


def head_axes(has_heads_first: bool) -> list[int]:
    """Where images, heads, rows and depth are among the axes of an operand; the other way round it is the same."""
    return [0, 1, 2, 3] if has_heads_first else _WITH_ROWS_FIRST


def emit_attention(emitter: Emitter, node: ir.Node) -> bool:
    """Emit all that ends in this product of probabilities and values as one kernel, if it is that.

    Its float16 result is set, in the order of axes that a transpose makes of it, where nothing else reads the product.
    What was emitted for the scores before is dead then.
    """
    gpu = emitter.profile.gpu
    if gpu is None or gpu.capability < _FIRST_CAPABILITY or len(static_shape(node.outputs[0])) != 4:
        return False
    softmax = _maker(before_widening(node.inputs[0]), "Cast", "Softmax")
    if softmax is None or integer(softmax, "axis", -1) not in (-1, 3):
        return False
    scores, scale = _without_factor(emitter, _unrounded(softmax.inputs[0]))
    product = _unrounded(scores).producer()
    if product is None or product.op_type != "MatMul":
        return False
    # PyTorch's exporter multiplies both by the root of the scale.
    (queries, factor), (keys, also_factor) = (_without_factor(emitter, before_widening(v)) for v in product.inputs)
    operands = [
        _operand(queries, is_transposed=False),
        _operand(keys, is_transposed=True),
        _operand(before_widening(node.inputs[1]), is_transposed=False),
    ]
    cast = _only_reader(node.outputs[0])
    found = [operand for operand in operands if operand is not None]
    is_rounded = cast is not None and cast.op_type == "Cast" and dtype_name(cast.outputs[0]) == "float16"
    if len({operand.value for operand in found}) < 3 or cast is None or not is_rounded:
        return False
    (images, heads, _, depth), memory, also = (operand.extents for operand in found)
    if depth % _DEPTH_STEP or depth > _MOST_DEPTH or [images, heads, memory[2], depth] != memory or memory != also:
        return False
    last, reader = cast, _only_reader(cast.outputs[0])
    if reader is not None and reader.op_type == "Transpose" and integers(reader, "perm", []) == _WITH_ROWS_FIRST:
        last = reader
    orders = [*(operand.has_heads_first for operand in found), last is cast]
    arguments = (*(emitter.plain(operand.value) for operand in found), orders, scale * factor * also_factor)
    result = emitter.te(attention, *arguments, name="attention", fusion=Fusion.OPAQUE)
    for taken in (cast, last):
        emitter.take(taken)
    emitter.set_plain(last.outputs[0], result)
    return True


def _maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that is reached by going from a value back through nodes of these types, whose results only it reads."""
    node: ir.Node | None = None
    for op_type in op_types:
        node = None if value is None else value.producer()
        if node is None or node.op_type != op_type or _only_reader(node.outputs[0]) is None:
            return None
        value = node.inputs[0]
    return node


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _unrounded(value: ir.Value | None) -> ir.Value:
    """What a float is before it was cast to other floats."""
    assert value is not None
    node = value.producer()
    return _unrounded(node.inputs[0]) if node is not None and node.op_type == "Cast" else value


def _without_factor(emitter: Emitter, value: ir.Value | None) -> tuple[ir.Value, float]:
    """What a value is a constant multiple of, and the constant."""
    assert value is not None
    node = value.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return value, 1.0
    constant = emitter.constant(node.inputs[1])
    if constant is None or constant.size != 1 or node.inputs[0] is None:
        return value, 1.0
    factor = float(constant.reshape(()))
    return node.inputs[0], factor if node.op_type == "Mul" else 1 / factor


def _operand(value: ir.Value | None, is_transposed: bool) -> _Operand | None:
    """The operand that a value is made of by moving axes; keys come with rows and depth exchanged."""
    if value is None or dtype_name(value) != "float16":
        return None
    node = value.producer()
    source = node.inputs[0] if node is not None and node.op_type == "Transpose" else None
    perm = integers(node, "perm", []) if node is not None and source is not None else []
    if source is not None and perm == (_TRANSPOSED_WITH_ROWS_FIRST if is_transposed else _WITH_ROWS_FIRST):
        return _Operand(source, has_heads_first=False)
    if is_transposed:
        return _Operand(source, has_heads_first=True) if source is not None and perm == _TRANSPOSED else None
    return _Operand(value, has_heads_first=True)


def attention(q: te.Tensor, k: te.Tensor, v: te.Tensor, orders: list[bool], scale: float) -> te.Tensor:
    """Four-dimensional, each with heads or rows first by ``orders``, of the result at last; sums are in float32."""
    axes = [head_axes(order) for order in orders]
    images, heads, rows, depth = (int(q.shape[axis]) for axis in axes[0])
    memory = int(k.shape[axes[1][2]])

    def at(tensor: te.Tensor, order: list[int], *indices: tirx.Expr) -> tirx.Expr:
        return tensor(*(indices[axis] for axis in order)).astype("float32")

    d, j, total_j = (te.reduce_axis((0, extent), name) for extent, name in ((depth, "d"), (memory, "j"), (memory, "t")))
    attrs = {**KERNEL, ATTENTION: [int(order) for order in orders], SCALE: str(scale)}
    scores = te.compute(
        (images, heads, rows, memory),
        lambda b, h, i, key: te.sum(at(q, axes[0], b, h, i, d) * at(k, axes[1], b, h, key, d), axis=[d]),
        name="scores",
        attrs=attrs,
    )
    key = te.reduce_axis((0, memory), "key")
    highest = te.compute(
        (images, heads, rows), lambda b, h, i: te.max(scores[b, h, i, key], axis=[key]), name="highest"
    )
    powers = te.compute(
        scores.shape,
        lambda b, h, i, key: tirx.exp((scores[b, h, i, key] - highest[b, h, i]) * tirx.const(scale, "float32")),
        name="powers",
    )
    totals = te.compute(highest.shape, lambda b, h, i: te.sum(powers[b, h, i, total_j], axis=[total_j]), name="totals")
    sums = te.compute(
        (images, heads, rows, depth),
        lambda b, h, i, c: te.sum(powers[b, h, i, j] * at(v, axes[2], b, h, j, c), axis=[j]),
        name="sums",
    )

    def element(*indices: tirx.Var) -> tirx.Expr:
        b, h, i, c = (indices[axis] for axis in axes[3])
        return (sums[b, h, i, c] / totals[b, h, i]).astype("float16")

    extents = images, heads, rows, depth
    return te.compute([extents[axis] for axis in axes[3]], element, name="attention")
