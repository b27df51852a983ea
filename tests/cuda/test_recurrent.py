"""Recurrent layers on GPUs: what they compute in the emulation, what they take of a multiprocessor, what is refused."""

from __future__ import annotations

from collections.abc import Callable
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
from edgec.frontend import execute
from edgec.passes import ConvertPrecision
from edgec.targets.cuda.architectures import ARCHITECTURES
from edgec.targets.cuda.device_code import compile_source, device_source
from edgec.targets.cuda.schedules import schedule_kernel
from edgec.targets.lowering.recurrent import Cell, walk_kernel
from edgec.targets.profile import load_profile
from edgec.targets.schedules.choice import Choice, Site, default_choice
from tests.cuda.emulated_plan import plan_of, run_plan

Array = NDArray[Any]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

# Hidden sizes that fill no warp, and larger ones than the threads of a small block.
LAYERS = (
    ("LSTM", 21, "bidirectional", {}),
    ("GRU", 40, "reverse", {}),
    ("GRU", 40, "bidirectional", {"linear_before_reset": 1}),
    ("RNN", 160, "forward", {}),
    ("LSTM", 160, "forward", {}),
)
STEPS, BATCH, FEATURES = 3, 2, 16


def layers() -> tuple[ir.Model, dict[str, Array]]:
    """A model of all layers side by side, with states before and after, and its inputs."""
    rng = np.random.default_rng(5)
    inputs = {"x": rng.normal(size=(STEPS, BATCH, FEATURES)).astype(np.float32)}
    nodes, constants, outputs = [], [], []
    for number, (op_type, hidden, direction, attributes) in enumerate(LAYERS):
        directions = 2 if direction == "bidirectional" else 1
        rows = GATES[op_type] * hidden
        shapes = {"w": (rows, FEATURES), "r": (rows, hidden), "b": (2 * rows,)}
        for name, shape in shapes.items():
            array = rng.normal(size=(directions, *shape)) / np.sqrt(hidden)
            constants.append(numpy_helper.from_array(array.astype(np.float32), f"{name}{number}"))
        states = ["h", "c"] if op_type == "LSTM" else ["h"]
        for state in states:
            inputs[f"{state}{number}"] = rng.normal(size=(directions, BATCH, hidden)).astype(np.float32)
        given = ["x", f"w{number}", f"r{number}", f"b{number}", "", *(f"{state}{number}" for state in states)]
        made = {f"y{number}": (STEPS, directions, BATCH, hidden)}
        made |= {f"{state}{number}_last": (directions, BATCH, hidden) for state in states}
        node = helper.make_node(op_type, given, list(made), hidden_size=hidden, direction=direction, **attributes)
        nodes.append(node)
        outputs += [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in made.items()]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in inputs.items()]
    graph = helper.make_graph(nodes, "layers", values, outputs, constants)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)), inputs


def _order(choice: Choice) -> tuple[int, ...]:
    return choice["keeps"], choice["parts"], choice["threads"]


PICKS: dict[str, Callable[[Site], Choice]] = {
    "default": default_choice,
    "few threads that load their weights": lambda site: min(site.candidates, key=_order),
    "many threads that load their weights": lambda site: max(
        site.candidates, key=lambda choice: (-choice["keeps"], choice["threads"], choice["parts"])
    ),
    "many threads that keep their weights": lambda site: max(site.candidates, key=_order),
}


def run(model: ir.Model, inputs: dict[str, Array], folder: Path, pick: str = "default") -> dict[str, Array]:
    profile = load_profile("cuda:sm_87")
    plan = plan_of(model, profile)
    choices: list[Choice] = []

    def choose(site: Site) -> Choice:
        if site.family != "recurrent":
            return site.default
        choices.append(PICKS[pick](site))
        return choices[-1]

    found = run_plan(plan, profile, inputs, folder, choose)
    assert len(choices) == len(LAYERS)
    return found


@pytest.mark.parametrize("pick", PICKS)
def test_equals_onnxruntime(
    pick: str, run_onnxruntime: Callable[..., Any], assert_close: Callable[..., None], tmp_path: Path
) -> None:
    model, inputs = layers()
    expected = run_onnxruntime(model, inputs)
    for name, found in run(model, inputs, tmp_path, pick).items():
        assert_close(found, expected[name])


def test_float16_rounds_inputs_and_weights_only(tmp_path: Path) -> None:
    """The product with the inputs is one of float16, the state is exact: equal to the graph in the engine."""
    model, inputs = layers()
    exact = execute(model, inputs)
    assert ConvertPrecision(has_wide_sums=True)(model).modified
    expected = execute(model, inputs)
    profile = load_profile("cuda:sm_87")
    kernels = plan_of(model, profile).kernels
    walks = [function for name, function in kernels.items() if name.startswith(("lstm", "gru", "rnn"))]
    assert walks and {str(function.params[1].dtype) for function in walks} == {"float16"}
    for name, found in run(model, inputs, tmp_path).items():
        assert np.abs(found - expected[name]).max() <= 1e-5
        assert 1e-5 < np.abs(found - exact[name]).max() <= 5e-3


@pytest.mark.parametrize("capability", [53, 72, 87])
@pytest.mark.parametrize(
    ("kind", "hidden"), [("LSTM", 64), ("LSTM", 128), ("LSTM", 256), ("GRU", 96), ("GRU", 700), ("RNN", 128)]
)
def test_fits_the_multiprocessor(kind: str, hidden: int, capability: int) -> None:
    row, profile = ARCHITECTURES[capability], load_profile(f"cuda:sm_{capability}")
    assert profile.gpu is not None
    cell = Cell(kind, 2, 20, 1, hidden, 8, is_reverse=False, linear_before_reset=False)
    sites: list[Site] = []

    def remember(site: Site) -> Choice:
        sites.append(site)
        return site.default

    schedule_kernel(walk_kernel(cell), profile, remember)
    chosen = (sites[0].default, max(sites[0].candidates, key=_order), min(sites[0].candidates, key=_order))
    for choice in {tuple(choice.items()): choice for choice in chosen}.values():
        kernel = schedule_kernel(walk_kernel(cell), profile, lambda _, taken=choice: taken)  # type: ignore[misc]
        source = device_source(kernel, "walk", row)
        try:
            resources = compile_source(source, profile.gpu).images[0].resources
        except UnsupportedError as err:
            pytest.skip(str(err))
        assert resources is not None and resources.spill_bytes == resources.stack_bytes == 0, (choice, resources)
        assert resources.shared_bytes <= 48 << 10
        assert resources.registers * source.block[0] <= row.block_registers


def test_a_state_that_is_too_large_is_refused() -> None:
    cell = Cell("LSTM", 1, 20, 1, 4096, 8, is_reverse=False, linear_before_reset=False)
    with pytest.raises(UnsupportedError, match=r"an? LSTM with a hidden size of 4096 does not fit") as caught:
        schedule_kernel(walk_kernel(cell), load_profile("jetson"))
    assert "--target aarch64" in str(caught.value.fix)
