"""Models of many small layers of random shapes side by side, so that the whole way, from lowering to the linked
artifact, is gone once per model and not once per shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")

__all__ = ["RandomLayers", "random_model"]


@dataclass
class RandomLayers:
    """Layers with inputs of their own.

    Attributes:
        described: Output -> the layer that computes it, in words: where it fails, the smallest case.
    """

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    described: dict[str, str] = field(default_factory=dict)
    _said: list[str] = field(default_factory=list)

    def add(self) -> None:
        kinds = (self.convolution, self.large_convolution, self.pixels, self.line, self.transposed, self.matmul)
        kind = kinds[self.rng.choice(len(kinds), p=[0.35, 0.15, 0.1, 0.05, 0.1, 0.25])]
        self._said = []
        output = kind()
        self.described[output] = "; ".join(self._said)

    # --- layers; each returns the name of its output ---

    def convolution(self) -> str:
        """Odd sizes, one channel, strides up to 4, dilations, groups and pads beyond the window."""
        kernel, dilations, strides = self._ints(1, 5, 2), self._ints(1, 3, 2), self._ints(1, 4, 2)
        pads = self._ints(0, self._pick(0, 2, 6), 4)
        spans = [(k - 1) * d + 1 - a - b for k, d, a, b in zip(kernel, dilations, pads[:2], pads[2:], strict=True)]
        image = [max(1, span) + self._int(0, 30) for span in spans]
        return self._conv(image, kernel, strides, dilations, pads)

    def large_convolution(self) -> str:
        """3×3 or 1×1 without stride, with channels enough for every blocking of them."""
        kernel = [self._pick(3, 3, 1)] * 2
        pads = self._ints(0, kernel[0] // 2, 4)
        channels = (self._int(8, 70), self._int(8, 70))
        return self._conv(self._ints(3, 26, 2), kernel, [1, 1], [1, 1], pads, channels)

    def pixels(self) -> str:
        """Images of one pixel, one row or one column."""
        kernel = [self._pick(1, 3), self._pick(1, 3, 5)]
        pads = [k // 2 for k in kernel] * 2
        return self._conv(self._pick([1, 1], [1, 7], [9, 1]), kernel, self._ints(1, 3, 2), [1, 1], pads)

    def line(self) -> str:
        """One spatial axis."""
        kernel = self._int(1, 7)
        return self._conv([kernel + self._int(0, 40)], [kernel], self._ints(1, 3, 1), [1], self._ints(0, 4, 2))

    def transposed(self) -> str:
        kernel, strides, group = self._ints(1, 4, 2), self._ints(1, 3, 2), self._pick(1, 1, 2)
        x = self._input([self._batch(), self._int(1, 12) * group, *self._ints(1, 12, 2)])
        channels = int(self.inputs[-1].type.tensor_type.shape.dim[1].dim_value)
        w = self._weight([channels, self._int(1, 12), *kernel])
        pads = [self._int(0, (k - 1) // 2) for k in kernel] * 2
        extra = [self._int(0, s - 1) for s in strides]
        y = self._node("ConvTranspose", [x, w], strides=strides, pads=pads, group=group, output_padding=extra)
        return self._epilogue(y)

    def matmul(self) -> str:
        """Vectors, batches that are broadcast, each side constant or computed; sometimes a Gemm."""
        m, n = (self._pick(1, self._int(1, 70), self._int(1, 70)) for _ in range(2))
        k = self._int(1, self._pick(70, 70, 300))
        if self.rng.random() < 0.25:
            return self._gemm(m, k, n)
        left, right = self._pick(([], []), ([], []), ([3], []), ([2], [2]), ([2, 1], [3]), ([], [4]))
        names = [self._input([*left, m, k]), self._weight([*right, k, n])]
        if self.rng.random() < 0.4:
            names[1] = self._input([*right, k, n])
        elif self.rng.random() < 0.2:
            names[0] = self._weight([*left, m, k])
            names[1] = self._input([*right, k, n])
        return self._epilogue(self._node("MatMul", names))

    def _gemm(self, m: int, k: int, n: int) -> str:
        transposes = {"transA": self._int(0, 1), "transB": self._int(0, 1)}
        x = self._input([k, m] if transposes["transA"] else [m, k])
        w = self._weight([n, k] if transposes["transB"] else [k, n])
        c = self._weight(self._pick([n], [m, n], [m, 1], [1]))
        return self._epilogue(self._node("Gemm", [x, w, c], alpha=0.5, beta=2.0, **transposes))

    def _conv(
        self,
        image: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        channels: tuple[int, int] | None = None,
    ) -> str:
        group = 1 if channels else self._pick(1, 1, 1, 2, 3)
        inside, outside = channels or (self._pick(1, self._int(1, 20)) * group, self._pick(1, self._int(1, 24)) * group)
        if not channels and self.rng.random() < 0.3:  # depthwise, sometimes with several outputs per channel
            group, outside = inside, inside * self._pick(1, 1, 2)
        names = [self._input([self._batch(), inside, *image]), self._weight([outside, inside // group, *kernel])]
        if self.rng.random() < 0.7:
            names.append(self._weight([outside]))
        attributes = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
        return self._epilogue(self._node("Conv", names, **attributes))

    def _epilogue(self, value: str) -> str:
        kind = self._pick("Relu", "Sigmoid", "Neg", "Mul", "")
        if kind == "Mul":
            return self._node("Mul", [value, self._weight([1])])
        return self._node(kind, [value]) if kind else value

    # --- parts ---

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _ints(self, low: int, high: int, count: int) -> list[int]:
        return [self._int(low, high) for _ in range(count)]

    def _pick(self, *options: T) -> T:
        return options[self._int(0, len(options) - 1)]

    def _batch(self) -> int:
        return self._pick(1, 1, 1, 1, 2, 3)

    def _input(self, shape: Sequence[int]) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self._said.append(f"{name} {tuple(shape)}")
        return name

    def _weight(self, shape: Sequence[int]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(self.rng.standard_normal(shape).astype(np.float32), name))
        self._said.append(f"{name} {tuple(shape)}")
        return name

    def _node(self, op_type: str, inputs: Sequence[str], **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self._said.append(f"{op_type}({', '.join(inputs)}, {attributes})" if attributes else op_type)
        return name


def random_model(seed: int, count: int = 30) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A model of so many layers, and what computes each output; always the same for a seed."""
    layers = RandomLayers(np.random.default_rng(seed))
    for _ in range(count):
        layers.add()
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in layers.described]
    graph = helper.make_graph(layers.nodes, "layers", layers.inputs, outputs, layers.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True), layers.described
