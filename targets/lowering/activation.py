"""Activation functions."""

from __future__ import annotations

import onnx_ir as ir
from tvm import relax

from edgec.targets.lowering.elementwise import emit_unary
from edgec.targets.lowering.emitter import Emitter, lowers

__all__: list[str] = []


@lowers("Relu")
def relu(emitter: Emitter, node: ir.Node) -> None:
    emit_unary(emitter, node, relax.op.nn.relu, safe=True)
