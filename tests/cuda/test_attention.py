"""Attention as one kernel: where it is found, what it computes in the emulation, what it takes of a multiprocessor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

pytest.importorskip("tvm")

from edgec.errors import UnsupportedError
from edgec.frontend import execute
from edgec.passes import ConvertPrecision, FixNames
from edgec.targets.cuda.architectures import ARCHITECTURES
from edgec.targets.cuda.device_code import compile_source
from edgec.targets.profile import load_profile
from edgec.targets.schedules.choice import Choice, Site
from tests.cuda.emulated_plan import plan_of, run_plan, sources_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One attention: sizes, whether heads come before rows in memory, and where the scale is multiplied."""

    images: int
    heads: int
    queries: int
    keys: int
    depth: int
    has_heads_first: bool
    scales_queries: bool
    divides: bool = False
    scales_keys: bool = False

    def shape(self, rows: int) -> tuple[int, ...]:
        swapped = (self.heads, rows) if self.has_heads_first else (rows, self.heads)
        return (self.images, *swapped, self.depth)

    @property
    def model(self) -> ir.Model:
        made = self.graph
        ConvertPrecision(has_wide_sums=True)(made)
        return made

    @property
    def graph(self) -> ir.Model:
        """In float32; the result twice side by side, so that it is not an output itself."""
        inputs = ", ".join(
            f"float[{', '.join(map(str, self.shape(rows)))}] {name}"
            for name, rows in (("q", self.queries), ("k", self.keys), ("v", self.keys))
        )
        axes, last = ("0, 1, 3, 2", "r") if self.has_heads_first else ("0, 2, 3, 1", "moved")
        queries = "q" if self.has_heads_first else "qm"
        operator = "Div" if self.divides else "Mul"
        heads_first = "" if self.has_heads_first else "qm = Transpose <perm = [0, 2, 1, 3]> (q)"
        values = "v" if self.has_heads_first else "vm"
        values_first = "" if self.has_heads_first else "vm = Transpose <perm = [0, 2, 1, 3]> (v)"
        after = "" if self.has_heads_first else "moved = Transpose <perm = [0, 2, 1, 3]> (r)"
        scaled = f"qs = {operator} ({queries}, scale) s = MatMul (qs, kt)"
        if self.scales_keys:  # as PyTorch's exporter does
            scaled = f"qs = {operator} ({queries}, root) ks = {operator} (kt, root) s = MatMul (qs, ks)"
        elif not self.scales_queries:
            scaled = f"qk = MatMul ({queries}, kt) s = {operator} (qk, scale)"
        text = f"""<ir_version: 10, opset_import: ["": 22]> g ({inputs}) => (float[N, A, B, C] y) {{
            {heads_first} {values_first} kt = Transpose <perm = [{axes}]> (k) {scaled} p = Softmax (s)
            r = MatMul (p, {values}) {after} y = Tile ({last}, twice)
        }}"""
        proto = onnx.parser.parse_model(text)
        factor = np.array(self.factor, np.float32)
        scale = 1 / factor if self.divides else factor
        for name, array in (("scale", scale), ("root", np.sqrt(scale)), ("twice", np.array([1, 1, 1, 2]))):
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        made = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
        FixNames()(made)
        return made

    @property
    def factor(self) -> float:
        return 0.75

    def expected(self, inputs: dict[str, Array]) -> Array:
        """In float64, of the inputs as float16 holds them."""
        halves = {name: array.astype(np.float16).astype(np.float64) for name, array in inputs.items()}
        if not self.has_heads_first:
            halves = {name: array.swapaxes(1, 2) for name, array in halves.items()}
        scores = halves["q"] @ halves["k"].swapaxes(2, 3) * self.factor
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        result = powers / powers.sum(-1, keepdims=True) @ halves["v"]
        return np.tile(result if self.has_heads_first else result.swapaxes(1, 2), (1, 1, 1, 2))


