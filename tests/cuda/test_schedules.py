"""Every family of GPU schedules: what its kernels compute, in the emulation, and what they take of a multiprocessor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
from edgec.passes import ConvertPrecision
from edgec.requirements import in_precision
from edgec.targets.cuda.architectures import ARCHITECTURES
from edgec.targets.cuda.device_code import compile_source
from edgec.targets.cuda.schedules.tiles import Tile
from edgec.targets.profile import Profile, load_profile
from edgec.targets.schedules.choice import Choice, Site
from tests.cuda.emulated_plan import plan_of, run_plan, sources_of
from tests.targets.lowering_cases import CASES
from tests.targets.test_lowering import build

Array = NDArray[Any]

FAMILIES = {
    "convolution": ("Conv", "ConvTranspose"),
    "product": ("MatMul", "Gemm"),
    "pool": ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    "normalization": ("Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization"),
    "reduction": ("ReduceMean", "ReduceMax", "ReduceL2", "ArgMax", "CumSum"),
    "rearrangement": ("Concat", "Transpose", "Pad", "Resize", "Slice", "Gather", "Split", "DepthToSpace"),
    "element-wise": ("Add", "Greater", "Where", "Cast", "Tanh", "Not", "Clip"),
    "recurrent": ("LSTM", "GRU", "RNN"),
    "quantization": ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}


MOST_CASES = 10
"""Of an operator."""


HALF_FAMILIES = ("convolution", "product", "normalization", "pool")
"""Which have rules of their own in float16: inputs are narrowed, sums are wide, depthwise weights and biases exact."""


@pytest.mark.parametrize(
    ("family", "is_half"), [*((family, False) for family in FAMILIES), *((family, True) for family in HALF_FAMILIES)]
)
def test_equals_onnxruntime(
    family: str,
    is_half: bool,
    run_onnxruntime: Callable[..., Any],
    assert_close: Callable[..., None],
    tmp_path: Path,
) -> None:
    cases = [case for op_type in FAMILIES[family] for case in CASES[op_type][:MOST_CASES]]
    built = build(cases)
    profile = load_profile("cuda:sm_87")
    reference = run_onnxruntime(built.model, built.inputs)
    if is_half:
        assert ConvertPrecision(has_wide_sums=True)(built.model).modified
    outputs = run_plan(plan_of(built.model, profile), profile, built.inputs, tmp_path)
    failures = []
    for name, expected in reference.items():
        try:
            assert_close(outputs[name], expected, relative=1e-2 if is_half else 1e-4)
        except AssertionError as err:
            failures.append(f"{cases[int(name[3:].split('_')[0])]}: {err}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("target", ["cuda:sm_87", "rk3588"])
def test_wide_sums_read_blocks_of_halves(target: str) -> None:
    """Between a convolution and a pool, which adds in float32, nothing is rearranged."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22]> g (float[1, 16, 6, 6] x)
            => (float[1, 16, 1, 1] y, float[1, 16, 2, 2] z) {
            a = Conv (x, w) b = GlobalAveragePool (a) c = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (a)
            y = Conv (b, w) z = Conv (c, w)
        }"""
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    assert ConvertPrecision(has_wide_sums=False)(model).modified
    kernels = [call.kernel for call in plan_of(model, load_profile(target)).calls]
    assert [number for number, name in enumerate(kernels) if "block" in name] == [0, len(kernels) - 1], kernels


def test_threads_share_sums_over_much(
    run_onnxruntime: Callable[..., Any], assert_close: Callable[..., None], tmp_path: Path
) -> None:
    """Along rows, along columns, over all of a tensor, with and without an epilogue."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22]> g (float[1, 24, 28, 28] x, float[6, 1000] z)
            => (float[1, 24, 1, 1] a, float b, int64[6, 1] c, float[6, 1000] d, float[6, 1000] e, uint8[6, 1000] q,
                float[1000] f, float[6, 1] h) {
            a = GlobalAveragePool (x) b = ReduceMax <keepdims = 0> (z) c = ArgMax <axis = 1> (z) d = Softmax (z)
            e = LayerNormalization (z, s) q, qs, qz = DynamicQuantizeLinear (z)
            t = Concat <axis = 0> (z, z, z, z, z, z, z, z) f = ReduceMean <keepdims = 0> (t, first)
            h = ReduceL2 (z, last)
        }"""
    )
    arrays = {"s": np.linspace(0.5, 1.5, 1000, dtype=np.float32), "first": np.array([0]), "last": np.array([1])}
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    rng = np.random.default_rng(2)
    inputs = {"x": rng.normal(size=(1, 24, 28, 28)), "z": rng.normal(size=(6, 1000))}
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    profile = load_profile("cuda:sm_87")
    plan = plan_of(model, profile)
    outputs = run_plan(plan, profile, inputs, tmp_path)
    for name, expected in run_onnxruntime(model, inputs).items():
        assert_close(outputs[name], expected)
    kinds = ("pool", "max", "extreme", "position", "norm", "lowest", "highest", "mean", "reducel2")
    sources = {
        name: source for name, source in sources_of(plan, profile).items() if any(kind in name for kind in kinds)
    }
    assert len(sources) >= len(kinds)
    for name, source in sources.items():
        assert np.prod(source.block) >= 128, (name, source.block)


# -- products on tensor cores and CUDA cores -----------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A convolution of an image (N, C, H, W) by weights (O, C/groups, kh, kw), or a product with weights or data."""

    data: tuple[int, ...]
    weights: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    group: int = 1
    is_attention: bool = False

    @property
    def attributes(self) -> dict[str, Any]:
        if len(self.weights) == 2 or self.is_attention:
            return {}
        names = ("strides", "dilations", "pads")
        return {**{name: list(getattr(self, name)) for name in names}, "group": self.group}


