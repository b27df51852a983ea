"""Products with a weight, tables, dropout, and changes of size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.functional.sizes import Size, sizes_of
from edgec.engine.registry import apply
from edgec.engine.tensor import Tensor

__all__ = [
    "bilinear", "cosine_similarity", "dropout", "dropout2d", "embedding", "flatten", "interpolate", "linear",
    "one_hot", "pad", "pixel_shuffle", "pixel_unshuffle",
]  # fmt: skip


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product x Wᵀ, plus the bias.

    Shape: x (..., in), weight (out, in), bias (out); result (..., out).
    """
    if x.ndim == 2:
        return p.call("Gemm", x, weight, bias, transB=1) if bias is not None else p.call("Gemm", x, weight, transB=1)
    product = p.matmul(x, p.transpose(weight))
    return product if bias is None else product + bias


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The form xᵀ W_o y for every output o. Shape: x (n, a), y (n, b), weight (out, a, b), bias (out)."""
    out, a, b = weight.shape
    products = p.reshape(p.matmul(x, p.reshape(p.transpose(weight, [1, 0, 2]), [a, out * b])), [-1, out, b])
    result = (products * p.unsqueeze(y, [1])).sum(-1)
    return result if bias is None else result + bias


def cosine_similarity(x: Tensor, y: Tensor, axis: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine between vectors along `axis`; each norm is held above `eps`."""
    norms = [p.reduce("ReduceL2", part, [axis]).clip(min=eps) for part in (x, y)]
    return (x * y).sum(axis) / (norms[0] * norms[1])


def dropout(x: Tensor, p_drop: float = 0.5, training: bool = True) -> Tensor:
    """Zero a random share of `x` and scale up the rest; in inference `x` itself, without a node."""
    if not 0.0 <= p_drop <= 1.0:
        raise ValueError(f"dropout: the share must lie in [0, 1], not {p_drop}")
    if not training or p_drop == 0.0:
        return x
    return apply("Dropout", (x, p.constant(p_drop, np.float32), p.constant(np.array(True))), outputs=2)[0]


def dropout2d(x: Tensor, p_drop: float = 0.5, training: bool = True) -> Tensor:
    """Dropout of whole channels. Shape: x (n, c, ...)."""
    if not training or p_drop == 0.0:
        return x
    return x * dropout(p.constant(np.ones((*x.shape[:2], *[1] * (x.ndim - 2)), x.dtype)), p_drop)


def flatten(x: Tensor, start_axis: int = 1) -> Tensor:
    """Everything from `start_axis` on in one axis."""
    return p.call("Flatten", x, axis=1) if start_axis == 1 else x.flatten(start_axis)


def pad(
    x: Tensor, pads: Sequence[int], mode: Literal["constant", "reflect", "edge", "wrap"] = "constant", value: float = 0
) -> Tensor:
    """Pad all axes; begins of every axis first, then the ends, as ONNX has it."""
    if mode != "constant" or value == 0:
        return p.call("Pad", x, p.int64(list(pads)), mode=mode)
    return p.call("Pad", x, p.int64(list(pads)), p.full_like(x, value))


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """Channels become pixels. Shape: (n, c r², h, w) to (n, c, h r, w r)."""
    return p.call("DepthToSpace", x, blocksize=factor, mode="CRD")


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Pixels become channels. Shape: (n, c, h r, w r) to (n, c r², h, w)."""
    n, c, h, w = x.shape
    blocks = p.reshape(x, [n, c, h // factor, factor, w // factor, factor])
    return p.reshape(p.transpose(blocks, [0, 1, 3, 5, 2, 4]), [n, c * factor**2, h // factor, w // factor])


def interpolate(
    x: Tensor,
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: Literal["nearest", "linear", "bilinear", "bicubic"] = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """Resize the spatial axes to `size`, or by `scale_factor`."""
    rank = x.ndim - 2
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    attributes: dict[str, object] = {"mode": {"nearest": "nearest", "bicubic": "cubic"}.get(mode, "linear")}
    transform = "align_corners" if align_corners else "asymmetric" if mode == "nearest" else "pytorch_half_pixel"
    attributes["coordinate_transformation_mode"] = transform
    if mode == "nearest":
        attributes["nearest_mode"] = "floor"
    if size is not None:
        sizes = p.int64([*x.shape[:2], *sizes_of(size, rank)])
        return apply("Resize", (x, None, None, sizes), attributes)[0]
    factors = [scale_factor] * rank if isinstance(scale_factor, int | float) else list(scale_factor or ())
    return apply("Resize", (x, None, p.constant(np.array([1, 1, *factors], np.float32))), attributes)[0]


def embedding(indices: Tensor, weight: Tensor) -> Tensor:
    """The rows of `weight` at `indices`."""
    return p.gather(weight, indices)


def one_hot(indices: Tensor, classes: int) -> Tensor:
    """A new last axis with a float32 1 at each index."""
    return p.call("OneHot", indices, p.int64(classes), p.constant(np.array([0, 1], np.float32)))
