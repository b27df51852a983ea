"""Layers that are neither convolution, normalization, pool nor activation. Arguments as in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.functional.sizes import Size
from edgec.engine.nn.init import default_bias, default_weight, empty, normal_, uniform_
from edgec.engine.nn.module import Module
from edgec.engine.tensor import Parameter, Tensor

__all__ = [
    "Bilinear", "Dropout", "Dropout2d", "Embedding", "Flatten", "Identity", "Linear", "PixelShuffle", "Unflatten",
    "Upsample", "ZeroPad2d",
]  # fmt: skip


class Identity(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Linear(Module):
    """The product x Wᵀ, plus a bias. Shape: (..., in_features) to (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.weight = default_weight(out_features, in_features)
        self.bias = default_bias(out_features, in_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def describe(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


class Bilinear(Module):
    """The form xᵀ W y. Shape: (n, in1_features), (n, in2_features) to (n, out_features)."""

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True) -> None:
        bound = in1_features**-0.5
        self.weight = uniform_(empty(out_features, in1_features, in2_features), -bound, bound)
        self.bias = default_bias(out_features, in1_features) if bias else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.bilinear(x, y, self.weight, self.bias)


class Embedding(Module):
    """Rows of a table; the row `padding_idx` starts at zero and gets no gradient.

    Shape: integers (...) to (..., embedding_dim).
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight: Parameter = normal_(empty(num_embeddings, embedding_dim))
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, indices: Tensor) -> Tensor:
        rows = F.embedding(indices, self.weight)
        if self.padding_idx is None or not self.training:
            return rows
        return rows * (indices != self.padding_idx).unsqueeze(-1).astype(rows.dtype)

    def describe(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class Dropout(Module):
    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def describe(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Drops whole channels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training)


class Flatten(Module):
    """Everything but the batch in one axis."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = start_axis

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_axis)


class Unflatten(Module):
    """One axis in several. Shape: (n, a * b) to (n, a, b) for axis 1 and sizes (a, b)."""

    def __init__(self, axis: int, sizes: Sequence[int]) -> None:
        self.axis, self.sizes = axis, tuple(sizes)

    def forward(self, x: Tensor) -> Tensor:
        axis = self.axis % x.ndim
        return x.reshape((*x.shape[:axis], *self.sizes, *x.shape[axis + 1 :]))


class Upsample(Module):
    """Resizes the spatial axes; see `functional.interpolate`."""

    def __init__(
        self,
        size: Size | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: Literal["nearest", "linear", "bilinear", "bicubic"] = "nearest",
        align_corners: bool = False,
    ) -> None:
        self.size, self.scale_factor, self.align_corners = size, scale_factor, align_corners
        self.mode: Literal["nearest", "linear", "bilinear", "bicubic"] = mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)


class PixelShuffle(Module):
    """Channels become pixels. Shape: (n, c r², h, w) to (n, c, h r, w r)."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, self.factor)


class ZeroPad2d(Module):
    """Zeros around the pixels: one number, or left, right, top, bottom."""

    def __init__(self, padding: Size) -> None:
        left, right, top, bottom = [padding] * 4 if isinstance(padding, int) else padding
        self.pads = [0, 0, top, left, 0, 0, bottom, right]

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads)
