"""Say at once which operators of a model are not supported, and where they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import onnx_ir as ir

from edgec.errors import UnsupportedError

__all__ = ["check_operators"]

_NAMES_SHOWN = 3


def check_operators(model: ir.Model, supported: Collection[str]) -> None:
    """Raises UnsupportedError naming every operator of ``model`` outside ``supported``; subgraphs are searched too.

    Args:
        model: The model to look through.
        supported: Operator names of the default ONNX domain; "domain.Name" stands for one of another domain.
    """
    unsupported: dict[str, list[str]] = defaultdict(list)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        spelled = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        if spelled not in supported:
            unsupported[spelled].append(node.name or "(unnamed)")
    if not unsupported:
        return
    lines = []
    for op_type, names in sorted(unsupported.items()):
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
        lines.append(f"{op_type} ×{len(names)} ({shown}{more})")
    count = len(unsupported)
    raise UnsupportedError(
        f"{count} unsupported operator{'s' if count > 1 else ''}: {'; '.join(lines)}",
        where=f"model '{model.graph.name}'",
        fix="export the model with other operators, or cut it before them",
    )
