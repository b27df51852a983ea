"""Which quantized models have integers that depend on how float functions are rounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from edgec.frontend import execute, integer_form
from edgec.frontend.integers import float_islands
from tests.frontend.quantized_graphs import Array, graph, random_inputs_of

SHARED = {"s": 0.05, "z": np.uint8(100), "k": 3.0}
# What stands between two quantizers, from u to v; which operators no contract rounds.
CASES = {
    "nothing": ("v = Identity(u)", []),
    "sums and products of two": ("a = Mul(u, u) b = Add(a, u) c = Sub(b, k) v = Div(c, k)", []),
    "a table": ("v = Tanh(u)", []),
    "sum of many": ("v = Softmax<axis = 1>(u)", ["Softmax"]),
    "normalization": ("v = LpNormalization<axis = 1>(u)", ["LpNormalization"]),
    "far before": ("a = Softmax<axis = 1>(u) b = Add(a, u) c = Transpose<perm = [0, 1]>(b) v = Relu(c)", ["Softmax"]),
    "in their order": ("a = LpNormalization<axis = 1>(u) b = Softmax<axis = 1>(a) v = Add(b, u)",
                       ["LpNormalization", "Softmax"]),
    "each named once": ("a = Softmax<axis = 1>(u) v = Softmax<axis = 1>(a)", ["Softmax"]),
}  # fmt: skip


def lines(nodes: str) -> str:
    return nodes.replace(") ", ")\n")


@pytest.mark.parametrize("name", CASES)
def test_what_a_quantizer_depends_on(name: str) -> None:
    nodes, expected = CASES[name]
    text = f"u = DequantizeLinear(q, s, z)\n{lines(nodes)}\ny = QuantizeLinear(v, s, z)"
    model = graph(text, {"q": (2, 40)}, {"y": TensorProto.UINT8}, **SHARED)
    assert float_islands(integer_form(model)) == expected


def test_what_no_quantizer_reads_is_free() -> None:
    """A softmax at the end makes no integers of its result."""
    text = "u = DequantizeLinear(q, s, z)\ny = Softmax<axis = 1>(u)\na = Add(u, u)\nn = QuantizeLinear(a, s, z)"
    model = graph(text, {"q": (2, 40)}, {"y": TensorProto.FLOAT, "n": TensorProto.UINT8}, **SHARED)
    assert float_islands(integer_form(model)) == []


def test_dynamic_quantization_depends_on_its_input() -> None:
    text = "a = Softmax<axis = 1>(x)\ny, ys, yz = DynamicQuantizeLinear(a)"
    model = graph(text, {"x": (2, 40)}, {"y": TensorProto.UINT8})
    assert float_islands(integer_form(model)) == ["Softmax"]


def test_operators_of_other_domains_are_unknown() -> None:
    text = "u = DequantizeLinear(q, s, z)\nv = Relu(u)\ny = QuantizeLinear(v, s, z)"
    model = graph(text, {"q": (2, 40)}, {"y": TensorProto.UINT8}, **SHARED)
    next(node for node in model.graph if node.op_type == "Relu").domain = "custom"
    assert float_islands(model) == ["Relu"]


@pytest.mark.parametrize("name", [name for name, (_, islands) in CASES.items() if not islands])
def test_without_islands_onnx_runtime_agrees_bit_for_bit(
    name: str, run_onnxruntime: Callable[..., dict[str, Array]]
) -> None:
    text = f"u = DequantizeLinear(q, s, z)\n{lines(CASES[name][0])}\ny = QuantizeLinear(v, s, z)"
    form = integer_form(graph(text, {"q": (2, 40)}, {"y": TensorProto.UINT8}, **SHARED))
    inputs = random_inputs_of(form)
    np.testing.assert_array_equal(run_onnxruntime(form, inputs)["y"], execute(form, inputs)["y"])
