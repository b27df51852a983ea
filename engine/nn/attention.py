"""Attention and transformer encoders. The batch comes first: (n, length, width)."""

from __future__ import annotations

from typing import Literal

from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine import primitives as p
from edgec.engine.functional.attention import sinusoidal_positions
from edgec.engine.nn.containers import ModuleList
from edgec.engine.nn.init import xavier_uniform_, zeros_
from edgec.engine.nn.layers import Dropout, Linear
from edgec.engine.nn.module import Module
from edgec.engine.nn.normalization import LayerNorm
from edgec.engine.tensor import Tensor

__all__ = ["MultiHeadAttention", "PositionalEncoding", "TransformerEncoder", "TransformerEncoderLayer"]


class MultiHeadAttention(Module):
    """Attention in several heads; see `functional.scaled_dot_product_attention` for the masks.

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
    ) -> None:
        if embed_dim % num_heads:
            raise ValueError(f"a width of {embed_dim} cannot be split into {num_heads} heads")
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = Linear(embed_dim, embed_dim, bias)
        self.k_proj = Linear(embed_dim if kdim is None else kdim, embed_dim, bias)
        self.v_proj = Linear(embed_dim if vdim is None else vdim, embed_dim, bias)
        self.out_proj = Linear(embed_dim, embed_dim, bias)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            xavier_uniform_(projection.weight)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            if projection.bias is not None:
                zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Self-attention if there is no key.

        Args:
            query: Shape (n, q, embed_dim).
            key: Shape (n, k, kdim); the query by default.
            value: Shape (n, k, vdim); the key by default.
            attn_mask: Shape (q, k), (n, q, k) or (n, heads, q, k): True may look, or numbers to be added.
            key_mask: Shape (n, k): True is a key, False is padding.
            is_causal: Query i sees keys 0 to i only.
        """
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = (
            self._heads(projection(x))
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = p.unsqueeze(attn_mask, [1])
        if key_mask is not None:
            shown = p.unsqueeze(key_mask, [1, 2])
            if attn_mask is None:
                attn_mask = shown
            elif attn_mask.dtype == shown.dtype:
                attn_mask = attn_mask & shown
            else:  # added numbers: hide the padding with a very negative one
                attn_mask = p.where(shown, attn_mask, p.full_like(attn_mask, -1e9))
        dropped = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask, dropped, is_causal)
        n, _, length, _ = y.shape
        return self.out_proj(p.reshape(p.transpose(y, [0, 2, 1, 3]), [n, length, -1]))

    def _heads(self, x: Tensor) -> Tensor:
        """(n, length, width) to (n, heads, length, width / heads)."""
        n, length, width = x.shape
        split = p.reshape(x, [n, length, self.num_heads, width // self.num_heads])
        return p.transpose(split, [0, 2, 1, 3])

    def describe(self) -> str:
        return f"{self.out_proj.weight.shape[0]}, {self.num_heads}"


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network, each with a residual and a norm (before it with `norm_first`).

    Shape: (n, length, d_model) to the same.

    Source: Vaswani et al. 2017, section 3.1; Xiong et al. 2020 (`norm_first`).
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Literal["relu", "gelu"] = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
    ) -> None:
        if activation not in ("relu", "gelu"):
            raise ValueError(f'activation must be "relu" or "gelu", not {activation!r}')
        self.norm_first, self.activation = norm_first, activation
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout)
        self.linear1, self.linear2 = Linear(d_model, dim_feedforward), Linear(dim_feedforward, d_model)
        self.norm1, self.norm2 = LayerNorm(d_model, layer_norm_eps), LayerNorm(d_model, layer_norm_eps)
        self.dropout, self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout), Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, key_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """The masks are those of `MultiHeadAttention`."""
        if self.norm_first:
            x = x + self._attend(self.norm1(x), mask, key_mask, is_causal)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, mask, key_mask, is_causal))
        return self.norm2(x + self._feed(x))

    def _attend(self, x: Tensor, mask: Tensor | None, key_mask: Tensor | None, is_causal: bool) -> Tensor:
        return self.dropout1(self.self_attn(x, attn_mask=mask, key_mask=key_mask, is_causal=is_causal))

    def _feed(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        hidden = F.relu(hidden) if self.activation == "relu" else F.gelu(hidden)
        return self.dropout2(self.linear2(self.dropout(hidden)))


class TransformerEncoder(Module):
    """Several `TransformerEncoderLayer`, each with its own weights; with `norm_first` a last norm."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        num_layers: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Literal["relu", "gelu"] = "relu",
        norm_first: bool = False,
    ) -> None:
        self.layers = ModuleList(
            TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, norm_first=norm_first)
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(d_model) if norm_first else None

    def forward(
        self, x: Tensor, mask: Tensor | None = None, key_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask=mask, key_mask=key_mask, is_causal=is_causal)
        return x if self.norm is None else self.norm(x)


class PositionalEncoding(Module):
    """Adds sines and cosines of the position. Shape: (n, length, d_model), length up to `max_len`."""

    def __init__(self, d_model: int, max_len: int = 512, dropout: float = 0.0) -> None:
        self.max_len, self.dropout = max_len, Dropout(dropout)
        self.table = Tensor(sinusoidal_positions(max_len, d_model))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        if length > self.max_len:
            raise ValueError(f"a sequence of {length} is longer than max_len, {self.max_len}")
        return self.dropout(x + p.slice_axes(self.table, [0], [length], [0], [1]))