# Lanes that are not filled, sizes that no tile divides, few rows, a reduction longer and shorter than all stages.
PROBLEMS = (
    Problem((2, 40, 9, 11), (24, 40, 3, 3), (2, 1), (1, 2), (1, 2, 0, 2)),
    Problem((1, 64, 7, 7), (33, 64, 1, 1)),
    Problem((1, 3, 13, 11), (20, 3, 5, 3), (2, 2), pads=(2, 1, 2, 1)),
    Problem((3, 96, 5, 7), (64, 48, 3, 3), pads=(1, 1, 1, 1), group=2),
    Problem((2, 24, 13, 17), (136, 24, 3, 3), pads=(1, 1, 1, 1)),
    Problem((1, 32, 20, 17), (16, 32, 1, 1), (3, 2)),
    Problem((2, 33, 48), (48, 130)),
    Problem((1, 544), (544, 45)),
    Problem((2, 3, 21, 48), (2, 3, 48, 20), is_attention=True),
)


@dataclass
class Products:
    """A model of all problems, side by side."""

    dtype: str
    problems: tuple[Problem, ...] = PROBLEMS
    inputs: dict[str, Array] = field(default_factory=dict)
    expected: dict[str, Array] = field(default_factory=dict)
    model: ir.Model = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        nodes, weights, outputs = [], [], []
        dtype, is_integer = self.dtype.replace("tf32", "float32"), self.dtype == "int8"
        if is_integer:  # which data is multiplied by data as floats
            self.problems = tuple(problem for problem in self.problems if not problem.is_attention)
        for number, problem in enumerate(self.problems):
            x, w = (_numbers(rng, shape, dtype) for shape in (problem.data, problem.weights))
            op_type = ("Conv" if problem.attributes else "MatMul") + "Integer" * is_integer
            self.inputs[f"x{number}"] = x
            if problem.is_attention:
                self.inputs[f"w{number}"] = w
            else:
                weights.append(numpy_helper.from_array(w, f"w{number}"))
            names = [f"x{number}", f"w{number}"]
            nodes.append(helper.make_node(op_type, names, [f"s{number}"], **problem.attributes))
            nodes.append(helper.make_node("Relu", [f"s{number}"], [f"y{number}"]))
            result = _convolved(x, w, problem) if problem.attributes else _wide(x) @ _wide(w)
            self.expected[f"y{number}"] = np.maximum(result, 0)
            sums = np.dtype("int32") if is_integer else x.dtype
            outputs.append(
                helper.make_tensor_value_info(f"y{number}", helper.np_dtype_to_tensor_dtype(sums), result.shape)
            )
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in self.inputs.items()
        ]
        graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
        self.model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "int8":
        return rng.integers(-128, 128, shape, np.int8)
    return rng.normal(size=shape).astype(dtype)


def _wide(array: Array) -> Array:
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float64)


def _convolved(x: Array, w: Array, problem: Problem) -> Array:
    """The convolution tap by tap, in float64 or int64."""
    x, w = _wide(x), _wide(w)
    top, left, bottom, right = problem.pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (sy, sx), (dy, dx) = problem.strides, problem.dilations
    kh, kw = w.shape[2:]
    height, width = (x.shape[2] - (kh - 1) * dy - 1) // sy + 1, (x.shape[3] - (kw - 1) * dx - 1) // sx + 1
    parts = []
    for data, filters in zip(np.split(x, problem.group, 1), np.split(w, problem.group, 0), strict=True):
        total: Any = 0
        for ky in range(kh):
            for kx in range(kw):
                rows = slice(ky * dy, ky * dy + (height - 1) * sy + 1, sy)
                columns = slice(kx * dx, kx * dx + (width - 1) * sx + 1, sx)
                total = total + np.einsum("nchw,oc->nohw", data[:, :, rows, columns], filters[:, :, ky, kx])
        parts.append(total)
    return np.concatenate(parts, 1)


