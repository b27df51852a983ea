"""RNN, GRU and LSTM against PyTorch, and traced as one operator per layer against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.engine import Tensor, nn, optim, seed
from edgec.frontend import trace

CASES: list[tuple[str, dict[str, Any]]] = [
    (name, options)
    for name in ("RNN", "GRU", "LSTM")
    for options in (
        {},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bias": False},
        {"bidirectional": True},
    )
] + [("RNN", {"nonlinearity": "relu", "bidirectional": True})]
IDS = [f"{index}-{name}" for index, (name, _) in enumerate(CASES)]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def pair(torch: ModuleType, name: str, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    seed(0)
    torch.manual_seed(0)
    layer, peer = getattr(nn, name)(4, 3, **options), getattr(torch.nn, name)(4, 3, **options)
    layer.load_pytorch({key: tensor.numpy() for key, tensor in peer.state_dict().items()})
    return layer, peer


def as_list(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


def weights_of(name: str, options: dict[str, Any], state: dict[str, Any]) -> dict[str, np.ndarray]:
    """PyTorch's state as our names and order."""
    layer = getattr(nn, name)(4, 3, **options)
    layer.load_pytorch({key: tensor.detach().numpy() for key, tensor in state.items()})
    return {key: tensor.data for key, tensor in layer.state_dict().items()}


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_network_agrees_with_pytorch(torch: ModuleType, name: str, options: dict[str, Any], with_state: bool) -> None:
    layer, peer = pair(torch, name, options)
    x = values(2, 5, 4) if options.get("batch_first") else values(5, 2, 4)
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    starts = [values(rows, 2, 3), values(rows, 2, 3) * 0.5][: 2 if name == "LSTM" else 1]
    ours, theirs = Tensor(x, True), torch.tensor(x, requires_grad=True)
    own_starts, peer_starts = (
        [Tensor(start, True) for start in starts],
        [torch.tensor(start, requires_grad=True) for start in starts],
    )
    state = (tuple(own_starts) if name == "LSTM" else own_starts[0]) if with_state else None
    peer_state = (tuple(peer_starts) if name == "LSTM" else peer_starts[0]) if with_state else None
    optimizer, peer_optimizer = optim.SGD(layer.parameters(), 0.05, 0.9), torch.optim.SGD(peer.parameters(), 0.05, 0.9)
    for step in range(10 if with_state else 2):
        for tensor in (*own_starts, *peer_starts, theirs):
            tensor.grad = None
        ours.grad = None
        y, last = layer(ours, state)
        y_peer, last_peer = peer(theirs, peer_state)
        close(y.data, y_peer.detach(), 2e-5 if step == 0 else 5e-4)
        for one, other in zip(as_list(last), as_list(last_peer), strict=True):
            close(one.data, other.detach(), 2e-5 if step == 0 else 5e-4)
        optimizer.zero_grad()
        peer_optimizer.zero_grad()
        loss, peer_loss = (y * y).sum(), (y_peer * y_peer).sum()
        for one, other in zip(as_list(last), as_list(last_peer), strict=True):
            loss, peer_loss = loss + (one * 0.3).sum(), peer_loss + (other * 0.3).sum()
        loss.backward()
        peer_loss.backward()
        if step == 0:
            close(ours.grad.data, theirs.grad)
            for one, other in zip(own_starts, peer_starts, strict=True):
                assert not with_state or np.allclose(one.grad.data, other.grad, 2e-5, 2e-5)
            gradients = weights_of(name, options, {key: value.grad for key, value in peer.named_parameters()})
            for key, parameter in layer.named_parameters():
                close(parameter.grad.data, gradients[key], 1e-4)
        optimizer.step()
        peer_optimizer.step()
    expected = weights_of(name, options, dict(peer.named_parameters()))
    for key, parameter in layer.named_parameters():
        close(parameter.data, expected[key], 5e-4)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_unequal_lengths_agree_with_packed_sequences(torch: ModuleType, name: str) -> None:
    layer, peer = pair(torch, name, {"num_layers": 2, "bidirectional": True, "batch_first": True})
    x, lengths = values(3, 6, 4), [6, 2, 4]
    y, last = layer(Tensor(x), lengths=Tensor(np.array(lengths)))
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(torch.tensor(x), lengths, batch_first=True, enforce_sorted=False)
    y_peer, last_peer = peer(packed)
    close(y.data, rnn.pad_packed_sequence(y_peer, batch_first=True)[0].detach())
    for one, other in zip(as_list(last), as_list(last_peer), strict=True):
        close(one.data, other.detach())


class Tagger(nn.Module):
    """Outputs and the last state, so that the trace has both."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.rnn = getattr(nn, name)(4, 3, **options)
        self.head = nn.Linear(3 * self.rnn.directions, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.rnn(x)
        return self.head(y).sum((0, 1)) + as_list(last)[-1].sum()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_trace_is_one_operator_per_layer(
    run_onnxruntime: Callable[..., dict[str, np.ndarray]], name: str, options: dict[str, Any]
) -> None:
    seed(1)
    model = Tagger(name, {**options, "dropout": 0.5} if options.get("num_layers") else options)
    x = values(5, 2, 4)
    traced = trace(model, x)
    assert [node.op_type for node in traced.graph].count(name) == options.get("num_layers", 1)
    (result,) = run_onnxruntime(traced, {"x": x}).values()
    close(result, model.eval()(Tensor(x)).data, 1e-4)


def test_wrong_states_are_refused() -> None:
    with pytest.raises(ValueError, match="LSTM has 2 states, 1 were given"):
        nn.LSTM(2, 3)(Tensor(values(1, 1, 2)), Tensor(values(1, 1, 3)))
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.RNN(2, 3, nonlinearity="sigmoid")
    assert repr(nn.GRU(2, 3, bidirectional=True)) == "GRU(2, 3, num_layers=1, bidirectional=True)"


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_cells_are_steps_of_the_layer(torch: ModuleType, name: str) -> None:
    cell, peer = getattr(nn, f"{name}Cell")(4, 3), getattr(torch.nn, f"{name}Cell")(4, 3)
    cell.layer.load_pytorch({f"{key}_l0": tensor.numpy() for key, tensor in peer.state_dict().items()})
    state = peer_state = None
    for step in values(3, 2, 4):
        state, peer_state = cell(Tensor(step), state), peer(torch.tensor(step), peer_state)
        for one, other in zip(as_list(state), as_list(peer_state), strict=True):
            close(one.data, other.detach())
