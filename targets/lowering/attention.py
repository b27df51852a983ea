"""softmax(mask(scale * Q K^T)) V as one kernel, on GPUs whose tensor cores multiply float16."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.targets.lowering.array_views import MOVEMENTS, ArrayView, view_of
from edgec.targets.lowering.attention_mask import Mask, MaskKind, join_masks, masked_scores, unrounded
from edgec.targets.lowering.attributes import integer, integers
from edgec.targets.lowering.emitter import Emitter, Fusion, before_widening, dtype_name, static_shape
from edgec.targets.lowering.rows import KERNEL

__all__ = ["ATTENTION", "GIVES_ZERO", "MASK", "SCALE", "emit_attention"]

ATTENTION = "edgec.attention"
"""Attribute of the scores' stage: the axes of queries, keys, values, the result and the mask, if that is a tensor, in
the order in which they lie in memory, where 0 to 3 are images, heads, rows, and numbers of a row."""

SCALE = "edgec.scale"
"""Attribute of the scores' stage: what they are multiplied by."""

MASK = "edgec.mask"
"""Attribute of the scores' stage: empty, or the kind of the mask, what hidden scores become, and a causal offset."""

GIVES_ZERO = "edgec.gives_zero"
"""Attribute of the scores' stage: whether queries that see no key are zero, not NaN."""

_FIRST_CAPABILITY, _MOST_DEPTH, _DEPTH_STEP, _DEPTH = 80, 128, 16, 3


@dataclass(frozen=True)
class _Scores:
    """Where the scores of a softmax come from."""

    queries: ArrayView
    keys: ArrayView
    scale: float
    masks: tuple[Mask, ...]


@dataclass(frozen=True)
class _Form:
    """What attention is besides its tensors; see the attributes of the scores' stage."""

    orders: list[tuple[int, ...]]
    scale: float
    mask: Mask | None
    gives_zero: bool


def emit_attention(emitter: Emitter, node: ir.Node) -> bool:
    """Emit all that ends in this product of probabilities and values as one kernel, if it is that.

    Its float16 result is set, in the order of axes that a transpose makes of it, where nothing else reads the product.
    What was emitted for the scores before is dead then.
    """
    gpu, rank = emitter.profile.gpu, len(static_shape(node.outputs[0]))
    if gpu is None or gpu.capability < _FIRST_CAPABILITY or not 2 <= rank <= 4:
        return False
    softmax, gives_zero = _softmax(emitter, node.inputs[0])
    cast = _only_reader(node.outputs[0])
    is_rounded = cast is not None and cast.op_type == "Cast" and dtype_name(cast.outputs[0]) == "float16"
    if softmax is None or integer(softmax, "axis", -1) not in (-1, rank - 1) or cast is None or not is_rounded:
        return False
    scores, values = _scores(emitter, softmax.inputs[0]), _operand(before_widening(node.inputs[1]))
    if scores is None or values is None:
        return False
    queries, keys, mask = scores.queries, scores.keys, None
    images, heads, _, depth = queries.shape
    if depth % _DEPTH_STEP or depth > _MOST_DEPTH or keys.shape != (images, heads, keys.shape[2], depth):
        return False
    if keys.shape != values.shape or len({view.tensor for view in (queries, keys, values)}) < 3:
        return False
    if scores.masks:
        mask = join_masks(emitter, scores.masks, (*queries.shape[:3], keys.shape[2]), str(node.outputs[0].name))
        if mask is None:
            return False
    last, order = cast, tuple(range(4))
    reader = _only_reader(cast.outputs[0])
    perm = [] if reader is None or reader.op_type != "Transpose" else integers(reader, "perm", [])
    if reader is not None and perm and perm[-1] == rank - 1:
        last, order = reader, (*range(4 - rank), *(axis + 4 - rank for axis in perm))
    orders = [queries.order, keys.order, values.order, order]
    tensors = [view.emit(emitter, "float16") for view in (queries, keys, values)]
    masks = None
    if mask is not None and mask.view is not None:
        orders.append(mask.view.order)
        masks = mask.view.emit(emitter, dtype_name(mask.view.tensor))
    # A query that sees no key is there only where a tensor decides.
    form = _Form(orders, scores.scale, mask, gives_zero and masks is not None)
    result = emitter.te(attention, *tensors, masks, form, name="attention", fusion=Fusion.OPAQUE)
    for taken in (cast, last):
        emitter.take(taken)
    emitter.set_plain(last.outputs[0], emitter.reshape(result, static_shape(last.outputs[0])))
    if last is not cast:  # for attention that sees through the transpose
        moved = emitter.emit(relax.op.permute_dims(result, [order.index(axis) for axis in range(4)]))
        emitter.set_plain(cast.outputs[0], emitter.reshape(moved, static_shape(cast.outputs[0])))
    return True


def _softmax(emitter: Emitter, value: ir.Value | None) -> tuple[ir.Node | None, bool]:
    """The softmax that rounded probabilities come from, if nothing else reads it, and whether NaN becomes zero."""
    safe = _before_safety(emitter, before_widening(value))
    rounded = before_widening(value if safe is None else safe)
    cast = None if rounded is None else rounded.producer()
    if rounded is None or cast is None or cast.op_type != "Cast":
        return None, False
    readers = {use.node for use in rounded.uses()}
    softmax = unrounded(rounded).producer()
    if softmax is None or softmax.op_type != "Softmax" or _only_reader(softmax.outputs[0]) is None:
        return None, False
    is_read_here = len(readers) == (1 if safe is None else 2) and not rounded.is_graph_output()
    return (softmax, safe is not None) if is_read_here else (None, False)


