"""An imported graph can be trained, and a graph can go round: trace, simplify, import, execute."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec import engine
from edgec.engine import nn
from edgec.frontend import execute, execute_tensors, import_model, parameters_of, trace
from edgec.passes import simplify


def test_an_imported_graph_learns():
    engine.seed(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 3)).astype(np.float32)
    target = engine.to_tensor(x @ np.array([[1.0], [-2.0], [0.5]], np.float32))
    model = import_model(ir.to_proto(trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), x)))
    weights = parameters_of(model)
    before = execute(model, [x])["output"]
    optimizer = engine.optim.SGD(weights.values(), lr=0.05)
    losses = []
    for _ in range(60):
        output = execute_tensors(model, {model.graph.inputs[0].name: engine.to_tensor(x)}, initializers=weights)
        error = output["output"] - target
        loss = (error * error).mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 5
    np.testing.assert_array_equal(execute(model, [x])["output"], before)


def test_a_graph_goes_round(tmp_path, assert_close):
    engine.seed(2)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    network(engine.to_tensor(image))
    traced = trace(network, image, input_names=["image"], output_names=["features"])
    smaller, _ = simplify(traced)
    assert [node.op_type for node in smaller.graph] == ["Conv", "Relu", "MaxPool"]
    ir.save(smaller, tmp_path / "m.onnx")
    again = import_model(tmp_path / "m.onnx")
    assert_close(execute(again, [image])["features"], execute(traced, {"image": image})["features"])