# Rows and keys that fill no tile, one and several parts of the keys, the smallest and the largest depth.
CASES = (
    Case(1, 2, 21, 37, 16, has_heads_first=True, scales_queries=True),
    Case(2, 3, 70, 64, 32, has_heads_first=False, scales_queries=False, divides=True),
    Case(1, 2, 130, 130, 64, has_heads_first=False, scales_queries=True),
    Case(1, 1, 5, 50, 128, has_heads_first=True, scales_queries=False),
    Case(1, 3, 18, 33, 16, has_heads_first=False, scales_queries=True, scales_keys=True),
)


def numbers(case: Case) -> dict[str, Array]:
    rng = np.random.default_rng(8)
    rows = {"q": case.queries, "k": case.keys, "v": case.keys}
    # Large scores, so that the highest one matters and most powers vanish.
    return {name: rng.normal(size=case.shape(count)).astype(np.float32) for name, count in rows.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("pick", [min, max])
def test_equals_numpy(case: Case, pick: Any, tmp_path: Path) -> None:
    profile = load_profile("cuda:sm_87")
    sites: list[Site] = []

    def choose(site: Site) -> Choice:
        if site.family != "attention":
            return site.default
        sites.append(site)
        return pick(site.candidates, key=lambda choice: (choice["warps"], choice["keys"]))

    inputs = numbers(case)
    plan = plan_of(case.model, profile)
    found = run_plan(plan, profile, inputs, tmp_path, choose)["y"]
    assert len(sites) == 1
    assert [call.kernel for call in plan.calls if "matmul" in call.kernel or "softmax" in call.kernel] == []
    expected = case.expected(inputs)
    assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


CHAINED = """<ir_version: 10, opset_import: ["": 22]>
g (float[1, 2, 20, 16] q, float[1, 2, 20, 16] k, float[1, 2, 20, 16] v) => (float[1, 2, 20, 32] y) {
    kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kt) p = Softmax (s) r = MatMul (p, v)
    turned = Transpose <perm = [0, 2, 1, 3]> (r) back = Transpose <perm = [0, 2, 1, 3]> (turned)
    s2 = MatMul (back, kt) p2 = Softmax (s2) r2 = MatMul (p2, v) y = Tile (r2, twice)
}"""


def test_attention_to_what_attention_gives(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(CHAINED)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1, 2]), "twice"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    ConvertPrecision(has_wide_sums=True)(model)
    profile = load_profile("cuda:sm_87")
    plan = plan_of(model, profile)
    assert sum("attention" in call.kernel for call in plan.calls) == 2
    inputs = {name: np.random.default_rng(4).normal(size=(1, 2, 20, 16)).astype(np.float32) for name in "qkv"}
    found = run_plan(plan, profile, inputs, tmp_path)["y"]
    expected = execute(ir.from_proto(proto), inputs)["y"]
    assert np.abs(found - expected).max() <= 5e-3 * np.abs(expected).max()


@pytest.mark.parametrize("pick", [min, max])
def test_fits_the_multiprocessor(pick: Any) -> None:
    row, profile = ARCHITECTURES[87], load_profile("cuda:sm_87")
    assert profile.gpu is not None
    for depth in (64, 128):
        case = Case(1, 2, 256, 256, depth, has_heads_first=True, scales_queries=True)
        choose = lambda site: pick(site.candidates, key=lambda choice: (choice.get("warps"), choice.get("keys")))  # noqa: E731
        (source,) = (
            s for n, s in sources_of(plan_of(case.model, profile), profile, choose).items() if "attention" in n
        )
        try:
            resources = compile_source(source, profile.gpu).images[0].resources
        except UnsupportedError as err:
            pytest.skip(str(err))
        assert resources is not None and resources.spill_bytes == resources.stack_bytes == 0, resources
        assert resources.shared_bytes <= 48 << 10
        assert resources.registers * source.block[0] <= row.block_registers


@pytest.mark.parametrize(("target", "depth"), [("cuda:sm_75", 32), ("cuda:sm_87", 24), ("cuda:sm_87", 144)])
def test_products_and_a_softmax_remain_elsewhere(target: str, depth: int) -> None:
    case = Case(1, 2, 16, 16, depth, has_heads_first=True, scales_queries=True)
    kernels = [call.kernel for call in plan_of(case.model, load_profile(target)).calls]
    assert not any("attention" in kernel for kernel in kernels)
    assert sum("matmul" in kernel for kernel in kernels) == 2
