"""What a schedule may choose: named integers, the default of a cost model, the candidates, and what they are for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tvm import ir, prim, sym, tirx
from tvm.s_tir import Schedule
from tvm_ffi.structural import StructuralVisitor, structural_visit

from edgec.targets.schedules.kernel import Blocks

__all__ = ["Choice", "Chooser", "Site", "default_choice", "workload"]

Choice = dict[str, int]
"""Named integers, e.g. ``{"columns": 6, "blocks": 2}``."""


@dataclass(frozen=True)
class Site:
    """The place in a schedule where something is chosen; a kernel has at most one.

    Attributes:
        family: The schedule family: ``conv2d``, ``matmul`` ...
        workload: What the best choice depends on, besides the CPU; the same text for the same kernel in any model.
        default: What the cost model takes.
        candidates: Every choice that makes sense and gives right code, the default among them.
    """

    family: str
    workload: str
    default: Choice
    candidates: tuple[Choice, ...]

    @classmethod
    def of(cls, family: str, workload: str, default: Choice, candidates: Iterable[Choice]) -> Site:
        """A site whose default, if it is no candidate, comes first among them."""
        rest = tuple(candidate for candidate in candidates if candidate != default)
        return cls(family, workload, default, (default, *rest))


REDUCED = 2
"""IterVar.iter_type of an axis that is reduced."""

Chooser = Callable[[Site], Choice]
"""Takes one of the site's candidates."""


def default_choice(site: Site) -> Choice:
    """What the cost model takes: no search and no records."""
    return site.default


def workload(sch: Schedule, blocks: Blocks) -> str:
    """What the kernel computes, for people and as a key: axes, reduction, operands, epilogue.

    A 3×3 convolution with stride 2 of 64 channels in blocks of 16, with bias and ReLU, is ``b=1 o=8 y=28 xx=28 c=16
    | ic=4 ky=3 kx=3 ici=16 | float32 1x4x56x56x16 [y*2+ky-1, xx*2+kx-1] | float32 8x4x3x3x16x16 | add 1x8x1x1x16
    max``.
    Call it when what comes before the main block is inlined and nothing else is changed.
    """
    main = sch.get(blocks.main)
    spatial = " ".join(_axis(axis) for axis in main.iter_vars if axis.iter_type != REDUCED)
    reduced = " ".join(_axis(axis) for axis in main.iter_vars if axis.iter_type == REDUCED)
    stages = [sch.get(block) for block in blocks.all[blocks.main_index :]]
    own = {region.source.__chandle__() for stage in stages for region in stage.writes}
    operands: dict[str, None] = {}
    epilogue: list[str] = []

    def visit_operand(load: ir.TensorLoad, _visitor: StructuralVisitor) -> None:
        if load.source.__chandle__() not in own:
            operands[f"{load.source.dtype} {_shape(load)}{_computed_indices(load)}"] = None

    def visit_load(load: ir.TensorLoad, _visitor: StructuralVisitor) -> None:
        if load.source.__chandle__() not in own:
            epilogue.append(_shape(load))

    def visit_operation(node: object, visitor: StructuralVisitor) -> None:
        if isinstance(node, ir.Call):
            epilogue.append(str(node.op.name).rpartition(".")[2])
        elif isinstance(node, prim.BinaryOpExpr | prim.Select | prim.Cast):
            epilogue.append(type(node).__name__.lower())
        visitor.default_visit(node)

    structural_visit(main.body, (ir.TensorLoad, visit_operand))
    for stage in stages[1:]:
        structural_visit(stage.body, [(ir.TensorLoad, visit_load), (object, visit_operation)])
    return " | ".join(filter(None, (spatial, reduced, *operands, " ".join(epilogue))))


def _axis(axis: tirx.IterVar) -> str:
    return f"{axis.var.name.removeprefix('v_')}={int(axis.dom.extent)}"


def _shape(load: ir.TensorLoad) -> str:
    return "x".join(str(int(extent)) for extent in load.source.shape) or "scalar"


def _computed_indices(load: ir.TensorLoad) -> str:
    """The indices that are more than an axis, in brackets: they tell strides, dilations and pads."""
    analyzer = sym.Analyzer()
    indices = [str(analyzer.simplify(i)) for i in load.indices if not isinstance(i, ir.Var | prim.IntImm)]
    readable = [re.sub(r"v_|T\.int(?:32|64)\((-?\d+)\)|\s", r"\1", index) for index in indices]
    return f" [{', '.join(readable)}]" if readable else ""
