"""Attention with masks: which are found, what they compute in the emulation, what is not read, and what they take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

pytest.importorskip("tvm")

from edgec.errors import UnsupportedError
from edgec.frontend import execute, import_model
from edgec.passes import ConvertPrecision, simplify
from edgec.targets.cuda.architectures import ARCHITECTURES
from edgec.targets.cuda.device_code import compile_source
from edgec.targets.profile import load_profile
from edgec.targets.schedules.choice import Choice, Site
from tests.cuda.emulated_plan import plan_of, run_plan, sources_of

Array = NDArray[Any]

PROFILE = load_profile("cuda:sm_87")
LOWEST, LOWEST_HALF = float(np.finfo(np.float32).min), -65504.0
SCALE = 0.3


@dataclass(frozen=True)
class Masked:
    """Attention of q, k and v (images, heads, rows, depth) with nodes between the scaled scores s and the masked m.

    Attributes:
        kind: The mask of the kernel that is expected, as the device code calls it.
        nodes: ONNX text from s to m, with ``mask`` and ``fill``.
        mask: An array, constant unless ``is_input``.
        after: ONNX text from the softmax p to the weights w.
    """

    kind: str
    nodes: str
    mask: Array
    fill: float = 0.0
    is_input: bool = True
    sizes: tuple[int, int, int, int, int] = (2, 3, 21, 37, 16)
    after: str = "w = Identity (p)"

    @property
    def proto(self) -> onnx.ModelProto:
        images, heads, queries, keys, depth = self.sizes
        rows = {"q": queries, "k": keys, "v": keys}
        result = f"{max(images, *self.mask.shape[:-3], 1)}, {heads}, {queries}, {2 * depth}"
        inputs = [f"float[{images}, {heads}, {count}, {depth}] {name}" for name, count in rows.items()]
        proto = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["": 22]> g ({", ".join(inputs)}) => (float[{result}] y) {{
                kt = Transpose <perm = [0, 1, 3, 2]> (k) qk = MatMul (q, kt) s = Mul (qk, scale) {self.nodes}
                p = Softmax <axis = -1> (m) {self.after} r = MatMul (w, v) y = Tile (r, twice)
            }}"""
        )
        constants = {"scale": np.float32(SCALE), "fill": np.float32(self.fill), "twice": np.array([1, 1, 1, 2])}
        constants |= {"zero": np.float32(0), **OTHERS}
        if self.is_input:
            dtype = helper.np_dtype_to_tensor_dtype(self.mask.dtype)
            proto.graph.input.append(helper.make_tensor_value_info("mask", dtype, self.mask.shape))
        else:
            constants["mask"] = self.mask
        for name, array in constants.items():
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return proto

    @property
    def model(self) -> ir.Model:
        return in_float16(self.proto)

    def inputs(self) -> dict[str, Array]:
        rng = np.random.default_rng(8)
        images, heads, queries, keys, depth = self.sizes
        rows = {"q": queries, "k": keys, "v": keys}
        made = {name: rng.normal(size=(images, heads, count, depth)) for name, count in rows.items()}
        found: dict[str, Array] = {name: array.astype(np.float16).astype(np.float32) for name, array in made.items()}
        return found | ({"mask": self.mask} if self.is_input else {})


def in_float16(proto: onnx.ModelProto) -> ir.Model:
    model, _ = simplify(import_model(proto))
    ConvertPrecision(has_wide_sums=True)(model)
    return model


