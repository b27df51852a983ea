"""Kernels that work on one row, a vector along the last axis, after another: reductions, softmax, normalization.

Their stages stay apart, and the schedule computes them all for a row, which stays in the level-1 cache, before the next
row is begun.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import te, tirx

__all__ = ["KERNEL", "MAXIMUM", "MINIMUM", "PRODUCT", "SUM", "Fold", "kept_stage", "reduce_row"]

KERNEL = {"edgec.kernel": "rows"}
"""Attributes of a stage that the schedule keeps."""

CHAINS = 4
"""Vectors that long rows are reduced to side by side: one would wait for the latency of each operation."""

Element = Callable[[Sequence[tirx.Expr], tirx.Expr], tirx.Expr]
"""An element by the indices of its row and its position in it."""


@dataclass(frozen=True)
class Fold:
    """How the elements of a row become one.

    Attributes:
        reduce: TVM's reducer.
        pair: The same for two elements.
        identity: What changes nothing; None where an element may count twice.
    """

    reduce: Callable[..., tirx.Expr]
    pair: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
    identity: float | None = None


SUM = Fold(te.sum, lambda a, b: a + b, 0)
MAXIMUM = Fold(te.max, tirx.max)
MINIMUM = Fold(te.min, tirx.min)
PRODUCT = Fold(
    te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product"), lambda a, b: a * b, 1
)


def kept_stage(shape: Sequence[int], element: Callable[..., tirx.Expr], name: str) -> te.Tensor:
    """A tensor that is stored, row by row, because what reads it would compute it more than once."""
    return te.compute(tuple(shape), element, name=name, attrs=KERNEL)


def reduce_row(rows: Sequence[int], length: int, element: Element, fold: Fold, lanes: int, name: str) -> te.Tensor:
    """Fold each row of ``length`` elements: -> (*rows, 1).

    First to whole vectors, then their lanes by halves. Elements beyond the last whole vector are read with those
    before them, as one more vector, of which only they count. With one lane it is a plain reduction.
    """
    width = lanes * CHAINS if lanes > 1 and length >= 2 * CHAINS * lanes else lanes
    while width > length:
        width //= 2
    count, rest = divmod(length, width)
    if count > 1:
        step = te.reduce_axis((0, count), "step")
        folded = kept_stage(
            (*rows, width), lambda *i: fold.reduce(element(i[:-1], step * width + i[-1]), axis=[step]), name
        )
    else:
        folded = kept_stage((*rows, width), lambda *i: element(i[:-1], i[-1]), name)
    if rest:
        folded = kept_stage((*rows, width), _with_last(folded, element, fold, length, rest), name)
    while width > 1:
        half = width // (CHAINS if width > lanes else 2)
        folded = kept_stage((*rows, half), _halves(folded, fold, width // half, half), name)
        width = half
    return folded


def _with_last(folded: te.Tensor, element: Element, fold: Fold, length: int, rest: int) -> Callable[..., tirx.Expr]:
    """What is folded so far with the last ``rest`` elements."""
    width = int(folded.shape[-1])

    def joined(*i: tirx.Var) -> tirx.Expr:
        value = element(i[:-1], i[-1] + (length - width))
        if fold.identity is not None:
            value = tirx.Select(i[-1] >= width - rest, value, tirx.const(fold.identity, folded.dtype))
        return fold.pair(folded(*i), value)

    return joined


def _halves(folded: te.Tensor, fold: Fold, parts: int, size: int) -> Callable[..., tirx.Expr]:
    def joined(*i: tirx.Var) -> tirx.Expr:
        values = [folded(*i[:-1], i[-1] + part * size) for part in range(parts)]
        while len(values) > 1:  # pairs of pairs: the shortest chain
            values = [fold.pair(*values[at : at + 2]) for at in range(0, len(values), 2)]
        return values[0]

    return joined
