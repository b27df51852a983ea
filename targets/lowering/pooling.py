"""Pools over windows and over whole images, in either layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from edgec.errors import UnsupportedError
from edgec.targets.lowering import layouts
from edgec.targets.lowering.attributes import integer, integers
from edgec.targets.lowering.convolution import conv_geometry
from edgec.targets.lowering.elementwise import combine
from edgec.targets.lowering.emitter import (
    Emitter,
    Fusion,
    before_widening,
    dtype_name,
    dtype_of,
    lowers,
    shape_of,
    static_shape,
)

__all__ = ["emit_global_pool"]

KERNEL = "edgec.kernel"


@dataclass(frozen=True)
class Window:
    """The windows along one axis: how they move over ``size`` elements, ``begin`` and ``end`` of padding around."""

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    ceil: bool

    @property
    def count(self) -> int:
        """How many windows there are; a last one that would begin in the end padding is dropped (ONNX opset 19)."""
        span = self.size + self.begin + self.end - (self.kernel - 1) * self.dilation - 1
        if not self.ceil:
            return span // self.stride + 1
        count = -(-span // self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.size + self.begin else count

    @property
    def leaves(self) -> bool:
        """Whether a window reads beyond the elements."""
        last = (self.count - 1) * self.stride + (self.kernel - 1) * self.dilation - self.begin
        return self.begin > 0 or last >= self.size

    def sizes(self, *, with_padding: bool) -> np.ndarray:
        """How many elements each window covers, counting the explicit padding too if asked."""
        low, high = (-self.begin, self.size + self.end) if with_padding else (0, self.size)
        starts = np.arange(self.count)[:, None] * self.stride - self.begin
        positions = starts + np.arange(self.kernel) * self.dilation
        return np.asarray(((positions >= low) & (positions < high)).sum(axis=1))


def _windows(node: ir.Node, image: list[int]) -> list[Window]:
    """The windows along height and width."""
    kernel = integers(node, "kernel_shape", [])
    shape = static_shape(node.inputs[0])
    strides, dilations, pads = conv_geometry(node, kernel, shape[2:])
    rank = len(kernel)
    if rank not in (1, 2):
        raise UnsupportedError(f"{node.op_type} '{node.name}' has {rank} spatial axes; 1 and 2 are supported")
    ceil = bool(integer(node, "ceil_mode", 0))
    windows = [
        Window(shape[2 + i], kernel[i], strides[i], dilations[i], pads[i], pads[rank + i], ceil) for i in range(rank)
    ]
    if rank == 1:
        windows.insert(0, Window(image[2], 1, 1, 1, 0, 0, False))
    return windows


def _source(emitter: Emitter, value: ir.Value | None) -> relax.Expr:
    """The 3-D or 4-D tensor as (N, C, H, W) or (N, C/c, H, W, c), whichever exists, in float16 if it holds such."""
    value = before_widening(value)
    if emitter.is_blocked(value):
        return emitter.blocked(value).var
    expr = emitter.plain(value)
    return emitter.reshape(expr, layouts.image_shape(shape_of(expr)))


def _finish(emitter: Emitter, node: ir.Node, result: relax.Expr) -> None:
    out = node.outputs[0]
    if len(shape_of(result)) == 5:
        emitter.set_blocked(out, result, static_shape(out)[1])
    else:
        emitter.set_plain(out, emitter.reshape(result, static_shape(out)))


@lowers("MaxPool")
def max_pool(emitter: Emitter, node: ir.Node) -> None:
    if len(node.outputs) > 1 and node.outputs[1] is not None and node.outputs[1].name:
        raise UnsupportedError(f"MaxPool '{node.name}' gives indices", where=f"tensor '{node.outputs[1].name}'")
    windows = _windows(node, layouts.image_shape(static_shape(node.inputs[0])))
    x, dtype = _source(emitter, node.inputs[0]), dtype_name(node.inputs[0])
    _finish(emitter, node, emitter.te(pool, x, windows, "max", dtype, name="max_pool", fusion=Fusion.EPILOGUE))


@lowers("AveragePool")
def average_pool(emitter: Emitter, node: ir.Node) -> None:
    """The sum of each window, then a product with one over its size, which is a constant."""
    windows = _windows(node, layouts.image_shape(static_shape(node.inputs[0])))
    x, dtype = _source(emitter, node.inputs[0]), dtype_name(node.inputs[0])
    total = emitter.te(pool, x, windows, "sum", dtype, name="average_pool", fusion=Fusion.EPILOGUE)
    with_padding = bool(integer(node, "count_include_pad", 0))
    sizes = np.multiply.outer(*(window.sizes(with_padding=with_padding) for window in windows))
    _finish(emitter, node, _divided(emitter, total, sizes))


def _divided(emitter: Emitter, total: relax.Expr, sizes: np.ndarray) -> relax.Expr:
    dtype = dtype_of(total)
    if (sizes == sizes.flat[0]).all():
        factor: relax.Expr = tirx.const(1 / float(sizes.flat[0]), dtype)
    else:
        factors = (1 / sizes).astype(dtype)
        factor = emitter.const(factors[..., None] if len(shape_of(total)) == 5 else factors)
    return combine(emitter, lambda a, b: a * b, [total, factor], "scale")


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(emitter: Emitter, node: ir.Node) -> None:
    if len(static_shape(node.inputs[0])) not in (3, 4):
        raise UnsupportedError(f"{node.op_type} '{node.name}' is supported for images (4-D) and sequences (3-D)")
    emit_global_pool(emitter, node, "max" if node.op_type == "GlobalMaxPool" else "mean")


def emit_global_pool(emitter: Emitter, node: ir.Node, kind: str) -> None:
    """The "mean", "sum" or "max" of each channel, spatial axes kept as 1."""
    x, dtype = _source(emitter, node.inputs[0]), dtype_name(node.inputs[0])
    _, _, height, width, *_ = shape_of(x)
    name = "global_average_pool" if kind == "mean" else f"global_{kind}_pool"
    reducer = "max" if kind == "max" else "sum"
    result = emitter.te(whole_image, x, reducer, dtype, name=name, fusion=Fusion.EPILOGUE)
    if kind == "mean":
        result = _divided(emitter, result, np.array(height * width))
    _finish(emitter, node, result)


def pool(x: te.Tensor, windows: list[Window], reducer: str, dtype: str) -> te.Tensor:
    """From (N, C, H, W[, c]) -> (N, C, H', W'[, c]) of ``dtype``; what is outside the image does not count."""
    rows, columns = windows
    height, width = rows.size, columns.size
    ky, kx = te.reduce_axis((0, rows.kernel), "ky"), te.reduce_axis((0, columns.kernel), "kx")
    outside = tirx.min_value(dtype) if reducer == "max" else tirx.const(0, dtype)
    combine_ = te.max if reducer == "max" else te.sum

    def element(b: tirx.Var, c: tirx.Var, oy: tirx.Var, ox: tirx.Var, *lane: tirx.Var) -> tirx.Expr:
        y = oy * rows.stride + ky * rows.dilation - rows.begin
        xx = ox * columns.stride + kx * columns.dilation - columns.begin
        inside = [y >= 0, y < height] * rows.leaves + [xx >= 0, xx < width] * columns.leaves
        value = x(b, c, y, xx, *lane).astype(dtype)
        return combine_(tirx.if_then_else(tirx.all(*inside), value, outside) if inside else value, axis=[ky, kx])

    shape = [int(s) for s in x.shape]
    return te.compute(
        [*shape[:2], rows.count, columns.count, *shape[4:]], element, name=f"pool_{reducer}", attrs={KERNEL: "pool"}
    )


def whole_image(x: te.Tensor, reducer: str, dtype: str) -> te.Tensor:
    """From (N, C, H, W[, c]) -> (N, C, 1, 1[, c]) of ``dtype``."""
    n, channels, height, width, *lanes = (int(s) for s in x.shape)
    y, xx = te.reduce_axis((0, height), "y"), te.reduce_axis((0, width), "x")
    combine_ = te.max if reducer == "max" else te.sum
    return te.compute(
        [n, channels, 1, 1, *lanes],
        lambda b, c, _y, _x, *lane: combine_(x(b, c, y, xx, *lane).astype(dtype), axis=[y, xx]),
        name=f"pool_{reducer}",
        attrs={KERNEL: "pool"},
    )
