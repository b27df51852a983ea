"""Walks an IR graph and emits one Relax function, choosing each tensor's layout on the way.

A 4-D activation can be *plain* (NCHW, as ONNX has it) or *blocked* (NCHWc: the channels are split into blocks of
one vector register, ``(N, ceil(C/c), H, W, c)``, the last block padded). Convolutions produce blocked tensors,
operators that do not mix channels keep what they get, everything else asks for the plain one; a conversion is
emitted where the two meet and only once per tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax, te

from edgec.errors import EdgecError, UnsupportedError
from edgec.targets.lowering import layouts
from edgec.targets.lowering.scalars import Scalar, multiply, multiply_in_float32

if TYPE_CHECKING:
    from edgec.targets.profile import Profile

__all__ = [
    "LOWERINGS",
    "VIEW",
    "Blocked",
    "Emitter",
    "Fusion",
    "before_widening",
    "dtype_name",
    "dtype_of",
    "lowers",
    "shape_of",
    "static_shape",
]

Lowering = Callable[["Emitter", ir.Node], None]

LOWERINGS: dict[str, Lowering] = {}
"""ONNX operator type -> the function that emits it."""


VIEW = "edgec.view"
"""Attribute of a kernel that only copies: its one input from a byte on, or its inputs one after the other. The plan
leaves it out where the bytes can lie in their place from the start."""

_PRODUCTS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"})


class Fusion(IntEnum):
    """How FuseOps may treat a kernel: TVM's OpPatternKind."""

    INJECTIVE = 2
    """Each output element reads some input elements: it joins neighbours of its kind."""
    EPILOGUE = 4
    """A reduction that element-wise successors may join."""
    OPAQUE = 8
    """A kernel of its own."""


def lowers(*op_types: str) -> Callable[[Lowering], Lowering]:
    """Register the decorated function as the lowering of these ONNX operators."""

    def register(function: Lowering) -> Lowering:
        for op_type in op_types:
            LOWERINGS[op_type] = function
        return function

    return register


@dataclass(frozen=True)
class Blocked:
    """A 4-D tensor in NCHWc layout.

    Attributes:
        var: The Relax value, shape (N, ceil(C/c), H, W, c).
        channels: C, without the padding of the last block.
    """

    var: relax.Expr
    channels: int

    @property
    def is_padded(self) -> bool:
        """Whether the last block holds lanes that belong to no channel (their values are unspecified but finite)."""
        shape = shape_of(self.var)
        return shape[1] * shape[4] != self.channels


