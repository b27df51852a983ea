"""Models of many small quantized layers of random kinds side by side, as several quantizers write them.

Every layer is a chain of one to four steps on tensors of bytes: DequantizeLinear, some operators, QuantizeLinear.
Scales, zero points and bytes are drawn from their extremes, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.targets.quantized_parts import Array, Bytes, QuantizedParts, Real
from tests.targets.quantizers import QUANTIZERS

__all__ = ["QuantizedModel", "random_quantized_model"]


@dataclass
class QuantizedModel:
    """A model, and what to run it with.

    Attributes:
        proto: The literal graph of QuantizeLinear and DequantizeLinear.
        feeds: Its inputs.
        described: Output -> the chain that computes it, in words.
        steep: Integers whose quantizer is so fine that the rounding of a float sum shows in them.
    """

    proto: onnx.ModelProto
    feeds: dict[str, Array]
    described: dict[str, str]
    steep: set[str]


@dataclass
class RandomQuantizedLayers(QuantizedParts):
    """Chains with inputs of their own."""

    described: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)

    def add(self) -> None:
        """One more chain; its last integers, or what they mean, are an output, and sometimes those on the way."""
        self._style = self._pick(*QUANTIZERS)
        self._said = [self._style.name]
        start = self._pick(*[self._image] * 12, *[self._line] * 4, *[self._matrix] * 4, self._deep)
        value, made = start(), []
        for _ in range(self._pick(1, 1, 2, 3, 4)):
            value = self._step(value)
            made.append(value)
        for inner in made[:-1]:
            if self.rng.random() < 0.3:
                self._output(inner)
        if self.rng.random() < 0.2:
            name = self._real(value).name
            self.outputs[name] = TensorProto.FLOAT
            self.described[name] = "; ".join(self._said)
        else:
            self._output(value)

    def _output(self, value: Bytes) -> None:
        self.outputs[value.name] = helper.np_dtype_to_tensor_dtype(value.zero.dtype)
        self.described[value.name] = "; ".join(self._said)

    def _step(self, x: Bytes) -> Bytes:
        every: list[Callable[[Bytes], Bytes]] = [self.function, self.function, self.combination, self.movement]
        if len(x.shape) > 2:
            every += [self.convolution] * 6 + [self.pool, self.concat, self.linear_operator]
        if len(x.shape) == 4:
            every += [self.resize, self.gate]
        if len(x.shape) in (2, 3):
            every += [self.product] * 4
        return self._pick(*every)(x)

    # --- steps ---

    def convolution(self, x: Bytes) -> Bytes:
        """Strides up to 4, dilations, groups, depthwise with and without multiplier, pads beyond the window."""
        return self._quantize(self._epilogue(self._conv(x), is_sum=True))

    def linear_operator(self, x: Bytes) -> Bytes:
        """QLinearConv, with the types that ONNX Runtime has it for."""
        channels, outside = x.shape[1], self._int(1, 20)
        kernel = [1] * (len(x.shape) - 2)
        weights, scale, zero = self._weights((outside, channels, *kernel), 0, channels, dtype=np.int8)
        spread = float(x.scale) * float(np.max(scale)) * 5000 * math.sqrt(channels)
        y_scale, y_zero = self._scale_for(spread), self._zero(x.zero.dtype.type)
        names = [self._constant(array) for array in (x.scale, x.zero)]
        more = [self._constant(array) for array in (scale, zero, y_scale, y_zero)]
        shape = (x.shape[0], outside, *x.shape[2:])
        name = self._node("QLinearConv", [x.name, *names, weights, *more])
        return self._noted(Bytes(name, shape, y_scale, y_zero), spread)

    def product(self, x: Bytes) -> Bytes:
        """MatMul or Gemm with weights, or the product of two activations."""
        rows, reduced = x.shape[-2:]
        columns = self._pick(1, self._int(1, 70), self._int(1, 20))
        kind = self._pick("weights", "weights", "gemm", "activations")
        if kind == "activations":
            batch = self._pick((), x.shape[:-2])
            other = self._bytes((*batch, reduced, columns))
            name = self._node("MatMul", [self._real(x).name, self._real(other).name])
            spread = float(x.scale) * float(other.scale) * 10000 * math.sqrt(reduced)
            return self._quantize(self._epilogue(Real(name, (*x.shape[:-1], columns), spread), is_sum=True))
        is_gemm = kind == "gemm" and len(x.shape) == 2
        is_transposed = is_gemm and self.rng.random() < 0.5
        shape = (columns, reduced) if is_transposed else (reduced, columns)
        integers, scale, zero = self._weights(shape, 0 if is_transposed else 1, reduced)
        weights = self._dequantized(integers, scale, zero, 0 if is_transposed else 1)
        spread = float(x.scale) * float(np.max(scale)) * 5000 * math.sqrt(reduced)
        if is_gemm:
            bias = self._bias(columns, x.scale * scale, spread)
            name = self._node("Gemm", [self._real(x).name, weights, *bias], transB=int(is_transposed))
        else:
            name = self._node("MatMul", [self._real(x).name, weights])
            bias = self._bias(columns, x.scale * scale, spread)
            name = self._node("Add", [name, *bias]) if bias else name
        return self._quantize(self._epilogue(Real(name, (*x.shape[:-2], rows, columns), spread), is_sum=True))

    def function(self, x: Bytes) -> Bytes:
        """A function of every element."""
        real = self._real(x)
        kind = self._pick("Sigmoid", "Tanh", "Gelu", "HardSwish", "Elu", "Softplus", "Erf", "swish", "epilogue", "Exp")
        if kind == "epilogue":
            return self._quantize(self._epilogue(real, is_sum=False))
        if kind == "swish":
            gate = Real(self._node("Sigmoid", [real.name]), x.shape, 1.0)
            if self.rng.random() < 0.5:
                gate = self._real(self._quantize(gate))
            return self._quantize(replace(real, name=self._node("Mul", [real.name, gate.name])))
        bounded = {"Sigmoid": 1.0, "Tanh": 1.0, "Erf": 1.0, "Exp": math.exp(min(real.spread, 30.0))}
        spread = bounded.get(kind, real.spread)
        return self._quantize(Real(self._node(kind, [real.name]), x.shape, spread))

    def combination(self, x: Bytes) -> Bytes:
        """Two quantized tensors, broadcast, or of a shape; one of them a convolution without quantizer (TensorRT)."""
        left = self._real(x)
        if len(x.shape) == 4 and self.rng.random() < 0.4:
            summed = self._conv(x, keeps_shape=True)
            left = replace(summed, name=self._node("Relu", [summed.name])) if self.rng.random() < 0.3 else summed
            right = self._real(self._bytes(summed.shape, near=summed.spread))
            kind = "Add"
        else:
            kind = self._pick("Add", "Add", "Mul", "Sub", "Max")
            shape = self._pick(x.shape, tuple(size if axis == 1 else 1 for axis, size in enumerate(x.shape)))
            other = x if self.rng.random() < 0.1 else self._bytes(shape, near=left.spread)
            right = self._real(other)
        names = [left.name, right.name][:: self._pick(1, -1)]
        spread = left.spread * right.spread if kind == "Mul" else max(left.spread, right.spread)
        return self._quantize(self._epilogue(Real(self._node(kind, names), left.shape, spread), is_sum=False))

    def concat(self, x: Bytes) -> Bytes:
        """Of parts that are scaled differently, or alike."""
        shape = (x.shape[0], self._int(1, 20), *x.shape[2:])
        other = self._bytes(shape, near=self._real(x).spread)
        if self.rng.random() < 0.3:
            other = replace(other, scale=x.scale, zero=x.zero) if other.zero.dtype == x.zero.dtype else other
        reals = [self._real(x), self._real(other)]
        name = self._node("Concat", [real.name for real in reals], axis=1)
        joined = (x.shape[0], x.shape[1] + shape[1], *x.shape[2:])
        return self._quantize(Real(name, joined, max(real.spread for real in reals)))

    def pool(self, x: Bytes) -> Bytes:
        real, spatial = self._real(x), x.shape[2:]
        kind = self._pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
        if kind == "ReduceMean":
            axes = self._constant(np.arange(2, len(x.shape)))
            return self._quantize(Real(self._node(kind, [real.name, axes], keepdims=1), self._ones(x), real.spread))
        if kind.startswith("Global"):
            return self._quantize(Real(self._node(kind, [real.name]), self._ones(x), real.spread))
        kernel = [self._int(1, min(4, size)) for size in spatial]
        pads = [self._int(0, (k - 1) // 2) for k in kernel] * 2
        strides = self._ints(1, 3, len(kernel))
        includes = {"count_include_pad": self._int(0, 1)} if kind == "AveragePool" else {}
        name = self._node(kind, [real.name], kernel_shape=kernel, pads=pads, strides=strides, **includes)
        sizes = _sizes(spatial, kernel, strides, [1] * len(kernel), pads)
        return self._quantize(Real(name, (*x.shape[:2], *sizes), real.spread))

    def resize(self, x: Bytes) -> Bytes:
        mode = self._pick("nearest", "linear")
        coordinates = self._pick("asymmetric", "half_pixel", "align_corners")
        sizes = tuple(size * self._pick(1, 2, 2, 3) for size in x.shape[2:])
        names = [self._real(x).name, "", "", self._constant(np.array([*x.shape[:2], *sizes]))]
        options = {"mode": mode, "coordinate_transformation_mode": coordinates}
        name = self._node("Resize", names, **options, **({"nearest_mode": "floor"} if mode == "nearest" else {}))
        return self._quantize(Real(name, (*x.shape[:2], *sizes), self._real(x).spread))

    def gate(self, x: Bytes) -> Bytes:
        """Squeeze and excitation."""
        real = self._real(x)
        mean = self._quantize(Real(self._node("GlobalAveragePool", [real.name]), self._ones(x), real.spread))
        hidden = self._quantize(self._conv(mean, keeps_shape=True, outside=x.shape[1]))
        kind = self._pick("Sigmoid", "HardSigmoid")
        share = self._quantize(Real(self._node(kind, [self._real(hidden).name]), hidden.shape, 1.0))
        name = self._node("Mul", [real.name, self._real(share).name])
        return self._quantize(Real(name, x.shape, real.spread))

    def movement(self, x: Bytes) -> Bytes:
        """Transpose, Reshape, Slice or Pad, between a pair of the same scale or of another."""
        real, rank = self._real(x), len(x.shape)
        kind = self._pick("Transpose", "Reshape", "Slice", "Pad", "Flatten")
        if kind == "Transpose":
            order = [int(axis) for axis in self.rng.permutation(rank)]
            name, shape = self._node(kind, [real.name], perm=order), tuple(x.shape[axis] for axis in order)
        elif kind == "Reshape":
            shape = (*x.shape[:-2], x.shape[-1], x.shape[-2])
            name = self._node(kind, [real.name, self._constant(np.array(shape))])
        elif kind == "Slice":
            start, step = self._int(0, x.shape[1] // 2), self._int(1, 2)
            bounds = [self._constant(np.array([number])) for number in (start, x.shape[1], 1, step)]
            name = self._node(kind, [real.name, *bounds])
            shape = (x.shape[0], -(-(x.shape[1] - start) // step), *x.shape[2:])
        elif kind == "Pad":
            ends = [0] * (2 * rank)
            ends[rank - 1], ends[-1] = self._int(0, 2), self._int(0, 2)
            name = self._node(kind, [real.name, self._constant(np.array(ends))])
            shape = (*x.shape[:-1], x.shape[-1] + ends[rank - 1] + ends[-1])
        else:
            name, shape = self._node(kind, [real.name]), (x.shape[0], math.prod(x.shape[1:]))
        moved = Real(name, shape, real.spread)
        return self._quantize(moved, like=x if self.rng.random() < 0.7 else None)

    # --- where chains start ---

    def _image(self) -> Bytes:
        sizes = self._pick([1, 1], [1, 7], self._ints(3, 9, 2), self._ints(3, 26, 2))
        return self._bytes((self._pick(1, 1, 1, 2), self._pick(1, 3, self._int(1, 20), self._int(8, 70)), *sizes))

    def _line(self) -> Bytes:
        return self._bytes((self._pick(1, 1, 2), self._int(1, 30), self._int(1, 40)))

    def _matrix(self) -> Bytes:
        batch = self._pick([], [], [3])
        return self._bytes((*batch, self._pick(1, self._int(1, 40)), self._int(1, self._pick(70, 70, 300))))

    def _deep(self) -> Bytes:
        """Sums as near to the ends of int32 as a product can have them."""
        reduced, columns = 65000, self._int(1, 5)
        x = self._bytes((1, reduced), pattern="largest", zero=np.uint8(0))
        weights = np.tile(self.rng.choice(np.array([-128, 127, 1], np.int8), columns), (reduced, 1))
        scale = np.asarray(self._any_scale(), np.float32)
        name = self._dequantized(self._constant(weights), scale, np.int8(0), None)
        spread = float(x.scale) * float(scale) * 255 * 128 * reduced
        return self._quantize(Real(self._node("MatMul", [self._real(x).name, name]), (1, columns), spread))

    # --- parts of steps ---

    def _conv(self, x: Bytes, *, keeps_shape: bool = False, outside: int = 0) -> Real:
        channels, spatial = x.shape[1], x.shape[2:]
        rank = len(spatial)
        kernel = [self._pick(1, 3, self._int(1, 5)) for _ in spatial]
        strides, dilations = self._ints(1, self._pick(1, 2, 4), rank), self._ints(1, self._pick(1, 1, 3), rank)
        pads = self._ints(0, self._pick(0, 2, 6), 2 * rank)
        if keeps_shape:
            kernel = [self._pick(1, 3)] * rank
            strides, dilations, pads = [1] * rank, [1] * rank, [k // 2 for k in kernel] * 2
        for axis in range(rank):
            missing = (kernel[axis] - 1) * dilations[axis] + 1 - spatial[axis] - pads[axis] - pads[rank + axis]
            pads[rank + axis] += max(0, missing)
        group = self._pick(1, 1, 1, *(n for n in (2, 3, 4) if channels % n == 0))
        if outside:
            group = 1
        elif self.rng.random() < 0.3:
            group, outside = channels, channels * self._pick(1, 1, 2)
        else:
            outside = self._pick(self._int(1, 24), self._int(8, 70)) if group == 1 else group * self._int(1, 20)
        reduced = channels // group * math.prod(kernel)
        integers, scale, zero = self._weights((outside, channels // group, *kernel), 0, reduced)
        spread = float(x.scale) * float(np.max(scale)) * 5000 * math.sqrt(reduced)
        names = [self._real(x).name, self._dequantized(integers, scale, zero, 0)]
        names += self._bias(outside, x.scale * scale, spread)
        name = self._node("Conv", names, group=group, strides=strides, dilations=dilations, pads=pads)
        sizes = _sizes(spatial, kernel, strides, dilations, pads)
        return Real(name, (x.shape[0], outside, *sizes), spread)

    def _epilogue(self, real: Real, *, is_sum: bool) -> Real:
        kind = self._pick("", "", "Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Mul", "pair")
        names = [real.name]
        attributes = {"alpha": 0.1} if kind == "LeakyRelu" else {}
        if not kind:
            return real
        if kind == "pair":  # as quantizers write that know no fusion
            quantized = self._real(self._quantize(real))
            return replace(quantized, name=self._node("Relu", [quantized.name])) if is_sum else quantized
        if kind == "Clip":
            names += [self._constant(np.float32(real.spread * bound)) for bound in (self._pick(0, -0.3), 0.7)]
        elif kind == "PRelu":
            names.append(self._constant(self.rng.uniform(0, 0.5, [real.shape[1], *[1] * (len(real.shape) - 2)])))
        elif kind == "Mul":
            names.append(self._constant(np.float32(self.rng.uniform(-2, 2))))
        return replace(real, name=self._node(kind, names, **attributes))


def _sizes(
    spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> tuple[int, ...]:
    both = zip(spatial, kernel, strides, dilations, pads, pads[len(kernel) :], strict=False)
    return tuple((n + a + b - (k - 1) * d - 1) // s + 1 for n, k, s, d, a, b in both)


def random_quantized_model(seed: int, count: int = 30) -> QuantizedModel:
    """A model of so many chains; always the same for a seed."""
    layers = RandomQuantizedLayers(np.random.default_rng(seed))
    for _ in range(count):
        layers.add()
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in layers.outputs.items()]
    graph = helper.make_graph(layers.nodes, "quantized", layers.inputs, outputs, layers.constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    return QuantizedModel(inferred, layers.feeds, layers.described, layers.steep)
