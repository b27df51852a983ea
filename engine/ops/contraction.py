"""Einsum, and the determinant with the inverse that its gradient needs."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, is_float
from edgec.engine.registry import Gradients, Sample, apply, primitive
from edgec.engine.samples import integers, normal
from edgec.engine.tape import Node
from edgec.engine.tensor import Tensor


def _spelled_out(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, with letters instead of the ellipsis."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"Einsum: {len(terms)} terms in {equation!r} for {len(ranks)} operands")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    covered = [
        rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)
    ]
    batch = "".join(free[: max(covered, default=0)])
    if not arrow:  # in alphabetical order what occurs once, after what the ellipsis stands for
        labels = inputs.replace(",", "").replace(".", "")
        output = "..." + "".join(sorted(label for label in set(labels) if labels.count(label) == 1))
    spelled = []
    for term, count, rank in zip(terms, covered, ranks, strict=True):
        term = term.replace("...", batch[len(batch) - count :])
        if len(term) != rank:
            raise ValueError(f"Einsum: {equation!r} does not fit an operand with {rank} axes")
        spelled.append(term)
    return spelled, output.replace("...", batch)


@primitive("Einsum")
def einsum(*inputs: Array, equation: str) -> Array:
    """A sum of products over named axes; half precision is summed in float32."""
    dtype = np.result_type(*inputs)
    terms, output = _spelled_out(equation, [x.ndim for x in inputs])
    wide = [x.astype(np.float32) if is_float(dtype) and dtype.itemsize < 4 else x for x in inputs]
    y: Array = np.einsum(",".join(terms) + "->" + output, *wide, optimize=len(inputs) > 1)
    return np.asarray(y, dtype)


@einsum.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    operands = [call.input(index) for index in range(call.input_count)]
    terms, output = _spelled_out(str(call.attribute("equation")), [x.ndim for x in operands])
    return [_operand_gradient(index, operands, terms, output, dy) if call.wants(index) else None
            for index in range(len(operands))]  # fmt: skip


def _operand_gradient(index: int, operands: list[Tensor], terms: list[str], output: str, dy: Tensor) -> Tensor:
    """The contraction of the gradient with the other operands, in the labels of this one."""
    x, term = operands[index], terms[index]
    sizes = {
        label: max(other.shape[other_term.index(label)] for other, other_term in zip(operands, terms, strict=True)
                   if label in other_term)
        for label in "".join(terms)
    }  # fmt: skip
    others = [operand for number, operand in enumerate(operands) if number != index]
    labels = [other for number, other in enumerate(terms) if number != index]
    free = iter(letter for letter in string.ascii_letters if letter not in "".join(terms) + output)
    target = ""
    for place, label in enumerate(term):
        if label in term[:place]:  # a diagonal: the gradient is zero off it
            other = next(free)
            others.append(p.constant(np.eye(sizes[label], dtype=dy.dtype)))
            labels.append(label + other)
            target += other
            continue
        if label not in output and not any(label in other for other in labels):  # it was summed here alone
            others.append(p.constant(np.ones(sizes[label], dy.dtype)))
            labels.append(label)
        target += label
    equation = ",".join([output, *labels]) + "->" + target
    gradient = apply("Einsum", (dy, *others), {"equation": equation})[0]
    return p.sum_to(gradient, x.shape)


einsum.samples = lambda: [
    Sample([normal(2, 3), normal(3, 4)], {"equation": "ij,jk->ik"}),
    Sample([normal(2, 3, 4), normal(2, 4, 2)], {"equation": "...ij,...jk->...ik"}),
    Sample([normal(2, 3, 3)], {"equation": "bii->b"}),
    Sample([normal(3, 3)], {"equation": "ii->i"}),
    Sample([normal(2, 3)], {"equation": "ij->j"}),
    Sample([normal(2, 3)], {"equation": "ji"}),
    Sample([normal(2, 3), normal(3, 2), normal(2)], {"equation": "ab,bc,c->a"}),
    Sample([normal(2, 3), normal(4)], {"equation": "ij,k->kij"}),
    Sample([integers(2, 3), integers(3)], {"equation": "ij,j->i"}),
    Sample(
        [np.array([1e30, np.inf], np.float32), np.array([1e30, 1.0], np.float32)], {"equation": "i,i->i"}, varied=()
    ),
    Sample([normal(0, 3), normal(3, 2)], {"equation": "ij,jk->ik"}),
]


def _in_linalg_dtype(x: Array) -> Array:
    """LAPACK knows no type below float32."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


@primitive("Det", keeps_outputs=(0,))
def det(x: Array) -> Array:
    """The determinant of each matrix."""
    return np.asarray(np.linalg.det(_in_linalg_dtype(x))).astype(x.dtype)


@det.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    inverse = apply("edgec.Inverse", (call.input(0),))[0]
    return (p.unsqueeze(dy * call.output(0), [-2, -1]) * p.swap_axes(inverse, -1, -2),)


det.samples = lambda: [
    Sample([normal(3, 3)]),
    Sample([normal(2, 2, 2)]),
    Sample([np.zeros((2, 2), np.float32)], varied=()),
    Sample([normal(0, 2, 2)], reference=""),
]


@primitive("edgec.Inverse", keeps_inputs=(), keeps_outputs=(0,))
def inverse(x: Array) -> Array:
    """The inverse of each matrix; nan where there is none. ONNX has no such operator."""
    try:
        return np.asarray(np.linalg.inv(_in_linalg_dtype(x))).astype(x.dtype)
    except np.linalg.LinAlgError:
        return np.full_like(x, np.nan)


@inverse.gradient
def _(call: Node, dy: Tensor) -> Gradients:
    turned = p.swap_axes(call.output(0), -1, -2)
    return (-p.matmul(p.matmul(turned, dy), turned),)


inverse.samples = lambda: [
    Sample([normal(3, 3)], reference=""),
    Sample([normal(2, 2, 2)], reference=""),
    Sample([np.zeros((2, 2), np.float32)], reference="", varied=()),
    Sample([normal(0, 2, 2)], reference=""),
]
