"""Gradients are made of primitives, so they can be traced and compiled like anything else."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm")

import edgec
import edgec.engine as paddle


def line(w: paddle.Tensor, b: paddle.Tensor, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
    """A line, a squared error, and its gradients."""
    w.stop_gradient = b.stop_gradient = False
    y = w * x + b
    loss = (y - 10.0) ** 2
    dw, db = paddle.grad(loss, [w, b])
    return {"loss": loss, "dw": dw, "db": db}


def test_the_line_in_the_engine() -> None:
    paddle.seed(2024)
    w = paddle.to_tensor([2.0], stop_gradient=False)
    b = paddle.to_tensor([1.0], stop_gradient=False)
    x = paddle.to_tensor([3.0])
    y = w * x + b
    loss = (y - 10.0) ** 2
    loss.backward()
    np.testing.assert_array_equal(w.grad.numpy(), [-18.0])
    np.testing.assert_array_equal(b.grad.numpy(), [-6.0])


@pytest.mark.parametrize("target", ["native"])
def test_the_line_compiled(target: str) -> None:
    inputs = {name: np.array([value], np.float32) for name, value in (("w", 2), ("b", 1), ("x", 3))}
    bundle = edgec.compile(line, target=target, inputs=inputs)
    outputs = bundle.run(inputs)
    assert {name: array.tolist() for name, array in outputs.items()} == {"loss": [9.0], "dw": [-18.0], "db": [-6.0]}
    assert edgec.check(bundle)
