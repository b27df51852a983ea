"""The constant weights and bias of a linear operator, in the form in which they are quantized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.frontend.values import Array, array_of

__all__ = ["Linear", "read_linear", "refusal"]


@dataclass(frozen=True)
class Linear:
    """Weights and bias of a Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        weight: float32; of a Gemm as (inputs, outputs), with alpha in it.
        channel_axis: The axis of `weight` that has a scale per entry.
        bias: float32 (output channels,), with beta in it; None where the operator has none.
        repeats: Output channels of a group share the scales with those of other groups in a ConvTranspose.
    """

    weight: NDArray[np.float32]
    channel_axis: int
    bias: NDArray[np.float32] | None
    repeats: int = 1

    def spread(self, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scales along `channel_axis` as scales of the output channels."""
        return np.tile(scales, self.repeats)

    def response(self, weight: NDArray[np.float32], means: NDArray[np.float64]) -> NDArray[np.float64]:
        """What `weight`, in place of the own one, makes on average of inputs with these means per channel.

        (output channels,). At the border of a convolution the padding's zeros are not told apart.
        """
        kernel = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum(axis=2)
        if self.channel_axis == 0:
            groups = means.reshape(-1, weight.shape[1])
            per_group = kernel.reshape(len(groups), -1, weight.shape[1])
            return np.asarray(np.einsum("goc,gc->go", per_group, groups).reshape(-1), np.float64)
        groups = means.reshape(self.repeats, -1)
        per_group = kernel.reshape(self.repeats, -1, weight.shape[1])
        return np.asarray(np.einsum("gco,gc->go", per_group, groups).reshape(-1), np.float64)


def refusal(node: ir.Node) -> str | None:
    """Why a linear operator cannot be quantized; None if it can."""
    value = node.inputs[0]
    if value is None or value.dtype != ir.DataType.FLOAT:
        return f"it computes in {'no known type' if value is None else value.dtype}"
    weight = array_of(node.inputs[1])
    if weight is None:
        return "its weights are not constant"
    if not np.isfinite(weight).all():
        return "its weights are not finite"
    if node.op_type == "MatMul" and weight.ndim != 2:
        return f"its weights have {weight.ndim} axes, not 2"
    if node.op_type == "Gemm" and _attribute(node, "transA", 0):
        return "its input is transposed"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = array_of(node.inputs[2])
        if bias is None:
            return "its bias is not constant"
        if bias.ndim > 1 and bias.shape[-1] != bias.size:
            return "its bias is not one number per output"
    return None


def read_linear(node: ir.Node) -> Linear:
    """Weights and bias of a node that `refusal` has nothing against."""
    weight = _as_float32(array_of(node.inputs[1]))
    bias = _as_float32(array_of(node.inputs[2])) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if node.op_type == "Conv":
        return Linear(weight, 0, bias)
    if node.op_type == "ConvTranspose":
        return Linear(weight, 1, bias, repeats=int(_attribute(node, "group", 1)))
    if node.op_type == "MatMul":
        return Linear(weight, 1, None)
    if _attribute(node, "transB", 0):
        weight = weight.T
    weight = np.ascontiguousarray(weight * np.float32(_attribute(node, "alpha", 1.0)))
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[1]) * np.float32(_attribute(node, "beta", 1.0))
    return Linear(weight, 1, bias)


def _as_float32(array: Array | None) -> NDArray[np.float32]:
    assert array is not None
    return array.astype(np.float32)


def _attribute(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
