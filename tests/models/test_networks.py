"""Every reference network: its shapes, its graph, ONNX Runtime's opinion of it, and what the compiler makes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

import edgec
from edgec import frontend
from edgec.engine import functional as F  # noqa: N812
from edgec.engine import nn, no_grad, optim, seed, tensor
from edgec.errors import UnsupportedError
from edgec.models import NETWORKS, RECIPES, Network, TransformerClassifier

LARGE = {"MobileNetV1", "MobileNetV2", "ResNet18"}
OUTPUTS = {
    "Autoencoder": (1, 1, 8, 8), "CRNN": (1, 32, 37), "DSCNN": (1, 12), "Detector": (1, 15, 6, 6),
    "MobileNetV1": (1, 1000), "MobileNetV2": (1, 1000), "ResNet18": (1, 1000), "UNet": (1, 2, 48, 48),
}  # fmt: skip
# As published, or as counted by hand.
PARAMETERS = {
    "ResNet8": 78_042, "ResNet18": 11_689_512, "ResNet20": 272_474, "MobileNetV1": 470_072, "MobileNetV2": 3_504_872,
    "DigitsMLP": 64 * 64 + 64 + 64 * 64 + 64 + 640 + 10,
}  # fmt: skip


def made(name: str) -> Network:
    """A network whose batch norms have statistics of their own: fresh ones would hide a wrong order of them."""
    seed(0)
    network = NETWORKS[name]()
    rng = np.random.default_rng(0)
    for part, buffer in network.named_buffers():
        if part.endswith(("running_mean", "running_var")):
            buffer.data = rng.uniform(0.5, 1.5, buffer.shape).astype(np.float32)
    return network.eval()


def example(network: Network, batch: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        rng.standard_normal((batch, *shape[1:])).astype(np.float32) for shape in type(network).input_shapes.values()
    ]


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - LARGE))
def test_traces_to_what_onnxruntime_computes(
    name: str, run_onnxruntime: Callable[..., dict[str, np.ndarray]], assert_close: Callable[..., None]
) -> None:
    network = made(name)
    inputs = example(network)
    with no_grad():
        expected = network(*map(tensor, inputs)).numpy()
    # The tracer has the graph checked by onnx, with inferred shapes and types.
    model = frontend.trace(network, *inputs, input_names=list(network.input_shapes))
    outputs = run_onnxruntime(model, dict(zip(network.input_shapes, inputs, strict=True)))
    assert expected.shape == OUTPUTS.get(name, (1, 10))
    assert_close(outputs["output"], expected, relative=1e-4)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_size(name: str) -> None:
    assert sum(parameter.size for parameter in NETWORKS[name]().parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(LARGE))
def test_large_networks_trace(name: str) -> None:
    network = NETWORKS[name]().eval()
    model = frontend.trace(network, *example(network), input_names=["image"])
    assert model.graph.outputs[0].shape == ir.Shape(OUTPUTS[name])


def test_transformer_takes_the_sizes_of_the_benchmark() -> None:
    network = TransformerClassifier(features=32, width=256, heads=8, layers=4, length=128, classes=5).eval()
    with no_grad():
        assert network(tensor(np.zeros((2, 128, 32), np.float32))).shape == (2, 5)


@pytest.mark.parametrize("name", ["CifarMobileNetV1", "CifarMobileNetV2", "ResNet20"])
def test_learns_a_batch_by_heart(name: str) -> None:
    """Those whose quick runs are too slow for CI."""
    network = made(name).train()
    rng = np.random.default_rng(2)
    images, labels = tensor(*example(network, 16)), tensor(rng.integers(0, 10, 16))
    optimizer = optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_members_are_trained_apart() -> None:
    network = made("DSCNN").train()
    features = tensor(*example(network, 7))
    assert network(features).shape == (7, 12)
    assert network(features[:1]).shape == (1, 12)  # fewer samples than members
    # The first two samples are the first member's.
    network.zero_grad()
    network(features)[:2].sum().backward()
    gradients = {
        name.split(".")[1]: p.grad for name, p in network.named_parameters() if name.endswith("classifier.bias")
    }
    assert [number for number, grad in gradients.items() if grad is not None and np.any(grad.numpy())] == ["0"]


# A sample of what is special: separable convolutions, transposed ones, recurrence, attention.
@pytest.mark.parametrize("name", ["DSCNN", "UNet", "GRUClassifier", "DigitsTransformer"])
def test_compiles_and_computes_the_same(name: str) -> None:
    pytest.importorskip("tvm", reason="no compiler here: pip install 'edgec[compile]'")
    from edgec.targets.lowering import LOWERINGS

    network = made(name)
    used = {node.op_type for node in frontend.trace(network, *example(network)).graph}
    if used - set(LOWERINGS):
        with pytest.raises(UnsupportedError) as raised:
            edgec.compile(network, target="native")
        assert raised.value.exit_code == 3
        assert any(operator in str(raised.value) for operator in used - set(LOWERINGS))
        return
    report = edgec.check(edgec.compile(network, target="native"))
    assert report, str(report)


def test_names() -> None:
    assert set(NETWORKS) == {network.__name__ for network in NETWORKS.values()}
    assert {recipe.network for recipe in RECIPES.values()} <= set(NETWORKS.values())
    assert all(issubclass(network, nn.Module) and network.input_shapes for network in NETWORKS.values())
    assert all(name == name.lower() and recipe.minutes > 0 for name, recipe in RECIPES.items())
