"""Bounds of a quantized model's values against values that are as large as they can be, and what rests on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

pytest.importorskip("tvm")

from edgec.frontend import execute
from edgec.targets.lowering import bounds
from edgec.targets.lowering.emitter import Emitter
from edgec.targets.profile import load_profile

Array = NDArray[Any]

CHANNELS, INPUTS = 5, 3
RNG = np.random.default_rng(0)
WEIGHTS = RNG.integers(-128, 127, (CHANNELS, INPUTS, 3, 3), np.int8, endpoint=True)
SCALES = RNG.uniform(0.001, 0.1, CHANNELS).astype(np.float32)

BLOCK = """<ir_version: 10, opset_import: ["": 22]>
block (int8[1, 3, 3, 3] x, int8[1, 5, 1, 1] r) => (int8[1, 5, 1, 1] y) {
  sums = ConvInteger(x, w, odd)
  biased = Add(sums, bias)
  real = DequantizeLinear<axis: int = 1>(biased, scales)
  clipped = Relu(real)
  bytes = QuantizeLinear(clipped, one, odd)
  again = DequantizeLinear(bytes, step, odd)
  other = DequantizeLinear(r, factor, zero)
  total = Add(again, other)
  y = QuantizeLinear(total, one, zero)
}"""


def block(scale: float = 1.0) -> ir.Model:
    """A convolution with a residual, in its integer form; the scale is that of the residual."""
    constants = {
        "w": WEIGHTS,
        "scales": SCALES,
        "bias": np.arange(-2000, 3000, 1000, dtype=np.int32).reshape(5, 1, 1),
        "step": np.float32(0.37),
        "factor": np.float32(scale),
        "zero": np.int8(-128),
        "odd": np.int8(-55),
        "one": np.float32(1),
    }
    proto = parser.parse_model(BLOCK)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def value_of(model: ir.Model, name: str) -> ir.Value:
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def emitted(model: ir.Model) -> tuple[Emitter, str]:
    """The emitter after the model, for a CPU with SDOT, and the kernels as text."""
    emitter = Emitter(load_profile("rk3588"))
    return emitter, str(emitter.emit_graph(model.graph))


def test_bounds_are_reached_and_not_passed() -> None:
    model = block()
    emitter, _ = emitted(model)
    bound = {name: bounds.largest(emitter, value_of(model, name)) for name in ("sums", "biased", "clipped", "total")}
    for name in bound:
        model.graph.outputs.append(value_of(model, name))
    for channel in range(CHANNELS):
        for sign in (1, -1):  # the zero point is -55: more is above it than below
            data = np.where(WEIGHTS[channel] * sign > 0, 127, -128).astype(np.int8)[None]
            found = execute(model, {"x": data, "r": np.full((1, CHANNELS, 1, 1), 127, np.int8)})
            for name, largest in bound.items():
                assert (np.abs(found[name][0].astype(np.float64)) <= largest * (1 + 1e-6)).all(), name
    reach = 127 + 55
    np.testing.assert_array_equal(bound["sums"].reshape(-1), np.abs(WEIGHTS.astype(int)).sum((1, 2, 3)) * reach)
    assert bound["total"].shape in ((), (1,))
    assert bound["total"] >= 127 * 0.37 + 255


def test_sums_that_wrap_around_have_no_bound() -> None:
    model = block()
    emitter, _ = emitted(model)
    emitter.set_constant(model.graph.initializers["bias"], np.full((5, 1, 1), 2**31 - 1000, np.int32))
    assert np.isinf(bounds.largest(emitter, value_of(model, "biased"))).all()
    assert np.isinf(bounds.largest(emitter, value_of(model, "real"))).all()
    assert np.isfinite(bounds.largest(emitter, value_of(model, "sums"))).all()


@pytest.mark.parametrize(("scale", "is_small"), [(1.0, True), (100.0, True), (200.0, False)])
def test_small_totals_are_narrowed_without_saturation(scale: float, is_small: bool) -> None:
    """255 steps of 100 fit into 16 bits, of 200 do not."""
    _, text = emitted(block(scale))
    assert ("edgec.small_to_int8" in text) == is_small
    assert ("edgec.to_int8" in text) != is_small


def test_what_is_quantized_and_dequantized_stays_in_float() -> None:
    """Zeros may have a sign then, where no one sees it, and have none where the real numbers are given out."""
    _, text = emitted(block())
    assert text.count("edgec.rounded_to_ones") == 1
    assert "edgec.nearest_integer" not in text
    model = block()
    model.graph.outputs.append(value_of(model, "again"))
    _, text = emitted(model)
    assert "edgec.rounded_to_ones" not in text
    assert text.count("edgec.nearest_integer") == 1
    model = block()
    model.graph.outputs.append(value_of(model, "bytes"))
    _, text = emitted(model)
    assert "edgec.rounded_to_ones" not in text
    assert text.count("to_int8") == 2
