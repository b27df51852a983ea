"""Attention and transformer encoders against PyTorch and, traced, ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.engine import Tensor, check_grads, nn, no_grad, optim, seed
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.frontend import trace

KEYS = np.array([[True] * 5, [True, True, True, False, False]])
SEEN = np.random.default_rng(0).random((5, 5)) > 0.4
np.fill_diagonal(SEEN, True)


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def attention_state(prefix: str, attention: nn.MultiHeadAttention) -> dict[str, np.ndarray]:
    """Our weights under PyTorch's names."""
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    return {
        f"{prefix}in_proj_weight": np.concatenate([part.weight.data for part in parts]),
        f"{prefix}in_proj_bias": np.concatenate([part.bias.data for part in parts]),
        f"{prefix}out_proj.weight": attention.out_proj.weight.data,
        f"{prefix}out_proj.bias": attention.out_proj.bias.data,
    }


def randomized(module: nn.Module) -> None:
    """Biases start at zero and norms at one; make them something that matters."""
    random = np.random.default_rng(0)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data = (parameter.data + 0.3 * random.standard_normal(parameter.shape)).astype(np.float32)


def test_function_agrees_with_pytorch(torch: ModuleType) -> None:
    q, k, v = values(2, 3, 4, 8), values(2, 3, 5, 8), values(2, 3, 5, 6)
    peers = [torch.tensor(array) for array in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention
    ours = F.scaled_dot_product_attention
    mask, bias = SEEN[:4], values(2, 1, 4, 5)
    tensors = [Tensor(array) for array in (q, k, v)]
    close(ours(*tensors).data, theirs(*peers))
    close(ours(*tensors, scale=0.3).data, theirs(*peers, scale=0.3))
    close(ours(*tensors, Tensor(mask)).data, theirs(*peers, torch.tensor(mask)))
    close(ours(*tensors, Tensor(bias)).data, theirs(*peers, torch.tensor(bias)))
    close(ours(*tensors, is_causal=True).data, theirs(*peers, is_causal=True))
    nowhere = np.zeros((4, 5), bool)
    close(ours(*tensors, Tensor(nowhere)).data, np.broadcast_to(v.mean(2, keepdims=True), (2, 3, 4, 6)))
    check_grads(lambda a, b, c: ours(a, b, c, is_causal=True), values(1, 3, 2), values(1, 3, 2), values(1, 3, 2))


@pytest.mark.parametrize("masks", ["none", "keys", "pairs", "added", "both", "added and keys"])
def test_heads_agree_with_pytorch(torch: ModuleType, masks: str) -> None:
    seed(0)
    layer, peer = nn.MultiHeadAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    randomized(layer)
    peer.load_state_dict({key: torch.tensor(array) for key, array in attention_state("", layer).items()})
    x = values(2, 5, 8)
    own, theirs = Tensor(x, True), torch.tensor(x, requires_grad=True)
    added = values(5, 5)
    options: dict[str, Any] = {}
    peer_options: dict[str, Any] = {}
    if masks in ("keys", "both", "added and keys"):
        options["key_mask"] = Tensor(KEYS)
        hidden = torch.zeros(2, 5).masked_fill(torch.tensor(~KEYS), -1e9)
        peer_options["key_padding_mask"] = hidden if masks == "added and keys" else torch.tensor(~KEYS)
    if masks in ("pairs", "both"):
        options["attn_mask"], peer_options["attn_mask"] = Tensor(SEEN), torch.tensor(~SEEN)
    if masks in ("added", "added and keys"):
        options["attn_mask"], peer_options["attn_mask"] = Tensor(added), torch.tensor(added)
    y = layer(own, **options)
    y_peer, _ = peer(theirs, theirs, theirs, need_weights=False, **peer_options)
    close(y.data, y_peer.detach())
    (y * y).sum().backward()
    (y_peer * y_peer).sum().backward()
    close(own.grad.data, theirs.grad, 5e-5)
    close(layer.k_proj.weight.grad.data, peer.in_proj_weight.grad[8:16], 5e-5)


def test_cross_attention_agrees_with_pytorch(torch: ModuleType) -> None:
    seed(0)
    layer, peer = (
        nn.MultiHeadAttention(8, 2, kdim=6, vdim=4),
        torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
    )
    randomized(layer)
    state = {
        "q_proj_weight": layer.q_proj.weight.data,
        "k_proj_weight": layer.k_proj.weight.data,
        "v_proj_weight": layer.v_proj.weight.data,
        "in_proj_bias": np.concatenate([layer.q_proj.bias.data, layer.k_proj.bias.data, layer.v_proj.bias.data]),
        "out_proj.weight": layer.out_proj.weight.data,
        "out_proj.bias": layer.out_proj.bias.data,
    }
    peer.load_state_dict({key: torch.tensor(array) for key, array in state.items()})
    q, k, v = values(2, 3, 8), values(2, 5, 6), values(2, 5, 4)
    ours = layer(Tensor(q), Tensor(k), Tensor(v), attn_mask=Tensor(np.broadcast_to(SEEN[:3], (2, 3, 5)).copy()))
    close(ours.data, peer(*map(torch.tensor, (q, k, v)), attn_mask=torch.tensor(~SEEN[:3]))[0].detach())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_trains_like_pytorchs(torch: ModuleType, norm_first: bool, activation: str) -> None:
    seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, norm_first=norm_first)
    peer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm_first)
    randomized(layer)
    state = {key: tensor.data for key, tensor in layer.state_dict().items() if not key.startswith("self_attn")}
    state |= attention_state("self_attn.", layer.self_attn)
    peer.load_state_dict({key: torch.tensor(array) for key, array in state.items()})
    x, target = values(2, 5, 8), values(2, 5, 8)[::-1].copy()
    optimizer, peer_optimizer = optim.SGD(layer.parameters(), 0.02, 0.9), torch.optim.SGD(peer.parameters(), 0.02, 0.9)
    for _ in range(10):
        y, y_peer = (
            layer(Tensor(x), key_mask=Tensor(KEYS)),
            peer(torch.tensor(x), src_key_padding_mask=~torch.tensor(KEYS)),
        )
        close(y.data, y_peer.detach(), 1e-4)
        loss, peer_loss = F.mse_loss(y, Tensor(target)), torch.nn.functional.mse_loss(y_peer, torch.tensor(target))
        optimizer.zero_grad()
        peer_optimizer.zero_grad()
        loss.backward()
        peer_loss.backward()
        optimizer.step()
        peer_optimizer.step()
    close(layer.linear1.weight.data, peer.linear1.weight.detach(), 1e-4)
    close(layer.self_attn.v_proj.weight.data, peer.self_attn.in_proj_weight.detach()[16:], 1e-4)


