"""The parts of random quantized graphs: tensors, scales, zero points, weights and biases, also the extreme ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.targets.quantizers import QUANTIZERS, Quantizer

T = TypeVar("T")
Array = NDArray[Any]

__all__ = ["Array", "Bytes", "QuantizedParts", "Real"]


@dataclass(frozen=True)
class Bytes:
    """A quantized tensor: the name of its integers, and what they mean."""

    name: str
    shape: tuple[int, ...]
    scale: np.float32
    zero: np.integer[Any]


@dataclass(frozen=True)
class Real:
    """Real numbers: about how far from zero they are."""

    name: str
    shape: tuple[int, ...]
    spread: float


@dataclass
class QuantizedParts:
    """What chains are made of, drawn at random, and the graph that it all goes into."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    steep: set[str] = field(default_factory=set)
    _style: Quantizer = QUANTIZERS[0]
    _said: list[str] = field(default_factory=list)

    def _bytes(
        self,
        shape: Sequence[int],
        near: float | None = None,
        pattern: str | None = None,
        zero: np.integer[Any] | None = None,
    ) -> Bytes:
        """A graph input: integers themselves, or real numbers that are quantized."""
        name, zero = f"x{len(self.inputs)}", self._zero() if zero is None else zero
        scale = self._any_scale() if near is None else np.float32(np.clip(near / 64, 1e-30, 1e30))
        info = np.iinfo(zero.dtype)
        pattern = pattern or self._pick(*["any"] * 8, "ends", "largest")
        if pattern == "any":
            integers = self.rng.integers(info.min, info.max, shape, zero.dtype, endpoint=True)
        elif pattern == "ends":
            integers = self.rng.choice(np.array([info.min, info.max], zero.dtype), shape)
        else:
            integers = np.full(shape, info.max, zero.dtype)
        is_integer = self.rng.random() < 0.6
        self._said.append(f"{name} {zero.dtype} {tuple(shape)} scale {scale:g} zero {zero} {pattern}")
        kind = helper.np_dtype_to_tensor_dtype(zero.dtype) if is_integer else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        if is_integer:
            self.feeds[name] = integers
            return Bytes(name, tuple(shape), scale, zero)
        real = (integers.astype(np.float32) - np.float32(zero)) * scale
        self.feeds[name] = real + (self.rng.choice([0, 0.5, 0.25], shape) * scale).astype(np.float32)  # ties, too
        return self._quantize(Real(name, tuple(shape), 0), like=Bytes(name, tuple(shape), scale, zero))

    def _real(self, x: Bytes) -> Real:
        name = self._dequantized(x.name, x.scale, x.zero, None)
        return Real(name, x.shape, float(x.scale) * 100)

    def _quantize(self, real: Real, like: Bytes | None = None) -> Bytes:
        scale, zero = (self._scale_for(real.spread), self._zero()) if like is None else (like.scale, like.zero)
        name = self._node("QuantizeLinear", [real.name, self._constant(scale), self._constant(zero)])
        self._said.append(f"scale {scale:g} zero {zero.dtype} {zero}")
        return self._noted(Bytes(name, real.shape, scale, zero), real.spread if like is None else 0)

    def _noted(self, value: Bytes, spread: float) -> Bytes:
        if spread / float(value.scale) > 1000:
            self.steep.add(value.name)
        return value

    def _scale_for(self, spread: float) -> np.float32:
        """Such that the result fills the integers; a power of two; or far too small (it saturates), or too large."""
        kind = self._pick(*["fit"] * 14, "power", "power", "small", "large")
        divisor = self.rng.uniform(20, 80)
        if kind == "power":
            return np.float32(2.0 ** np.clip(round(math.log2(spread / divisor)), -100, 100))
        factor = {"fit": 0.0, "small": -self.rng.uniform(1, 12), "large": self.rng.uniform(1, 3)}[kind]
        return np.float32(np.clip(spread / divisor * 10**factor, 1e-30, 1e30))

    def _any_scale(self) -> np.float32:
        kind = self._pick(*["usual"] * 8, "power", "extreme")
        if kind == "power":
            return np.float32(2.0 ** self._int(-8, 4))
        low, high = (-3, 0) if kind == "usual" else (-12, 6)
        return np.float32(10 ** self.rng.uniform(low, high))

    def _zero(self, dtype: type[np.integer[Any]] | None = None) -> np.integer[Any]:
        dtype = dtype or self._pick(*self._style.activations)
        info = np.iinfo(dtype)
        if self._style.is_symmetric:
            return dtype(0)
        return dtype(self._pick(info.min, info.max, 0, *self._ints(info.min, info.max, 5)))

    def _weights(
        self, shape: Sequence[int], axis: int, reduced: int, dtype: type[np.integer[Any]] | None = None
    ) -> tuple[str, Array, Array]:
        """Integer weights, and their scales and zero points, per tensor or along the axis."""
        dtype = dtype or self._pick(*self._style.weights)
        info = np.iinfo(dtype)
        count = (shape[axis],) if self.rng.random() < 0.7 else ()
        scale = np.asarray(self._any_scale() * self.rng.uniform(0.1, 1, count), np.float32)
        if count and self.rng.random() < 0.15:
            scale[self._int(0, count[0] - 1)] = np.float32(1e-35)  # whose product with others underflows
        zero = np.zeros(count, dtype)
        if dtype == np.uint8 or self.rng.random() < 0.1:
            zero = np.full(count, self._pick(info.min, info.max, 128 + info.min, self._int(info.min, info.max)), dtype)
        pattern = self._pick("any", "any", "ends")
        if pattern == "any":
            integers = self.rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        else:
            integers = self.rng.choice(np.array([info.min, info.max], dtype), shape)
        self._said.append(f"weights {np.dtype(dtype)} {tuple(shape)} {pattern} over {reduced}")
        return self._constant(integers), scale, zero

    def _bias(self, count: int, scale: Array, spread: float) -> list[str]:
        kind = self._pick("none", "none", *["some"] * 6, "huge")
        if kind == "none":
            return []
        limit = 2**29 if kind == "huge" else 20000
        if self._style.has_integer_bias:
            integers = self.rng.integers(-limit, limit, count).astype(np.int32)
            return [self._dequantized(self._constant(integers), np.asarray(scale, np.float32), None, 0)]
        return [self._constant((self.rng.standard_normal(count) * spread).astype(np.float32))]

    def _dequantized(self, integers: str, scale: Array, zero: Array | None, axis: int | None) -> str:
        names = [integers, self._constant(scale)]
        if zero is not None:
            names.append(self._constant(zero))
        attributes = {} if axis is None else {"axis": axis}
        return self._node("DequantizeLinear", names, **attributes)

    def _ones(self, x: Bytes) -> tuple[int, ...]:
        return (*x.shape[:2], *[1] * (len(x.shape) - 2))

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _ints(self, low: int, high: int, count: int) -> list[int]:
        return [self._int(low, high) for _ in range(count)]

    def _pick(self, *options: T) -> T:
        return options[self._int(0, len(options) - 1)]

    def _constant(self, array: Any) -> str:
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, op_type: str, inputs: Sequence[str], **attributes: object) -> str:
        name = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        if not op_type.startswith(("Quantize", "Dequantize")):
            self._said.append(f"{op_type} {attributes}" if attributes else op_type)
        return name
