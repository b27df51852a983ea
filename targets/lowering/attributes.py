"""A node's attributes as Python values."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["integer", "integers", "number", "text"]


def integer(node: ir.Node, name: str, default: int) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return [int(i) for i in node.attributes[name].as_ints()] if name in node.attributes else default


def number(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes[name].as_float()) if name in node.attributes else default


def text(node: ir.Node, name: str, default: str) -> str:
    return str(node.attributes[name].as_string()) if name in node.attributes else default
