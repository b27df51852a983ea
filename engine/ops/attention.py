"""Attention and what goes with it: rotary embedding, linear attention and the causal convolution with a state.

ONNX has these since opset 23 (Attention, RotaryEmbedding) and 27 (LinearAttention, CausalConvWithState). All attributes
up to opset 27 are accepted; an attribute that a model's opset lacks has the default with which nothing changes.
"""

from __future__ import annotations

import math

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import dtype_from_onnx
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Sample
from edgec.engine.samples import integers, normal, positive, uniform
from edgec.engine.tensor import Tensor


def _split_heads(x: Tensor, heads: int | None) -> Tensor:
    """Shape: (n, length, heads * size) to (n, heads, length, size); four axes stay."""
    if x.ndim == 4:
        return x
    if heads is None:
        raise ValueError("q_num_heads and kv_num_heads are needed for inputs with three axes")
    n, length, width = x.shape
    return p.transpose(p.reshape(x, [n, length, heads, width // heads]), [0, 2, 1, 3])


def _join_heads(x: Tensor) -> Tensor:
    n, heads, length, size = x.shape
    return p.reshape(p.transpose(x, [0, 2, 1, 3]), [n, length, heads * size])


def _repeat_heads(x: Tensor, times: int) -> Tensor:
    """Each head of the keys or values, or its state, serves `times` heads of the queries."""
    if times == 1:
        return x
    n, heads, *rest = x.shape
    spread = p.expand(p.unsqueeze(x, [2]), [n, heads, times, *rest])
    return p.reshape(spread, [n, heads * times, *rest])


def _allowed_keys(
    queries: int, keys: int, offset: np.ndarray, is_causal: int, left: int, right: int, valid: np.ndarray | None
) -> np.ndarray:
    """Which key each query may see, before the user's mask. Shape: broadcasts against (n, heads, queries, keys)."""
    position = np.arange(queries)[:, None] + offset.reshape(-1, 1, 1, 1)
    key = np.arange(keys)
    allowed = np.ones((1, 1, queries, keys), bool)
    if is_causal:
        allowed = allowed & (key <= position)
    if left >= 0:
        allowed = allowed & (key >= position - left)
    if right >= 0:
        allowed = allowed & (key <= position + right)
    if valid is not None:
        allowed = allowed & (key < valid.reshape(-1, 1, 1, 1))
    return allowed


def _masked(scores: Tensor, mask: Tensor | None, allowed: np.ndarray) -> tuple[Tensor, Tensor]:
    """The scores with the float mask added, and where they count. What does not count stays finite."""
    visible = p.constant(allowed)
    if mask is None:
        return scores, visible
    missing = scores.shape[-1] - mask.shape[-1]
    if mask.dtype.kind == "b":
        if missing > 0:  # the cache may be longer than the mask
            rest = p.constant(np.zeros((*mask.shape[:-1], missing), bool))
            mask = p.concat([mask, rest], -1)
        return scores, visible & mask
    if missing > 0:
        rest = p.constant(np.full((*mask.shape[:-1], missing), -np.inf, mask.dtype))
        mask = p.concat([mask, rest], -1)
    closed = p.call("IsInf", mask, detect_positive=0)
    scores = scores + p.where(closed, p.full_like(mask, 0.0), mask)
    return scores, visible & ~closed


@defined("Attention", since=23)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid_keys: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> list[Tensor]:
    """softmax(scale * query @ key.T + mask) @ value per head; several query heads may share one of the keys.

    A query that sees no key gives zeros. Outputs: the result, the keys and values with the past ones in front, and
    the scores at the stage that `qk_matmul_output_mode` names.

    Source: ONNX Attention-23 to 25; Vaswani et al. 2017, eq. 1.
    """
    is_flat = query.ndim == 3
    query, key, value = (
        _split_heads(x, heads) for x, heads in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    offset = np.zeros(1, np.int64)
    if past_key is not None and past_value is not None:
        offset += past_key.shape[2]
        key, value = p.concat([past_key, key], 2), p.concat([past_value, value], 2)
    valid = None if valid_keys is None else valid_keys.data
    if valid is not None and past_key is None:
        offset = valid - query.shape[2]
    share = query.shape[1] // key.shape[1]
    # The root of the scale on both sides, as ONNX has it, keeps float16 products in range.
    root = math.sqrt(scale if scale else 1.0 / math.sqrt(query.shape[-1]))
    keys = p.swap_axes(_repeat_heads(key, share), -1, -2)
    shown = scores = p.matmul(p.scale(query, root), p.scale(keys, root))
    if softcap > 0:
        scores = p.scale(p.tanh(p.scale(scores, 1.0 / softcap)), softcap)
        shown = scores if qk_matmul_output_mode == 1 else shown
    allowed = _allowed_keys(query.shape[2], key.shape[2], offset, is_causal, left_window_size, right_window_size, valid)
    scores, visible = _masked(scores, mask, allowed)
    visible = p.expand(visible, scores.shape)
    if qk_matmul_output_mode == 2:
        shown = p.where(visible, scores, p.full_like(scores, -np.inf))
    if softmax_precision is not None:
        scores = p.cast(scores, dtype_from_onnx(softmax_precision))
    # Rows that see nothing keep their finite scores, so that no nan can arise, and become zero after the softmax.
    is_seeing = p.cast(p.call("ReduceMax", p.cast(visible, np.int32), p.int64([-1])), np.bool_)
    closed = p.where(p.call("Or", visible, ~is_seeing), scores, p.full_like(scores, -np.inf))
    weights = p.mask(is_seeing, p.softmax(closed))
    weights = p.cast(weights, query.dtype)
    if qk_matmul_output_mode == 3:
        shown = weights
    y = p.matmul(weights, _repeat_heads(value, share))
    return [_join_heads(y) if is_flat else y, key, value, shown]


attention.samples = lambda: [
    Sample([normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 3)], reference="onnx"),
    Sample(
        [normal(1, 3, 8), normal(1, 4, 4), normal(1, 4, 4, seed=1), normal(3, 4)],
        {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1, "softcap": 2.0},
        reference="onnx",
        order=1,
    ),
    Sample(
        [normal(1, 2, 2, 4), normal(1, 1, 2, 4), normal(1, 1, 2, 3), np.array([[True, False, True], [False] * 3]),
         normal(1, 1, 1, 4), normal(1, 1, 1, 3)],
        {"scale": 0.7, "qk_matmul_output_mode": 3},
        outputs=4,
        reference="onnx",
        order=1,
    ),
    Sample(
        [normal(2, 1, 2, 4), normal(2, 1, 3, 4), normal(2, 1, 3, 3), None, None, None, np.array([2, 3])],
        {"is_causal": 1},
        reference="onnx",
        order=1,
    ),
    Sample([normal(1, 1, 4, 2), normal(1, 1, 4, 2), normal(1, 1, 4, 2)],
           {"left_window_size": 1, "right_window_size": 0}, reference="onnx", order=1),
    Sample([normal(1, 1, 2, 2) * 1e4, normal(1, 1, 3, 2) * 1e4, normal(1, 1, 3, 2)], reference="onnx", varied=()),
    Sample([normal(0, 1, 2, 2), normal(0, 1, 3, 2), normal(0, 1, 3, 2)], reference="onnx", varied=()),
]  # fmt: skip


@defined("RotaryEmbedding", since=23)
def rotary_embedding(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotate pairs of features by an angle that grows with the position.

    Source: ONNX RotaryEmbedding-23; Su et al. 2021, eq. 34.
    """
    heads = _split_heads(x, num_heads)
    n, count, length, size = heads.shape
    width = rotary_embedding_dim or size
    if positions is not None:
        cosines, sines = p.gather(cosines, positions), p.gather(sines, positions)
    cosines, sines = p.unsqueeze(cosines, [1]), p.unsqueeze(sines, [1])
    turned = p.slice_axes(heads, [0], [width], [3], [1])
    if interleaved:
        pairs = p.reshape(turned, [n, count, length, width // 2, 2])
        first, second = (p.squeeze(p.slice_axes(pairs, [i], [i + 1], [4], [1]), [4]) for i in (0, 1))
    else:
        first, second = (p.slice_axes(turned, [i * width // 2], [(i + 1) * width // 2], [3], [1]) for i in (0, 1))
    real, imaginary = cosines * first - sines * second, sines * first + cosines * second
    if interleaved:
        turned = p.concat([p.unsqueeze(part, [4]) for part in (real, imaginary)], 4)
        turned = p.reshape(turned, [n, count, length, width])
    else:
        turned = p.concat([real, imaginary], 3)
    if width < size:
        turned = p.concat([turned, p.slice_axes(heads, [width], [size], [3], [1])], 3)
    return _join_heads(turned) if x.ndim == 3 else turned


rotary_embedding.samples = lambda: [
    Sample([normal(2, 2, 3, 4), normal(5, 2), normal(5, 2, seed=1), integers(2, 3, high=5)], reference="onnx"),
    Sample([normal(2, 3, 8), normal(2, 3, 2), normal(2, 3, 2, seed=1)], {"num_heads": 2, "interleaved": 1},
           reference="onnx", order=1),
    Sample([normal(1, 2, 3, 6), normal(1, 3, 2), normal(1, 3, 2, seed=1)], {"rotary_embedding_dim": 4},
           reference="onnx", order=1),
    Sample([normal(0, 2, 3, 4), normal(0, 3, 2), normal(0, 3, 2)], reference="onnx", varied=()),
]  # fmt: skip


@defined("LinearAttention", since=27)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,  # noqa: ARG001
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> list[Tensor]:
    """A state of outer products of keys and values, read by the queries; one step after the other.

    Half precision is computed in float32. `chunk_size` is a hint to others and changes nothing.

    Source: ONNX LinearAttention-27.
    """
    dtype = query.dtype
    wide = np.promote_types(dtype, np.float32) if dtype.kind == "f" else np.dtype(np.float32)
    queries, keys, values = (
        p.cast(_split_heads(x, heads), wide)
        for x, heads in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    n, _, length, key_size = keys.shape
    share = q_num_heads // kv_num_heads
    state = p.zeros([n, kv_num_heads, key_size, values.shape[3]], wide)
    if past_state is not None:
        state = p.cast(past_state, wide)
    gates = None if decay is None else p.exp(p.cast(_split_heads(decay, kv_num_heads), wide))
    rates = None if beta is None else p.cast(_split_heads(beta, beta.shape[2]), wide)
    results = []
    for step in range(length):
        at = [step], [step + 1], [2], [1]
        k = p.swap_axes(p.slice_axes(keys, *at), 2, 3)
        v = p.slice_axes(values, *at)
        if "gated" in update_rule and gates is not None:
            state = state * p.swap_axes(p.slice_axes(gates, *at), 2, 3)
        if "delta" in update_rule and rates is not None:
            v = p.slice_axes(rates, *at) * (v - p.matmul(p.swap_axes(k, 2, 3), state))
        state = state + p.matmul(k, v)
        results.append(p.matmul(p.slice_axes(queries, *at), _repeat_heads(state, share)))
    y = p.scale(p.concat(results, 2), scale or 1.0 / math.sqrt(key_size))
    return [p.cast(_join_heads(y), dtype), p.cast(state, dtype if past_state is None else past_state.dtype)]


linear_attention.samples = lambda: [
    Sample([normal(1, 3, 4), normal(1, 3, 2), normal(1, 3, 3)],
           {"q_num_heads": 2, "kv_num_heads": 1, "update_rule": "linear"}, outputs=2, reference="onnx"),
    Sample([normal(2, 2, 4), normal(2, 2, 4), normal(2, 2, 6), normal(2, 2, 2, 3), -uniform(2, 2, 2), uniform(2, 2, 2)],
           {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.5}, outputs=2, reference="onnx", order=1),
    Sample([normal(1, 2, 2), normal(1, 2, 2), normal(1, 2, 2), None, -uniform(1, 2, 2)],
           {"q_num_heads": 1, "kv_num_heads": 1, "update_rule": "gated"}, outputs=2, reference="onnx", order=1),
    Sample([normal(0, 2, 2), normal(0, 2, 2), normal(0, 2, 2)],
           {"q_num_heads": 1, "kv_num_heads": 1, "update_rule": "linear"}, reference="", varied=()),
]  # fmt: skip


@defined("CausalConvWithState", since=27)
def causal_conv_with_state(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None, *, activation: str = "none"
) -> list[Tensor]:
    """A depthwise convolution that sees the past only; the last inputs are the state for the next call.

    Shape: x (n, c, length), weight (c, 1, k), past and the second output (n, c, k - 1).
    Source: ONNX CausalConvWithState-27.
    """
    before = weight.shape[2] - 1
    if past is None:
        past = p.zeros([*x.shape[:2], before], x.dtype)
    joined = p.concat([past, x], 2)
    # Half precision is rounded once, after the activation.
    wide = np.dtype(np.float32) if x.dtype.itemsize < 4 else x.dtype
    parts = [None if part is None else p.cast(part, wide) for part in (joined, weight, bias)]
    y = p.call("Conv", *parts, group=x.shape[1])
    if activation in ("silu", "swish"):
        y = y * p.sigmoid(y)
    y = p.cast(y, x.dtype)
    return [y, p.slice_axes(joined, [joined.shape[2] - before], [joined.shape[2]], [2], [1])]


causal_conv_with_state.samples = lambda: [
    Sample([normal(2, 3, 5), normal(3, 1, 3), normal(3), normal(2, 3, 2)], {"activation": "silu"}, outputs=2,
           reference="onnx"),
    Sample([normal(1, 2, 4), positive(2, 1, 2)], outputs=2, reference="onnx", order=1),
    Sample([normal(0, 2, 4), positive(2, 1, 2)], outputs=2, reference="onnx", varied=()),
]  # fmt: skip
