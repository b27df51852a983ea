"""Recording: what a trace sees, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.engine import Recording, Tensor, TraceError, grad, nn, no_grad, record, tensor


def recorded(module: nn.Module, *shape: int) -> tuple[Recording, Tensor]:
    x = Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    with no_grad(), record([x]) as recording:
        y = module(x)
    return recording, y


def test_nodes_come_in_order_and_are_connected() -> None:
    x = tensor([1.0, 2.0])
    with record([x]) as recording:
        y = (x * 2.0 + 1.0).relu()
    assert [node.op_type for node in recording.nodes] == ["Mul", "Add", "Relu"]
    assert recording.inputs == (x,)
    assert recording.nodes[0].inputs[0] is x
    assert recording.nodes[1].inputs[0] is recording.nodes[0].outputs[0]
    assert recording.nodes[2].outputs[0] is y
    assert recording.is_traced(y)
    assert recording.nodes[0].source.startswith(__file__)
    line = int(recording.nodes[0].source.rsplit(":", 1)[1])
    assert line == test_nodes_come_in_order_and_are_connected.__code__.co_firstlineno + 3


def test_constants_are_recorded_but_not_traced() -> None:
    x, c = tensor([1.0]), tensor([4.0])
    with record([x]) as recording:
        root = c.sqrt()
        y = x * root
        assert float(root) == 2.0
    assert [node.op_type for node in recording.nodes] == ["Sqrt", "Mul"]
    assert not recording.is_traced(root)
    assert recording.is_traced(y)


@pytest.mark.parametrize(
    "access",
    [bool, float, int, iter, np.asarray, Tensor.numpy, Tensor.item, Tensor.tolist, lambda t: 1 in t],
    ids=["bool", "float", "int", "iter", "asarray", "numpy", "item", "tolist", "in"],
)
def test_values_of_traced_tensors_are_refused(access: object) -> None:
    x = tensor([1.0])
    with record([x]):
        y = x * 2.0
        with pytest.raises(TraceError, match="traced tensor") as caught:
            access(y)
    assert __file__ in caught.value.where
    assert caught.value.fix
    access(y)  # outside the recording it is an ordinary value


def test_error_names_the_users_line_and_function() -> None:
    def decide(x: Tensor) -> Tensor:
        if x.sum() > 0.0:
            return x
        return -x

    x = tensor([1.0])
    with record([x]), pytest.raises(TraceError) as caught:
        decide(x)
    line = decide.__code__.co_firstlineno + 1
    assert caught.value.where == f"{__file__}:{line}, in decide: if x.sum() > 0.0:"


def test_shapes_are_static_while_recording() -> None:
    x = tensor([[1.0, 2.0]])
    with record([x]) as recording:
        assert x.shape == (1, 2)
        assert len(x) == 1
        assert (x.ndim, x.dtype) == (2, np.float32)
    assert recording.nodes == []


def test_detach_stays_traced() -> None:
    x = tensor([1.0])
    with record([x]) as recording:
        y = (x * 2.0).detach() * 3.0
    assert recording.is_traced(y)
    assert [node.op_type for node in recording.nodes] == ["Mul", "Identity", "Mul"]


def test_recordings_do_not_nest_and_end_with_an_error() -> None:
    x = tensor([1.0])
    with record([x]), pytest.raises(TraceError, match="already active"), record([x]):
        pass
    with pytest.raises(RuntimeError, match="stop"), record([x]):
        raise RuntimeError("stop")
    with record([x]) as recording:
        pass
    assert recording.nodes == []


def test_gradients_are_recorded_as_a_connected_graph() -> None:
    x = tensor([0.5, 2.0], requires_grad=True)
    with record([x]) as recording:
        (dx,) = grad((x.exp() * x.tanh()).sum(), x)
    assert recording.is_traced(dx)
    values = {id(x): np.array([1.0, -1.0], np.float32)}  # replay on another input
    from edgec.engine import PRIMITIVES

    for node in recording.nodes:
        arrays = [None if t is None else values.get(id(t), t.data) for t in node.inputs]
        result = PRIMITIVES[node.op_type].forward(*arrays, **node.attributes)
        results = result if isinstance(result, tuple) else (result,)
        values |= {id(t): array for t, array in zip(node.outputs, results, strict=False)}
    z = np.array([1.0, -1.0])
    expected = np.exp(z) * np.tanh(z) + np.exp(z) * (1 - np.tanh(z) ** 2)
    np.testing.assert_allclose(values[id(dx)], expected, rtol=1e-5)


def test_eval_network_records_what_a_device_can_run() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6(), nn.Dropout(0.5), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), nn.Softmax(),
    ).eval()  # fmt: skip
    recording, y = recorded(net, 2, 3, 8, 8)
    assert [node.op_type for node in recording.nodes] == [
        "Conv", "BatchNormalization", "Clip", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm", "Softmax",
    ]  # fmt: skip
    inputs = {id(t) for node in recording.nodes for t in node.inputs if t is not None}
    for _, value in (*net.named_parameters(), *net.named_buffers()):
        assert id(value) in inputs  # the tensor itself, so that its name survives
    assert y.shape == (2, 2)
    assert all(len(node.outputs) == 1 for node in recording.nodes)
