"""Bytes of one signedness: which tensors change, which cannot, and that what they mean stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgec.frontend import execute, import_model, integer_form
from edgec.passes import CountedResult, UnifySignedness
from tests.frontend.quantized_graphs import random_inputs_of
from tests.targets.random_quantized_layers import random_quantized_model

Build = Callable[..., ir.Model]

PRODUCT = """
agraph (float[1, 3, 5, 5] x) => (float[1, 4, 5, 5] y)
<float s = {0.02}, int8 z = {-7}>
{
    q = QuantizeLinear(x, s, z)
    total = ConvInteger(q, w, z)
    y = DequantizeLinear(total, s)
}
"""
WEIGHTS = (np.arange(12).reshape(4, 3, 1, 1) * 37 % 256 - 128).astype(np.int8)


def bytes_of(model: ir.Model) -> dict[str, str]:
    """Type of every tensor of bytes that a node makes."""
    return {
        str(value.name): value.dtype.numpy().name
        for node in model.graph
        for value in node.outputs
        if value.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    }


def apply_exactly(model: ir.Model, dtype: str) -> CountedResult:
    """The pass in place, checked to change no number at all; a second run changes nothing."""
    inputs = random_inputs_of(model)
    expected = execute(model, inputs, integers=False)
    result = UnifySignedness(dtype)(model)
    assert isinstance(result, CountedResult)
    actual = execute(model, inputs, integers=False)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, strict=True)
    assert not UnifySignedness(dtype)(model).modified
    return result


@pytest.mark.parametrize(("dtype", "count"), [("uint8", 1), ("int8", 0)])
def test_quantizer_and_zero_point_change_together(
    dtype: str, count: int, build: Build, apply_pass: Callable[..., CountedResult]
) -> None:
    model = build(PRODUCT, w=WEIGHTS)
    result = apply_pass(UnifySignedness(dtype), model)
    assert result.changes == ({"int8 tensors as uint8": 1} if count else {})
    assert bytes_of(model) == {"q": dtype}
    zero = model.graph.node(1).inputs[2].const_value.numpy()
    assert zero.dtype.name == dtype
    assert int(zero) == (121 if dtype == "uint8" else -7)


def test_a_zero_point_that_is_left_out_is_written(build: Build) -> None:
    model = build(
        """agraph (float[2, 3] x) => (int32[2, 4] y)
        <float s = {0.02}>
        {
            q = QuantizeLinear <output_dtype = 3> (x, s)
            y = MatMulInteger(q, w)
        }""",
        w=WEIGHTS[:, :, 0, 0].T.copy(),
    )
    assert apply_exactly(model, "uint8").changes
    quantize, product = model.graph
    assert "output_dtype" not in quantize.attributes
    assert [int(node.inputs[2].const_value.numpy()) for node in (quantize, product)] == [128, 128]


def test_what_moves_hangs_together(build: Build, apply_pass: Callable[..., CountedResult]) -> None:
    """Concat of a table, a quantizer and a constant, and its parts: all of them, or none."""
    text = """agraph (float[1, 3, 4] x) => ({kind}[1, 4, 7] y)
    <float s = {{0.02}}, int8 z = {{5}}, int64[1] cut = {{1}}, int64[1] end = {{7}}, int64[1] axis = {{2}}>
    {{
        q = QuantizeLinear(x, s, z)
        index = Cast <to = 6> (q)
        offset = Add(index, first)
        t = Gather(table, offset)
        joined = Concat <axis = 1> (q, t, extra)
        turned = Transpose <perm = [0, 2, 1]> (joined)
        part = Slice(turned, cut, end, axis)
        wide = Concat <axis = 2> (part, part, part)
        {last}
    }}"""
    arrays: dict[str, Any] = {
        "first": np.array(128, np.int32),
        "table": np.arange(-128, 128).astype(np.int8)[::-1].copy(),
        "extra": np.full((1, 1, 4), -9, np.int8),
    }
    last = "some = Gather <axis = 2> (wide, few)\n y = DequantizeLinear(some, s, z)"
    few = np.arange(7)
    model = build(text.format(kind="float", last=last), few=few, **arrays)
    apply_pass(UnifySignedness("uint8"), model)
    assert set(bytes_of(model).values()) == {"uint8"}
    # An output of the graph holds all of them back.
    model = build(text.format(kind="int8", last="y = Gather <axis = 2> (wide, few)"), few=few, **arrays)
    assert not apply_pass(UnifySignedness("uint8"), model).modified


@pytest.mark.parametrize(
    ("reader", "kind"),
    [
        ("y = Relu(q)", "int8"),  # depends on the sign
        ("y = Cast <to = 1> (q)", "float"),
        ("y = DequantizeLinear(q, s, z_given)", "float"),  # no constant zero point
        ("y = MatMulInteger(w, q, z, z_given)", "int32"),
    ],
)
def test_what_cannot_change(reader: str, kind: str, build: Build) -> None:
    model = build(
        f"""agraph (float[2, 3] x, int8 z_given) => ({kind}[2, 3] y)
        <float s = {{0.02}}, int8 z = {{3}}>
        {{
            q = QuantizeLinear(x, s, z)
            {reader}
        }}""",
        w=WEIGHTS[:2, :2, 0, 0].copy(),
    )
    assert not apply_exactly(model, "uint8").modified


def test_inputs_and_outputs_of_the_graph_stay(build: Build) -> None:
    model = build(
        """agraph (int8[2, 3] x) => (int8[3, 2] y, int32[2, 2] z)
        {
            y = Transpose(x)
            z = MatMulInteger(x, y)
        }"""
    )
    assert not apply_exactly(model, "uint8").modified


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("seed", range(3))
def test_random_layers_compute_the_same(seed: int, dtype: str) -> None:
    """In integer form; and the model that it was made of stays what it was."""
    drawn = random_quantized_model(100 + seed, 20)
    model = import_model(drawn.proto)
    expected = execute(model, drawn.feeds)
    form = integer_form(model)
    assert UnifySignedness(dtype)(form).modified
    kinds = list(bytes_of(form).values())
    assert kinds.count(dtype) > len(kinds) / 2
    for name, array in execute(form, drawn.feeds, integers=False).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=drawn.described[name], strict=True)
    for name, array in execute(model, drawn.feeds).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=drawn.described[name], strict=True)