def _before_safety(emitter: Emitter, value: ir.Value | None) -> ir.Value | None:
    """What a value is but for zeros in the place of NaN, which PyTorch writes for queries that see no key."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Where" or _only_reader(node.outputs[0]) is None:
        return None
    condition, zero, weights = node.inputs
    is_nan, number = None if condition is None else condition.producer(), emitter.constant(zero)
    if is_nan is None or is_nan.op_type != "IsNaN" or _only_reader(is_nan.outputs[0]) is None or weights is None:
        return None
    is_same = unrounded(is_nan.inputs[0]) == unrounded(weights)
    return weights if is_same and number is not None and not number.any() else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _scores(emitter: Emitter, value: ir.Value | None) -> _Scores | None:
    """Queries, keys, and what is done to their products, if a value is that."""
    assert value is not None
    for shown, masks in masked_scores(emitter, value):
        product_value, scale = _without_factor(emitter, shown)
        product = unrounded(product_value).producer()
        if product is None or product.op_type != "MatMul":
            continue
        # PyTorch's exporter multiplies both by the root of the scale.
        (queries, factor), (keys, also_factor) = (_without_factor(emitter, before_widening(v)) for v in product.inputs)
        left, right = _operand(queries), _operand(keys, is_transposed=True)
        if left is not None and right is not None:
            return _Scores(left, right, scale * factor * also_factor, masks)
    return None


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


def _operand(value: ir.Value | None, is_transposed: bool = False) -> ArrayView | None:
    """Images, heads, rows and depth of float16, each row in one piece; keys come with rows and depth exchanged.

    Where float32 is moved before it is rounded, the view is that of the float32.
    """
    if value is None or dtype_name(value) != "float16":
        return None
    view = view_of(value, MOVEMENTS | {"Cast"}, "float16")
    if view is not None and dtype_name(view.tensor) not in ("float16", "float32"):
        view = view_of(value)
    if view is not None and is_transposed:
        view = view.swapped()
    return view if view is not None and view.order[-1] == _DEPTH else None


def attention(q: te.Tensor, k: te.Tensor, v: te.Tensor, masks: te.Tensor | None, form: _Form) -> te.Tensor:
    """Four-dimensional, each with its axes in the order that the form tells; sums are in float32."""

    def extent(tensor: te.Tensor, number: int, axis: int) -> int:
        return int(tensor.shape[form.orders[number].index(axis)])

    images, heads, rows, depth = (extent(q, 0, axis) for axis in range(4))
    memory = extent(k, 1, 2)

    def at(tensor: te.Tensor, number: int, *indices: tirx.Expr) -> tirx.Expr:
        return tensor(*(indices[axis] for axis in form.orders[number])).astype("float32")

    d, j, total_j = (te.reduce_axis((0, size), name) for size, name in ((depth, "d"), (memory, "j"), (memory, "t")))
    scores = te.compute(
        (images, heads, rows, memory),
        lambda b, h, i, key: te.sum(at(q, 0, b, h, i, d) * at(k, 1, b, h, key, d), axis=[d]),
        name="scores",
        attrs={**KERNEL, **_attributes(form)},
    )
    scale = tirx.const(form.scale, "float32")
    if form.mask is not None:  # else the scale waits until the highest score is known
        scores, scale = _masked(scores, scale, masks, form), tirx.const(1, "float32")
    key = te.reduce_axis((0, memory), "key")
    highest = te.compute(
        (images, heads, rows), lambda b, h, i: te.max(scores[b, h, i, key], axis=[key]), name="highest"
    )
    powers = te.compute(
        scores.shape, lambda b, h, i, key: tirx.exp((scores[b, h, i, key] - highest[b, h, i]) * scale), name="powers"
    )
    totals = te.compute(highest.shape, lambda b, h, i: te.sum(powers[b, h, i, total_j], axis=[total_j]), name="totals")
    sums = te.compute(
        (images, heads, rows, depth),
        lambda b, h, i, c: te.sum(powers[b, h, i, j] * at(v, 2, b, h, j, c), axis=[j]),
        name="sums",
    )
    order = form.orders[3]

    def element(*indices: tirx.Var) -> tirx.Expr:
        b, h, i, c = (indices[order.index(axis)] for axis in range(4))
        share = sums[b, h, i, c] / totals[b, h, i]
        if form.gives_zero:
            share = tirx.Select(totals[b, h, i] > 0, share, tirx.const(0, "float32"))
        return share.astype("float16")

    extents = images, heads, rows, depth
    return te.compute([extents[axis] for axis in order], element, name="attention")


def _masked(scores: te.Tensor, scale: tirx.Expr, masks: te.Tensor | None, form: _Form) -> te.Tensor:
    """The scaled scores as the form's mask shows them."""
    mask = form.mask
    assert mask is not None
    fill = tirx.const(mask.fill, "float32")

    def element(*indices: tirx.Var) -> tirx.Expr:
        score = scores(*indices) * scale
        if masks is None:
            return tirx.Select(indices[3] <= indices[2] + mask.offset, score, fill)
        sizes = zip(masks.shape, form.orders[4], strict=True)
        found = masks(*(0 if int(size) == 1 else indices[axis] for size, axis in sizes))
        if mask.kind == MaskKind.ADDED:
            return score + found.astype("float32")
        return tirx.Select(found, score, fill) if mask.kind == MaskKind.SHOWN else tirx.Select(found, fill, score)

    return te.compute(scores.shape, element, name="masked")


def _attributes(form: _Form) -> dict[str, object]:
    mask = form.mask
    return {
        ATTENTION: [axis for order in form.orders for axis in order],
        SCALE: str(form.scale),
        MASK: [] if mask is None else [str(mask.kind), str(mask.fill), str(mask.offset)],
        GIVES_ZERO: int(form.gives_zero),
    }
