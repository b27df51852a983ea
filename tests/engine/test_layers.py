"""Layers against PyTorch (value, gradient, ten optimizer steps) and, traced, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.engine import Tensor, nn, no_grad, optim, seed
from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.frontend import trace

# The same name and arguments build the layer here and in PyTorch.
LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Linear", (4, 3), {}, (5, 4)),
    ("Linear", (4, 3), {"bias": False}, (2, 5, 4)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9)),
    ("Conv1d", (2, 3, 4), {"padding": "same"}, (2, 2, 9)),
    ("Conv2d", (3, 4, 3), {"padding": 1}, (2, 3, 6, 5)),
    ("Conv2d", (4, 8, (3, 2)), {"stride": (2, 1), "dilation": (1, 2), "groups": 4, "bias": False}, (2, 4, 7, 7)),
    ("Conv3d", (2, 3, 2), {"stride": (1, 2, 1), "padding": 1}, (2, 2, 4, 5, 4)),
    ("ConvTranspose1d", (3, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (2, 3, 5)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 4, 5)),
    ("ConvTranspose2d", (3, 2, (2, 3)), {"stride": (2, 1), "dilation": (1, 2)}, (2, 3, 3, 4)),
    ("ConvTranspose3d", (2, 3, 2), {"stride": 2}, (1, 2, 3, 3, 3)),
    ("BatchNorm1d", (5,), {}, (6, 5)),
    ("BatchNorm1d", (5,), {"eps": 1e-3, "momentum": 0.3}, (3, 5, 4)),
    ("BatchNorm2d", (4,), {}, (3, 4, 5, 4)),
    ("BatchNorm3d", (2,), {}, (2, 2, 3, 2, 2)),
    ("LayerNorm", (6,), {}, (2, 3, 6)),
    ("LayerNorm", ((3, 6),), {"eps": 1e-3, "bias": False}, (2, 3, 6)),
    ("RMSNorm", (6,), {}, (2, 3, 6)),
    ("RMSNorm", ((3, 6),), {"eps": 1e-3}, (2, 3, 6)),
    ("GroupNorm", (2, 6), {}, (2, 6, 4, 3)),
    ("GroupNorm", (3, 6), {"affine": False, "eps": 1e-2}, (2, 6, 5)),
    ("InstanceNorm1d", (3,), {"affine": True}, (2, 3, 6)),
    ("InstanceNorm2d", (3,), {}, (2, 3, 4, 5)),
    ("InstanceNorm3d", (3,), {"affine": True}, (2, 3, 2, 3, 2)),
    ("MaxPool1d", (3,), {"stride": 2, "padding": 1}, (2, 3, 9)),
    ("MaxPool2d", ((3, 2),), {"stride": (2, 1), "ceil_mode": True}, (2, 3, 8, 6)),
    ("MaxPool3d", (2,), {}, (1, 2, 4, 4, 5)),
    ("AvgPool1d", (3,), {"stride": 2, "padding": 1}, (2, 3, 9)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, (2, 3, 8, 7)),
    ("AvgPool3d", (2,), {}, (1, 2, 4, 4, 5)),
    ("AdaptiveAvgPool1d", (4,), {}, (2, 3, 10)),
    ("AdaptiveAvgPool2d", ((2, 3),), {}, (2, 3, 4, 6)),
    ("AdaptiveAvgPool2d", ((3, 5),), {}, (2, 3, 7, 8)),
    ("AdaptiveAvgPool2d", (7,), {}, (2, 3, 5, 3)),
    ("AdaptiveAvgPool2d", (1,), {}, (2, 3, 5, 3)),
    ("AdaptiveMaxPool1d", (4,), {}, (2, 3, 10)),
    ("AdaptiveMaxPool2d", ((3, 5),), {}, (2, 3, 7, 8)),
    ("AdaptiveMaxPool2d", ((2, 4),), {}, (2, 3, 4, 8)),
    ("AdaptiveMaxPool2d", (1,), {}, (2, 3, 5, 3)),
    ("ReLU", (), {}, (3, 4)),
    ("ReLU6", (), {}, (3, 4)),
    ("Hardtanh", (-0.5, 0.7), {}, (3, 4)),
    ("LeakyReLU", (0.2,), {}, (3, 4)),
    ("PReLU", (), {}, (3, 4)),
    ("PReLU", (3,), {}, (2, 3, 4, 4)),
    ("ELU", (0.5,), {}, (3, 4)),
    ("CELU", (0.5,), {}, (3, 4)),
    ("SELU", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("LogSigmoid", (), {}, (3, 4)),
    ("Hardsigmoid", (), {}, (3, 4)),
    ("Hardswish", (), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Mish", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Softplus", (), {}, (3, 4)),
    ("Softsign", (), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", ("tanh",), {}, (3, 4)),
    ("GLU", (1,), {}, (3, 4, 2)),
    ("Softmax", (-1,), {}, (3, 4)),
    ("LogSoftmax", (1,), {}, (3, 4, 2)),
    ("PixelShuffle", (2,), {}, (2, 8, 3, 2)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Unflatten", (1, (2, 3)), {}, (2, 6, 2)),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, (2, 3, 4, 4)),
    ("Upsample", (), {"scale_factor": 2}, (1, 2, 3, 4)),
    ("Upsample", (), {"size": (5, 7), "mode": "bilinear"}, (1, 2, 3, 4)),
    ("Upsample", (), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}, (1, 2, 3, 4)),
]  # fmt: skip


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 2


def close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    a, b = np.asarray(actual), np.asarray(expected)
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


def copied(torch: ModuleType, layer: nn.Module, peer: Any) -> None:
    missing, unexpected = peer.load_state_dict(
        {name: torch.from_numpy(tensor.data.copy()) for name, tensor in layer.state_dict().items()}, strict=False
    )
    assert unexpected == []
    assert [name for name in missing if not name.endswith("num_batches_tracked")] == []


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # PyTorch's, on its own speed
@pytest.mark.parametrize(
    ("name", "arguments", "options", "shape"), LAYERS, ids=[f"{i}-{case[0]}" for i, case in enumerate(LAYERS)]
)
def test_layer_agrees_with_pytorch_and_onnxruntime(
    torch: ModuleType,
    run_onnxruntime: Callable[..., dict[str, np.ndarray]],
    name: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    shape: tuple[int, ...],
) -> None:
    seed(0)
    layer, peer = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    copied(torch, layer, peer)
    parameters = dict(layer.named_parameters())
    x, x_peer = Tensor(values(*shape), requires_grad=True), torch.from_numpy(values(*shape)).requires_grad_()
    optimizer = optim.SGD([x, *parameters.values()], lr=0.005, momentum=0.9)
    peer_optimizer = torch.optim.SGD([x_peer, *peer.parameters()], lr=0.005, momentum=0.9)
    weights = None
    for step in range(10):
        y, y_peer = layer(x), peer(x_peer)
        if weights is None:
            weights = values(*y.shape)
        close(y.data, y_peer.detach())
        optimizer.zero_grad()
        peer_optimizer.zero_grad()
        (y * y * 0.1 + y * Tensor(weights)).sum().backward()
        (y_peer * y_peer * 0.1 + y_peer * torch.from_numpy(weights)).sum().backward()
        if step == 0:
            close(x.grad.data, x_peer.grad)
            for key, parameter in peer.named_parameters():
                close(parameters[key].grad.data, parameter.grad, 1e-4)
        optimizer.step()
        peer_optimizer.step()
    for key, tensor in layer.state_dict().items():
        close(tensor.data, peer.state_dict()[key], 2e-4)
    layer.eval()
    with no_grad():
        result = layer(Tensor(x.data)).data
    close(result, peer.eval()(x_peer).detach(), 2e-4)
    (traced,) = run_onnxruntime(trace(layer, x.data), {"x": x.data}).values()
    close(traced, result)


def test_padding_row_of_an_embedding_stays_zero(torch: ModuleType) -> None:
    layer, peer = nn.Embedding(5, 3, padding_idx=-2), torch.nn.Embedding(5, 3, padding_idx=-2)
    copied(torch, layer, peer)
    indices = np.array([[0, 3, 1], [3, 4, 0]])
    y, y_peer = layer(Tensor(indices)), peer(torch.from_numpy(indices))
    close(y.data, y_peer.detach())
    (y * y + y).sum().backward()
    (y_peer * y_peer + y_peer).sum().backward()
    close(layer.weight.grad.data, peer.weight.grad)
    assert not y.data[indices == 3].any()


def test_functions_of_two_tensors_agree_with_pytorch(torch: ModuleType) -> None:
    x, y = values(4, 3), values(4, 5)[:, :3].copy()
    peers = torch.from_numpy(x), torch.from_numpy(y)
    close(F.cosine_similarity(Tensor(x), Tensor(y)).data, torch.nn.functional.cosine_similarity(*peers))
    for order in (1.0, 2.0, 3.0):
        close(F.normalize(Tensor(x), order).data, torch.nn.functional.normalize(peers[0], order))
    layer, peer = nn.Bilinear(3, 3, 2), torch.nn.Bilinear(3, 3, 2)
    copied(torch, layer, peer)
    close(layer(Tensor(x), Tensor(y)).data, peer(*peers).detach())
    image = values(2, 3, 4, 6)
    close(F.pixel_unshuffle(Tensor(image), 2).data, torch.nn.functional.pixel_unshuffle(torch.from_numpy(image), 2))


def test_dropout2d_drops_whole_channels() -> None:
    seed(0)
    y = nn.Dropout2d(0.5)(Tensor(np.ones((20, 10, 3, 3), np.float32))).data
    assert set(np.unique(y)) == {0.0, 2.0}
    assert np.array_equal(y.min((2, 3)), y.max((2, 3)))
    assert (y == 0).mean() == pytest.approx(0.5, abs=0.1)


def test_wrong_sizes_are_refused() -> None:
    x = Tensor(values(1, 5, 4))
    with pytest.raises(ValueError, match="5 channels cannot be split into 2 groups"):
        F.group_norm(x, 2)
    with pytest.raises(ValueError, match="cannot be split into 2 groups"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="expected one number or 2"):
        nn.Conv2d(3, 4, (3, 3, 3))
    with pytest.raises(ValueError, match="cannot be halved"):
        F.glu(x, 1)
    with pytest.raises(ValueError, match="two values per channel"):
        nn.BatchNorm1d(3)(Tensor(values(1, 3)))


def test_containers_name_their_parts() -> None:
    heads = nn.ModuleDict({"box": nn.Linear(2, 4), "score": nn.Linear(2, 1)})
    heads["extra"] = nn.ParameterList([nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(3, np.float32))])
    assert list(heads) == ["box", "score", "extra"]
    assert "box" in heads
    assert "items" not in heads
    assert heads["score"].weight.shape == (1, 2)
    assert [name for name, _ in heads.named_parameters()][-2:] == ["extra.0", "extra.1"]
    assert [parameter.shape for parameter in heads["extra"]] == [(2,), (3,)]
    assert len(heads["extra"]) == 2
    with pytest.raises(KeyError, match="items"):
        heads["items"] = nn.ReLU()


def test_lists_are_cut_and_changed() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    head = net[:2]
    assert isinstance(head, nn.Sequential)
    assert head[0].weight is net[0].weight
    net[-1] = nn.Identity()
    assert [type(module).__name__ for module in net] == ["Linear", "ReLU", "Identity"]
    assert len(nn.ModuleList([nn.ReLU(), nn.ReLU()])[1:]) == 1


def test_names_of_the_peers_register() -> None:
    module = nn.Layer()
    module.register_buffer("scale", Tensor(np.ones(2, np.float32)))
    module.add_parameter("shift", nn.Parameter(np.zeros(2, np.float32)))
    module.add_sublayer("head", nn.Linear(2, 1))
    assert list(module.state_dict()) == ["shift", "head.weight", "head.bias", "scale"]
    assert len(list(module.sublayers())) == 2


def test_further_initializers() -> None:
    seed(0)
    for shape in [(6, 4), (4, 6), (3, 2, 3, 3)]:
        matrix = nn.init.orthogonal_(nn.Parameter(np.zeros(shape, np.float32)), 2.0).data.reshape(shape[0], -1)
        small = matrix @ matrix.T if shape[0] <= matrix.shape[1] else matrix.T @ matrix
        close(small, 4 * np.eye(len(small), dtype=np.float32), 1e-5)
    truncated = nn.init.trunc_normal_(nn.Parameter(np.zeros(20000, np.float32)), 0.5, 2.0, -1.5, 2.5).data
    assert truncated.min() >= -1.5
    assert truncated.max() <= 2.5
    # N(0, 1) cut at ±1 has the deviation sqrt(1 - 2 φ(1) / (2 Φ(1) - 1)) = 0.5398.
    assert truncated.mean() == pytest.approx(0.5, abs=0.03)
    assert truncated.std() == pytest.approx(2 * 0.5398, rel=0.02)
    with pytest.raises(ValueError, match="next to nothing"):
        nn.init.trunc_normal_(nn.Parameter(np.zeros(2, np.float32)), 0.0, 0.1, 5.0, 6.0)
