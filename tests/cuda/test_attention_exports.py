"""Attention as exporters and the engine's own modules write it: one kernel, which computes what they computed."""

from __future__ import annotations

import importlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

pytest.importorskip("tvm")

import edgec
from edgec.engine import nn
from edgec.frontend import execute, import_model
from edgec.passes import ConvertPrecision, simplify
from edgec.targets.profile import load_profile
from tests.cuda.emulated_plan import plan_of, run_plan

Array = NDArray[Any]

PROFILE = load_profile("cuda:sm_87")
WIDTH, HEADS, LENGTH = 64, 2, 40
RNG = np.random.default_rng(2)
X = RNG.normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
FLAGS = RNG.random((2, 1, 1, LENGTH)) < 0.7
FLAGS[1] = False
NUMBERS = np.where(RNG.random((2, 1, LENGTH, LENGTH)) < 0.7, 0, np.finfo(np.float32).min).astype(np.float32)
PADDING = RNG.random((2, LENGTH)) < 0.3


def check(model: ir.Model, inputs: dict[str, Array], expected: Array, folder: Path) -> None:
    """One kernel of attention, no softmax, and the float16 policy's signal to error."""
    model, _ = simplify(model)
    ConvertPrecision(has_wide_sums=True)(model)
    plan = plan_of(model, PROFILE)
    kernels = [call.kernel for call in plan.calls]
    assert sum("attention" in kernel for kernel in kernels) == 1
    assert not any("softmax" in kernel for kernel in kernels)
    (found,) = run_plan(plan, PROFILE, inputs, folder).values()
    error = np.square(found.astype(np.float64) - expected).sum()
    assert 10 * np.log10(np.square(expected.astype(np.float64)).sum() / error) >= 45


def pytorch_attention(kind: str) -> tuple[Any, list[Array]]:
    """A module of PyTorch, and what it is called with."""
    torch: Any = importlib.import_module("torch")
    torch.manual_seed(0)

    class Attention(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.projection, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any, mask: Any = None) -> Any:
            parts = self.projection(x).chunk(3, -1)
            q, k, v = (part.reshape(2, LENGTH, HEADS, -1).transpose(1, 2) for part in parts)
            attend = torch.nn.functional.scaled_dot_product_attention
            y = attend(q, k, v, mask, is_causal=kind == "causal")
            return self.out(y.transpose(1, 2).reshape(x.shape))

    class Module(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

        def forward(self, x: Any, mask: Any = None) -> Any:
            causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if kind == "module, causal" else None
            return self.attention(
                x, x, x, key_padding_mask=mask, attn_mask=causal, need_weights=kind == "module with weights"
            )[0]

    masks = {"bool": [FLAGS], "float": [NUMBERS], "module, padding": [PADDING]}
    return (Module if kind.startswith("module") else Attention)(), [X, *masks.get(kind, [])]


@pytest.mark.parametrize(
    "kind",
    ["plain", "causal", "bool", "float", "module", "module with weights", "module, padding", "module, causal"],
)
def test_pytorch(kind: str, tmp_path: Path) -> None:
    """By the exporter that needs no other package; masked weights that PyTorch makes zero are so."""
    torch = pytest.importorskip("torch")
    module, arrays = pytorch_attention(kind)
    module.eval()
    tensors, file = tuple(torch.tensor(array) for array in arrays), io.BytesIO()
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the exporter does not know the operator
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = module(*tensors).numpy()
            torch.onnx.export(module, tensors, file, dynamo=False, opset_version=17, input_names=["x", "mask"])
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)
    model = import_model(onnx.load_from_string(file.getvalue()))
    check(model, dict(zip(("x", "mask"), arrays, strict=False)), expected, tmp_path)


DYNAMO = f"""<ir_version: 10, opset_import: ["": 22]>
g (float[2, {LENGTH}, {WIDTH}] x, int64[2, {LENGTH}] mask) => (float[2, {LENGTH}, {WIDTH}] y) {{
    qx = MatMul (x, wq) qr = Reshape (qx, split) q = Transpose <perm = [0, 2, 1, 3]> (qr)
    kx = MatMul (x, wk) kr = Reshape (kx, split) k = Transpose <perm = [0, 2, 1, 3]> (kr)
    vx = MatMul (x, wv) vr = Reshape (vx, split) v = Transpose <perm = [0, 2, 1, 3]> (vr)
    flags = Cast <to = 9> (mask) seen = GatherND (flags, places) all = And (true, seen)
    hidden = Where (all, zero, lowest)
    three = Reshape (k, flat) turned = Transpose <perm = [0, 2, 1]> (three) kt = Reshape (turned, apart)
    qs = Mul (q, root) ks = Mul (kt, root) s = MatMul (qs, ks) m = Add (s, hidden) p = Softmax <axis = -1> (m)
    n = IsNaN (p) w = Where (n, zero, p) a = MatMul (w, v)
    back = Transpose <perm = [0, 2, 1, 3]> (a) joined = Reshape (back, whole) y = MatMul (joined, wo)
}}"""


def test_newer_exporter(tmp_path: Path) -> None:
    """BERT by torch.onnx.export(dynamo=True): keys turned as three axes, a gathered mask, NaN made zero.

    Where all keys are padding, the lowest float32 leaves weights that are equal.
    """
    proto = onnx.parser.parse_model(DYNAMO)
    depth = WIDTH // HEADS
    image, key = np.meshgrid(np.arange(2), np.arange(LENGTH), indexing="ij")
    constants: dict[str, Array] = {
        **{f"w{name}": RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8 for name in "qkvo"},
        "split": np.array([2, LENGTH, HEADS, depth]),
        "flat": np.array([-1, LENGTH, depth]),
        "apart": np.array([2, HEADS, depth, LENGTH]),
        "whole": np.array([2, LENGTH, WIDTH]),
        "places": np.stack([image, key], -1).reshape(2, 1, 1, LENGTH, 2),
        "true": np.ones((1, 1, LENGTH, 1), bool),
        "zero": np.array(0, np.float32),
        "lowest": np.array(np.finfo(np.float32).min),
        "root": np.array([depth**-0.25], np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model = import_model(proto)
    inputs: dict[str, Array] = {"x": X, "mask": FLAGS.reshape(2, LENGTH).astype(np.int64)}
    check(model, inputs, execute(model, inputs)["y"], tmp_path)


@pytest.mark.parametrize("kind", ["causal", "keys", "causal and keys", "numbers"])
def test_engine(kind: str, tmp_path: Path) -> None:
    module = nn.MultiHeadAttention(WIDTH, HEADS)
    module.eval()
    is_causal, arrays = kind.startswith("causal"), [X]
    if kind.endswith("keys"):
        model = edgec.trace(lambda x, mask: module(x, key_mask=mask, is_causal=is_causal), X, ~PADDING)
        arrays.append(~PADDING)
    elif kind == "numbers":
        model = edgec.trace(lambda x, mask: module(x, attn_mask=mask), X, NUMBERS)
        arrays.append(NUMBERS)
    else:
        model = edgec.trace(lambda x: module(x, is_causal=True), X)
    inputs = dict(zip([str(value.name) for value in model.graph.inputs], arrays, strict=True))
    (expected,) = execute(model, inputs).values()
    check(model, inputs, expected, tmp_path)
