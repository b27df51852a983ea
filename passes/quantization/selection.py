"""Find the nodes that a user means by names, operators and patterns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from edgec.errors import EdgecError

__all__ = ["nodes_named"]


def nodes_named(entries: Sequence[str], model: ir.Model, original: ir.Model | None = None) -> list[ir.Node]:
    """The nodes of `model` that any of `entries` stands for, in the graph's order.

    An entry is the name of a node or of one of its outputs, else an operator, else a pattern with ``*``, ``?`` and
    ``[...]`` for all of these.

    Args:
        entries: What the user wrote.
        model: Whose nodes are meant.
        original: The model before it was simplified, to explain why a node is missing.

    Raises:
        EdgecError: An entry stands for nothing; the message has the nearest that would.
    """
    nodes = list(model.graph)
    chosen: set[ir.Node] = set()
    for entry in entries:
        found = _matches(entry, nodes)
        if not found:
            raise _unknown(entry, nodes, list(original.graph) if original is not None else [])
        chosen.update(found)
    return [node for node in nodes if node in chosen]


def _labels(node: ir.Node) -> list[str]:
    return [str(name) for name in (node.name, *(value.name for value in node.outputs)) if name]


def _matches(entry: str, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    for is_meant in (
        lambda node: entry in _labels(node),
        lambda node: entry == node.op_type,
        lambda node: any(fnmatchcase(label, entry) for label in (*_labels(node), node.op_type)),
    ):
        found = [node for node in nodes if is_meant(node)]
        if found:
            return found
    return []


def _unknown(entry: str, nodes: Sequence[ir.Node], originals: Sequence[ir.Node]) -> EdgecError:
    if _matches(entry, originals):
        return EdgecError(
            f"'{entry}' is not there any more when the model is quantized: simplifying merged it into another node",
            fix="name the node that it was merged into, for a BatchNormalization the convolution before it",
        )
    known = {label for node in nodes for label in (*_labels(node), node.op_type)}
    near = difflib.get_close_matches(entry, sorted(known), n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    operators = ", ".join(sorted({node.op_type for node in nodes}))
    return EdgecError(
        f"nothing in the model is called '{entry}'{hint}",
        fix=f"name a node, an operator ({operators}) or a pattern such as '/head/*'",
    )