class Classifier(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        self.embed = nn.Embedding(11, 8)
        self.position = nn.PositionalEncoding(8, 16, dropout=0.1)
        self.encoder = nn.TransformerEncoder(8, 2, 2, 16, 0.1, "gelu", norm_first)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, shown: Tensor) -> Tensor:
        return self.head(self.encoder(self.position(self.embed(tokens)), key_mask=shown, is_causal=True).mean(1))


@pytest.mark.parametrize("norm_first", [False, True])
def test_traced_encoder_agrees_with_onnxruntime(
    run_onnxruntime: Callable[..., dict[str, np.ndarray]], norm_first: bool
) -> None:
    seed(0)
    model = Classifier(norm_first)
    assert "position.table" in dict(model.named_buffers())
    tokens = np.random.default_rng(0).integers(0, 11, (2, 5))
    traced = trace(model, tokens, KEYS)
    (result,) = run_onnxruntime(traced, {"tokens": tokens, "shown": KEYS}).values()
    model.eval()
    with no_grad():
        close(result, model(Tensor(tokens), Tensor(KEYS)).data, 1e-5)


def test_positions_are_sines_and_cosines() -> None:
    table = F.sinusoidal_positions(50, 7)
    for position, column in [(0, 0), (3, 2), (49, 5), (20, 6)]:
        angle = position / 10000 ** ((column - column % 2) / 7)
        assert table[position, column] == pytest.approx(np.cos(angle) if column % 2 else np.sin(angle), abs=1e-6)
    with pytest.raises(ValueError, match="longer than max_len, 4"):
        nn.PositionalEncoding(8, 4)(Tensor(values(1, 5, 8)))
    with pytest.raises(ValueError, match="3 heads"):
        nn.MultiHeadAttention(8, 3)