class Emitter:
    """The state of one emission: values by name, in the layouts they exist in so far."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.builder = relax.BlockBuilder()
        self.is_quantized = False
        self._constants: dict[str, np.ndarray] = {}
        self._plain: dict[str, relax.Expr] = {}
        self._blocked: dict[str, Blocked] = {}
        self._reblocked: dict[tuple[str, int], Blocked] = {}
        self._before_reshape: dict[relax.Expr, relax.Expr] = {}
        self._emitted: set[ir.Node] = set()
        self._product: str | None = None
        self.factors: dict[bytes, tuple[int, list[str]]] = {}
        """Constants of products: size in bytes, and the values whose products have them, by SHA-256."""

    # -- reading a node -----------------------------------------------------------------------------------------

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The value's array if it is known at compile time, else None."""
        return None if value is None else self._constants.get(_name(value))

    def required_constant(self, node: ir.Node, index: int) -> np.ndarray:
        """Input ``index`` of ``node``, which must be known at compile time."""
        array = self.constant(node.inputs[index])
        if array is None:
            raise UnsupportedError(
                f"{node.op_type} '{node.name}' needs input {index} to be a constant",
                where=f"tensor '{node.inputs[index]}'",
                fix="give the model fixed input shapes (--input-shape), so that it can be computed at compile time",
            )
        return array

    def integers(self, node: ir.Node, index: int) -> list[int] | None:
        """Input ``index`` of ``node`` as integers, or None where it is omitted."""
        if index >= len(node.inputs) or node.inputs[index] is None:
            return None
        return [int(i) for i in self.required_constant(node, index).reshape(-1)]

    def is_blocked(self, value: ir.Value | None) -> bool:
        return value is not None and _name(value) in self._blocked

    def plain(self, value: ir.Value | None) -> relax.Expr:
        """The value in the layout that ONNX gives it."""
        name = _name(value)
        if name not in self._plain:
            if name in self._constants:
                self._plain[name] = self.const(self._constants[name])
            else:
                self._plain[name] = self._unblock(self._blocked[name], static_shape(value))
        return self._plain[name]

    def blocked(self, value: ir.Value | None, lanes: int | None = None) -> Blocked:
        """The 4-D value in NCHWc layout; a 3-D one counts as an image of height 1.

        Args:
            value: The value.
            lanes: Channels per block; by default as many as the value has, if it is blocked already, else its type's.
        """
        name = _name(value)
        if name not in self._blocked:
            array = self._constants.get(name)
            if array is not None:
                block = lanes or self.profile.channel_block(array.dtype.name)
                image = array.reshape(layouts.image_shape(array.shape))
                self._blocked[name] = Blocked(self.const(layouts.block_array(image, block)), image.shape[1])
            else:
                plain = self.plain(value)
                self._blocked[name] = self._block(plain, lanes or self.profile.channel_block(dtype_of(plain)))
        blocked = self._blocked[name]
        if lanes in (None, shape_of(blocked.var)[4]):
            return blocked
        if (name, lanes) not in self._reblocked:
            self._reblocked[name, lanes] = self._block(self.plain(value), lanes)
        return self._reblocked[name, lanes]

    def words(self, expr: relax.Expr) -> relax.Expr:
        """The bytes of the last axis as int32, four together: the same memory under another type."""
        return self.te(layouts.words, expr, view=0)

    def _block(self, plain: relax.Expr, lanes: int) -> Blocked:
        shape = layouts.image_shape(shape_of(plain))
        n, channels, height, width = shape
        if height * width == 1 and channels % lanes == 0:  # the bytes are the same
            return Blocked(self.reshape(plain, [n, channels // lanes, 1, 1, lanes]), channels)
        return Blocked(self.te(layouts.block, self.reshape(plain, shape), lanes), channels)

    def _unblock(self, blocked: Blocked, shape: list[int]) -> relax.Expr:
        _, _, height, width, _ = shape_of(blocked.var)
        if height * width == 1 and not blocked.is_padded:
            return self.reshape(blocked.var, shape)
        return self.reshape(self.te(layouts.unblock, blocked.var, blocked.channels), shape)

    # -- writing values -----------------------------------------------------------------------------------------

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Emit a Relax expression and return its variable."""
        return self.builder.emit(expr)

    def const(self, array: np.ndarray) -> relax.Expr:
        """A constant that keeps the array's data type (TVM narrows NumPy scalars of 64 bits)."""
        array = np.asarray(array)
        if self._product is not None:
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
            self.factors.setdefault(digest, (array.nbytes, []))[1].append(self._product)
        return relax.const(array, dtype=array.dtype.name)

    def reshape(self, expr: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """The same elements in the same order under another shape; costs nothing at run time."""
        source = self.before_reshape(expr)
        for same in (expr, source):
            if shape_of(same) == list(shape):
                return same
        result = self.emit(relax.op.reshape(source, tuple(shape)))
        self._before_reshape[result] = source
        return result

    def before_reshape(self, expr: relax.Expr) -> relax.Expr:
        """The tensor that ``expr`` is a reshape of, else ``expr`` itself."""
        return self._before_reshape.get(expr, expr)

    def te(
        self,
        function: Callable[..., te.Tensor],
        *args: object,
        name: str | None = None,
        fusion: Fusion | None = None,
        view: int | None = None,
    ) -> relax.Expr:
        """Emit a kernel defined by a tensor expression.

        Args:
            function: From tensors to one.
            args: Its arguments, expressions for the tensors.
            name: Of the kernel; by default the function's.
            fusion: Where TVM's own analysis is too careful.
            view: The kernel only copies, one input from this byte on or several one after the other.
        """
        attributes: dict[str, dict[str, int]] = (
            {} if fusion is None else {"primfunc_attrs": {"op_pattern": int(fusion)}}
        )
        if view is not None:
            attributes = {"primfunc_attrs": {"op_pattern": int(Fusion.OPAQUE), VIEW: view}}
        tensors = [arg for arg in args if isinstance(arg, relax.Expr)]

        def kernel(*placeholders: te.Tensor) -> te.Tensor:
            remaining = iter(placeholders)  # emit_te passes on tensors; the settings are ours
            return function(*(next(remaining) if isinstance(arg, relax.Expr) else arg for arg in args))

        return self.builder.emit_te(kernel, *tensors, primfunc_name_hint=name or function.__name__, **attributes)

    def halved(
        self, value: ir.Value | None, weights: np.ndarray, keeps_weights: bool = False
    ) -> tuple[ir.Value | None, np.ndarray]:
        """What a product of a float32 value and constant weights multiplies: on a GPU the float16 that both hold.

        With ``keeps_weights`` those stay as they are, and may be any numbers.
        """
        half = self.half(value)
        if half is value or keeps_weights:
            return half, weights
        with np.errstate(over="ignore", under="ignore"):
            rounded = weights.astype(np.float16)
        return (half, rounded) if np.array_equal(rounded, weights) else (value, weights)

    def half(self, value: ir.Value | None) -> ir.Value | None:
        """The float16 value that a float32 one is made of, if products of such are added in float32; else itself."""
        return value if self.profile.gpu is None else before_widening(value)

    def product(self, dtype: str) -> Scalar:
        """The product of two numbers that go into a sum: GPUs add products of float16 in float32."""
        is_wide = self.profile.gpu is not None and dtype == "float16"
        return multiply_in_float32 if is_wide else multiply

    def narrowed(self, expr: relax.Expr, dtype: str) -> relax.Expr:
        """The result of an operator in its own type."""
        return expr if dtype_of(expr) == dtype else self.emit(relax.op.astype(expr, dtype))

    def set_plain(self, value: ir.Value, expr: relax.Expr) -> None:
        self._plain[_name(value)] = expr

    def set_blocked(self, value: ir.Value, expr: relax.Expr, channels: int) -> None:
        self._blocked[_name(value)] = Blocked(expr, channels)

    def set_constant(self, value: ir.Value, array: np.ndarray) -> None:
        self._constants[_name(value)] = array

    def take(self, node: ir.Node) -> None:
        """The outputs of ``node``, which comes later, are set already."""
        self._emitted.add(node)

    def alias(self, value: ir.Value, source: ir.Value | None) -> None:
        """``value`` is ``source`` under another name, in every layout."""
        tables: tuple[dict[str, Any], ...] = (self._constants, self._plain, self._blocked)
        for table in tables:
            if _name(source) in table:
                table[_name(value)] = table[_name(source)]

    # -- the walk -----------------------------------------------------------------------------------------------

    def emit_graph(self, graph: ir.Graph) -> relax.Expr | object:
        """Emit the whole graph as the function ``main``; returns the finished IRModule."""
        self.is_quantized = any(node.op_type in ("DynamicQuantizeLinear", "QuantizeLinear") for node in graph)
        for name, initializer in graph.initializers.items():
            if initializer.const_value is None:
                raise EdgecError(f"initializer '{name}' has no value")
            self._constants[name] = initializer.const_value.numpy()
        params = [
            relax.Var(_name(value), relax.TensorType(static_shape(value), dtype_name(value)))
            for value in graph.inputs
            if _name(value) not in self._constants
        ]
        for param in params:
            self._plain[param.name] = param
        try:
            with self.builder.function("main", params):
                with self.builder.dataflow():
                    for node in graph:
                        self._emit_node(node)
                    outputs = self._own_outputs(graph.outputs, params)
                    result = self.builder.emit_output(relax.Tuple(outputs))
                self.builder.emit_func_output(result)
        except Exception:
            self.builder._end_block()  # left open, it makes TVM 0.27 print a warning when the builder goes
            raise
        return self.builder.finalize()

    def _emit_node(self, node: ir.Node) -> None:
        if node in self._emitted:
            return
        lowering = LOWERINGS.get(node.op_type)
        if lowering is None or node.domain not in ("", "ai.onnx"):
            raise UnsupportedError(f"operator {node.op_type} is not supported", where=f"node '{node.name}'")
        self._product = node.outputs[0].name if node.op_type in _PRODUCTS else None
        lowering(self, node)
        self._product = None

    def _own_outputs(self, values: Sequence[ir.Value], params: Sequence[relax.Var]) -> list[relax.Expr]:
        """The plain outputs; a copy where one shares its bytes with an input, a constant or another output."""
        taken: list[relax.Expr] = list(params)
        outputs = []
        for value in values:
            expr = self.plain(value)
            source = self.before_reshape(expr)
            if isinstance(source, tvm.ir.GenericConst) or any(source.same_as(other) for other in taken):
                expr = self.te(lambda x: te.compute(x.shape, lambda *i: x(*i), name="copy"), expr, name="copy")
            taken.append(source)
            outputs.append(expr)
        return outputs


def static_shape(value: ir.Value | None) -> list[int]:
    """The value's shape as integers; an error where a dimension is unknown."""
    name = _name(value)
    shape = None if value is None else value.shape
    if shape is None or not shape.is_static():
        raise EdgecError(
            f"tensor '{name}' has no fixed shape",
            where=f"shape {shape}",
            fix="bind the model's symbolic dimensions with --input-shape",
        )
    return [int(d) for d in shape.numpy()]


def shape_of(expr: relax.Expr) -> list[int]:
    """The static shape of an emitted expression."""
    return [int(d) for d in expr.ty.shape]


def dtype_of(expr: relax.Expr) -> str:
    """The data type of an emitted expression."""
    return str(expr.ty.dtype)


def before_widening(value: ir.Value | None) -> ir.Value | None:
    """The float16 value that a float32 one holds the numbers of, for kernels that can read either; else itself."""
    cast = None if value is None else value.producer()
    if cast is None or cast.op_type != "Cast":
        return value
    is_widening = (dtype_name(cast.inputs[0]), dtype_name(value)) == ("float16", "float32")
    return cast.inputs[0] if is_widening else value


def dtype_name(value: ir.Value | None) -> str:
    """NumPy's name of the value's data type; an error where it is unknown."""
    name = _name(value)
    if value is None or value.dtype is None:
        raise EdgecError(f"tensor '{name}' has no data type", fix="run ONNX shape inference on the model")
    return str(value.dtype.numpy().name)


def _name(value: ir.Value | None) -> str:
    if value is None:
        raise EdgecError("an input that its operator needs is left out", fix="check the file with onnx.checker")
    if value.name is None:
        raise EdgecError("a tensor of the graph has no name")
    return value.name
