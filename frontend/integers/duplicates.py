"""Convert once what is converted twice alike."""

from __future__ import annotations

import onnx_ir as ir

from edgec.frontend.integers.editing import Editor
from edgec.frontend.integers.reading import Scaled, read_dequantize, read_quantize

__all__ = ["merge_conversions"]


def merge_conversions(editor: Editor, node: ir.Node) -> bool:
    """Lets the readers of later equal QuantizeLinear and DequantizeLinear nodes of a value read the first, ``node``."""
    source = node.inputs[0] if node.inputs else None
    first = None if source is None or len(source.uses()) < 2 else _read(node)
    if first is None:
        return False
    changed = False
    for other in [use.node for use in first.source.uses()]:
        if other is node or other.op_type != node.op_type or other.graph is not editor.graph:
            continue
        second = _read(other)
        if second is None or second.source is not first.source or not second.is_like(first):
            continue
        if other.outputs[0].is_graph_output() or not _comes_before(node, other):
            continue
        editor.replace(other.outputs[0], node.outputs[0])
        changed = True
    return changed


def _read(node: ir.Node) -> Scaled | None:
    return read_quantize(node) or (read_dequantize(node.outputs[0]) if node.outputs else None)


def _comes_before(first: ir.Node, second: ir.Node) -> bool:
    graph = first.graph
    assert graph is not None
    return next(node for node in graph if node is first or node is second) is first