def _area(choice: Choice) -> int:
    tile = Tile.of(choice)
    return tile.rows * tile.columns


PICKS: dict[str, Callable[[Site], Choice]] = {
    "default": lambda site: site.default,
    "largest": lambda site: max(site.candidates, key=_area),
    "smallest": lambda site: min(site.candidates, key=_area),
    "deepest": lambda site: max(site.candidates, key=lambda choice: (choice["depth_warps"], choice["stages"])),
    "parted": lambda site: max(site.candidates, key=lambda choice: (choice["depth_blocks"], choice["depth_warps"])),
}

# Tensor cores of all their generations and CUDA cores with and without a dot product, each with one tile or several.
UNITS = [
    *(("float16", 87, "default"), ("float16", 87, "largest"), ("float16", 75, "deepest"), ("float16", 53, "smallest")),
    *(("float16", 72, "default"), ("float16", 72, "deepest"), ("float16", 70, "largest"), ("float16", 70, "parted")),
    *(("int8", 87, "deepest"), ("int8", 75, "largest"), ("int8", 70, "default"), ("int8", 53, "smallest")),
    *(("int8", 72, "default"), ("int8", 72, "largest"), ("int8", 72, "deepest"), ("int8", 72, "parted")),
    *(("tf32", 87, "largest"), ("float32", 87, "default"), ("float32", 62, "deepest")),
    *(("float16", 90, "parted"), ("int8", 90, "parted"), ("float32", 61, "parted")),
]
TENSOR_CORES_SINCE = {"float16": 70, "int8": 72, "tf32": 80, "float32": 1000}
RELATIVE_ERROR = {"float16": 2e-3, "tf32": 2e-3, "float32": 1e-5, "int8": 0.0}


def _profile(capability: int, dtype: str) -> Profile:
    return in_precision("tf32" if dtype == "tf32" else None, load_profile(f"cuda:sm_{capability}"))


@pytest.fixture(scope="module")
def products() -> dict[str, Products]:
    return {dtype: Products(dtype) for dtype in RELATIVE_ERROR}


@pytest.mark.parametrize(("dtype", "capability", "pick"), UNITS)
def test_products_equal_numpy(
    dtype: str, capability: int, pick: str, products: dict[str, Products], tmp_path: Path
) -> None:
    """Every problem is one of implicit GEMM, by the tile that is asked for."""
    made, profile = products[dtype], _profile(capability, dtype)
    tiles: list[Tile] = []

    def choose(site: Site) -> Choice:
        choice = PICKS[pick](site)
        tiles.append(Tile.of(choice))
        return choice

    outputs = run_plan(plan_of(made.model, profile), profile, made.inputs, tmp_path, choose)
    assert len(tiles) == len(made.problems)
    assert {bool(tile.tensor_cores) for tile in tiles} == {capability >= TENSOR_CORES_SINCE[dtype]}
    assert pick != "deepest" or max(tile.depth_warps for tile in tiles) == 4
    assert pick != "parted" or max(tile.depth_blocks for tile in tiles) >= (2 if dtype == "int8" else 4)
    assert pick != "largest" or max(tile.warps for tile in tiles) >= 4
    for name, expected in made.expected.items():
        error = np.abs(outputs[name].astype(expected.dtype) - expected).max()
        assert error <= RELATIVE_ERROR[dtype] * np.abs(expected).max(), (name, error)


@pytest.mark.parametrize("capability", [53, 62, 70, 72, 75, 87, 90, 110])
def test_products_fit_the_multiprocessor(capability: int) -> None:
    """The largest tiles have registers enough, and shared memory that needs no asking for."""
    row = ARCHITECTURES[capability]
    for dtype in [dtype for dtype in RELATIVE_ERROR if dtype != "tf32" or "tf32" in row.tensor_core_types]:
        profile = _profile(capability, dtype)
        assert profile.gpu is not None
        made = Products(dtype, (Problem((1, 64, 28, 28), (128, 64, 3, 3), pads=(1, 1, 1, 1)),))
        for name, source in sources_of(plan_of(made.model, profile), profile, PICKS["largest"]).items():
            if "conv2d" not in name:
                continue
            try:
                kernel = compile_source(source, profile.gpu)
            except UnsupportedError as err:
                pytest.skip(str(err))
            resources = kernel.images[0].resources
            assert resources is not None
            assert resources.registers <= 255 and resources.spill_bytes == resources.stack_bytes == 0, resources
            assert 0 < resources.shared_bytes <= min(48 << 10, row.shared_bytes)
            assert resources.registers * source.block[0] <= row.block_registers