def weighed(inputs: dict[str, Array], masked: Array, gives_zero: bool = False) -> Array:
    """The values by the softmax of masked scores, in float64, twice side by side."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(masked - masked.max(-1, keepdims=True))
        weights = powers / powers.sum(-1, keepdims=True)
    weights = np.where(np.isnan(weights), 0, weights) if gives_zero else weights
    return np.tile(weights @ inputs["v"].astype(np.float64), (1, 1, 1, 2))


def scores_of(inputs: dict[str, Array]) -> Array:
    q, k = (inputs[name].astype(np.float64) for name in "qk")
    return q @ k.swapaxes(2, 3) * SCALE


def flags(*shape: int) -> Array:
    """True in seven of ten places, all false in the first row of what has more than one."""
    found = np.random.default_rng(5).random(shape) < 0.7
    found[(0,) * (found.ndim - 1)] &= found.ndim == 1
    return found


def numbers(*shape: int, hidden: float) -> Array:
    """A bias that float16 holds, and what hides a key in three of ten places and in the whole first row."""
    bias = np.random.default_rng(6).normal(size=shape).astype(np.float16).astype(np.float32)
    return np.where(flags(*shape), bias, np.float32(hidden))


def triangle(queries: int, keys: int, offset: int, hidden: float) -> Array:
    return np.where(np.tri(queries, keys, offset, dtype=bool), np.float32(0), np.float32(hidden))


ADD, ADD_TO_MASK = "m = Add (s, mask)", "m = Add (mask, s)"
SHOW, HIDE = "m = Where (mask, s, fill)", "m = Where (mask, fill, s)"
PADDING = "unseen = Sub (one, mask) hidden = Mul (unseen, fill) m = Add (s, hidden)"
BOTH = "inner = Where (lower, s, fill) m = Where (mask, inner, fill)"
BOTH_ADDED = "inner = Where (lower, s, fill) m = Add (inner, mask)"
SAFE = "n = IsNaN (p) w = Where (n, zero, p)"
OTHERS = {"one": np.array(1, np.float32), "lower": np.tri(40, 70, dtype=bool)}

MEANING: dict[str, Callable[[Array, Masked], Array]] = {
    ADD: lambda s, case: s + case.mask.astype(np.float64),
    ADD_TO_MASK: lambda s, case: s + case.mask.astype(np.float64),
    SHOW: lambda s, case: np.where(case.mask, s, case.fill),
    HIDE: lambda s, case: np.where(case.mask, case.fill, s),
    PADDING: lambda s, case: s + (1 - case.mask.astype(np.float64)) * case.fill,
    BOTH: lambda s, case: np.where(case.mask & OTHERS["lower"], s, case.fill),
    BOTH_ADDED: lambda s, case: np.where(OTHERS["lower"], s, case.fill) + case.mask.astype(np.float64),
}

EVEN = (2, 3, 40, 70, 16)
SHORT, LONG = (1, 2, 21, 75, 16), (1, 2, 75, 21, 16)

MASKS = {
    # Along every axis the same or not; single numbers where the keys are odd, else pairs.
    "full": Masked("AddedMask<float, 2331, 777, 37, 1>", ADD, numbers(2, 3, 21, 37, hidden=-np.inf)),
    "pairs": Masked(
        "AddedMask<float, 8400, 2800, 70, 1>", ADD_TO_MASK, numbers(2, 3, 40, 70, hidden=LOWEST), sizes=EVEN
    ),
    "images": Masked("AddedMask<float, 37, 0, 0, 1>", ADD, numbers(2, 1, 1, 37, hidden=LOWEST)),
    "heads": Masked("AddedMask<float, 0, 777, 37, 1>", ADD, numbers(3, 21, 37, hidden=-1e4)),
    "queries": Masked("AddedMask<float, 0, 0, 1, 0>", ADD, numbers(21, 1, hidden=LOWEST_HALF)),
    "keys": Masked("AddedMask<float, 0, 0, 0, 1>", ADD, numbers(70, hidden=-np.inf), sizes=EVEN),
    "constant": Masked(
        "AddedMask<half, 0, 0, 37, 1>", ADD_TO_MASK, numbers(21, 37, hidden=LOWEST_HALF), is_input=False
    ),
    "lowest constant": Masked("AddedMask<float, 0, 0, 37, 1>", ADD, numbers(21, 37, hidden=LOWEST), is_input=False),
    "computed in float16": Masked(
        "AddedMask<half, 70, 0, 0, 1>", PADDING, flags(2, 1, 1, 70).astype(np.float32), fill=-1e4, sizes=EVEN
    ),
    "computed in float32": Masked(
        "AddedMask<float, 37, 0, 0, 1>", PADDING, flags(2, 1, 1, 37).astype(np.float32), fill=LOWEST
    ),
    "zero where hidden": Masked(
        "AddedMask<float, 70, 0, 0, 1>, true", ADD, numbers(2, 1, 1, 70, hidden=-np.inf), sizes=EVEN, after=SAFE
    ),
    "shown": Masked("ChosenMask<true, 777, 0, 37, 1>", SHOW, flags(2, 1, 21, 37), fill=LOWEST),
    "hidden": Masked("ChosenMask<false, 70, 0, 0, 1>", HIDE, ~flags(2, 1, 1, 70), fill=-np.inf, sizes=EVEN),
    "shown constant": Masked(
        "ChosenMask<true, 0, 0, 70, 1>", SHOW, flags(40, 70), fill=LOWEST_HALF, sizes=EVEN, is_input=False
    ),
    "zero where not shown": Masked(
        "ChosenMask<true, 0, 777, 37, 1>, true", SHOW, flags(1, 3, 21, 37), fill=-np.inf, after=SAFE
    ),
    "a high number elsewhere": Masked("ChosenMask<true, 777, 0, 37, 1>", SHOW, flags(2, 1, 21, 37), fill=0.5),
    # Constant triangles, with fewer and more keys than queries.
    "causal": Masked("CausalMask<0>", ADD, triangle(75, 75, 0, -np.inf), sizes=(2, 2, 75, 75, 32), is_input=False),
    "causal to the last key": Masked("CausalMask<54>", ADD, triangle(21, 75, 54, LOWEST), sizes=SHORT, is_input=False),
    "causal beyond the keys": Masked("CausalMask<0>", ADD, triangle(75, 21, 0, -1e4), sizes=LONG, is_input=False),
    "causal shown": Masked("CausalMask<0>", SHOW, np.tri(21, 75, dtype=bool), fill=LOWEST, sizes=SHORT, is_input=False),
    "causal hidden": Masked(
        "CausalMask<1>", HIDE, ~np.tri(75, 21, 1, dtype=bool), fill=-1e4, sizes=LONG, is_input=False
    ),
    "causal for each image": Masked(
        "CausalMask<0>", ADD, np.stack([triangle(21, 37, 0, LOWEST)[None]] * 2), is_input=False
    ),
    # Triangles that are not causal masks: a query sees nothing, a bias, hidden scores that still count.
    "first query alone": Masked("AddedMask<half, 0, 0, 37, 1>", ADD, triangle(21, 37, -1, -1e4), is_input=False),
    "triangle of a bias": Masked("AddedMask<half, 0, 0, 37, 1>", ADD, triangle(21, 37, 0, -2.0), is_input=False),
    "causal and padding": Masked("ChosenMask<true, 2800, 0, 70, 1>", BOTH, flags(2, 1, 1, 70), fill=LOWEST, sizes=EVEN),
    "causal and a bias": Masked(
        "AddedMask<float, 0, 2800, 70, 1>", BOTH_ADDED, numbers(3, 40, 70, hidden=LOWEST), fill=LOWEST, sizes=EVEN
    ),
}


def choice_of(pick: Any, sites: list[Site]) -> Any:
    def choose(site: Site) -> Choice:
        if site.family != "attention":
            return site.default
        sites.append(site)
        return pick(site.candidates, key=lambda choice: (choice["warps"], choice["keys"]))

    return choose


def kinds_of(model: ir.Model) -> list[str]:
    """The masks of the kernels of attention, as the device code calls them, with what follows."""
    texts = [source.text for source in sources_of(plan_of(model, PROFILE), PROFILE).values()]
    calls = [call for text in texts for call in re.findall(r"edgec::attend<(.*?)>\(", text)]
    return [call.rpartition("edgec::")[2] for call in calls]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("pick", [min, max])
def test_equals_numpy(name: str, pick: Any, tmp_path: Path) -> None:
    case, sites = MASKS[name], list[Site]()
    model, inputs = case.model, case.inputs()
    if pick is min:
        assert kinds_of(model) == [case.kind]
    found = run_plan(plan_of(model, PROFILE), PROFILE, inputs, tmp_path, choice_of(pick, sites))["y"]
    assert len(sites) == 1
    with np.errstate(over="ignore"):
        expected = weighed(inputs, MEANING[case.nodes](scores_of(inputs), case), case.after == SAFE)
    largest = np.nanmax(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * largest)


@pytest.mark.parametrize("name", ["images", "computed in float32", "shown", "zero where hidden", "causal and padding"])
def test_equals_the_engine_where_all_is_hidden(name: str, tmp_path: Path) -> None:
    """Weights are equal where the fill is finite, and zero in what PyTorch calls safe."""
    case = MASKS[name]
    inputs, hidden = case.inputs(), (0, 0, 0)
    found = run_plan(plan_of(case.model, PROFILE), PROFILE, inputs, tmp_path)["y"][hidden]
    expected = execute(import_model(case.proto), inputs)["y"][hidden]
    mean = np.tile(inputs["v"][0, 0].mean(0), 2) * (case.after != SAFE)
    np.testing.assert_allclose(expected, mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_reads_no_key_that_a_block_does_not_see(tmp_path: Path) -> None:
    """Not even times zero: with NaN in keys and values from the sixteenth on, the first sixteen queries are numbers."""
    case = MASKS["causal shown"]
    plan = plan_of(case.model, PROFILE)
    (kernel,) = (function for name, function in plan.kernels.items() if "attention" in name)
    assert len(kernel.params) == 4 and len(plan.params) < case.mask.size  # the mask is nowhere
    inputs = case.inputs()
    expected = weighed(inputs, MEANING[SHOW](scores_of(inputs), case))
    for name in "kv":
        inputs[name] = inputs[name].copy()
        inputs[name][:, :, 16:] = np.nan
    found = run_plan(plan, PROFILE, inputs, tmp_path, choice_of(min, []))["y"]
    np.testing.assert_allclose(found[:, :, :16], expected[:, :, :16], rtol=0, atol=5e-3)
    assert np.isnan(found[:, :, 16:]).all()


@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("name", ["pairs", "full", "images", "computed in float16", "shown", "hidden", "causal"])
def test_fits_the_multiprocessor(name: str, depth: int) -> None:
    case = MASKS[name]
    case = replace(case, sizes=(*case.sizes[:4], depth))
    choose = choice_of(max, [])
    plan = plan_of(case.model, PROFILE)
    (source,) = (source for name, source in sources_of(plan, PROFILE, choose).items() if "attention" in name)
    assert PROFILE.gpu is not None
    try:
        resources = compile_source(source, PROFILE.gpu).images[0].resources
    except UnsupportedError as err:
        pytest.skip(str(err))
    assert resources is not None and resources.spill_bytes == resources.stack_bytes == 0, resources
    assert resources.registers * source.block[0] <= ARCHITECTURES[87].block_registers


# What is no mask: computed fills, masks that give the scores another shape, masks before the scale, fills that do not
# absorb what they replace.
OTHER_NODES = {
    "a computed fill": Masked("", "f = ReduceMax (s) m = Where (mask, s, f)", flags(2, 1, 21, 37)),
    "more images": replace(MASKS["images"], sizes=(1, 3, 21, 37, 16)),
    "scaled afterwards": Masked("", "n = Add (s, mask) m = Mul (n, n)", numbers(21, 37, hidden=-9.0)),
    "small fills": replace(MASKS["causal and a bias"], fill=-1e4),
}


@pytest.mark.parametrize("name", OTHER_NODES)
def test_products_and_a_softmax_remain_elsewhere(name: str) -> None:
    kernels = [call.kernel for call in plan_of(OTHER_NODES[name].model, PROFILE).calls]
    assert not any("attention" in kernel for kernel in kernels)
    assert sum("matmul" in kernel for kernel in kernels) == 2


def test_flags_in_the_epilogue_of_a_product(tmp_path: Path) -> None:
    """Without tensor cores for it, a constant mask is read where the scores are made."""
    case, profile = MASKS["shown constant"], load_profile("cuda:sm_75")
    inputs = case.inputs()
    found = run_plan(plan_of(case.model, profile), profile, inputs, tmp_path)["y"]
    expected = weighed(inputs, MEANING[SHOW](scores_of(inputs), case))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)
