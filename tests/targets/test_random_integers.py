"""Quantized layers of random kinds, for every instruction set: bit for bit what the engine computes.

And so that both cannot be wrong in the same way, against ONNX Runtime on the literal graph, layer by layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

pytest.importorskip("tvm")

import edgec
from edgec.devices import open_runner
from edgec.devices.samples import ordered_inputs
from edgec.frontend import execute, import_model
from edgec.targets.profile import load_profile
from tests.targets.cpus import need_vectors_of
from tests.targets.random_quantized_layers import QuantizedModel, random_quantized_model
from tests.targets.test_random_kernels import need_emulator

Array = NDArray[Any]

CHAINS = 24
SEEDS = {"native": 0, "x86-64-v2": 1, "x86-64-v3": 2, "x86-64-v4": 3, "rk3588": 4, "raspberry-pi-4": 5}
DEVICES = [
    *((target, None) for target in SEEDS),
    ("x86-64-v2", "qemu"),  # a Nehalem has no AVX, a Haswell no AVX-512
    ("x86-64-v3", "qemu"),
]


@dataclass
class Case:
    """A model, what the engine computes for it, and its bundle for one target."""

    model: QuantizedModel
    expected: dict[str, Array]
    bundle: edgec.Bundle


@pytest.fixture(scope="module")
def built() -> Callable[[str], Case]:
    @functools.cache
    def build(target: str) -> Case:
        model = random_quantized_model(SEEDS[target], CHAINS)
        expected = execute(import_model(model.proto), model.feeds)
        return Case(model, expected, edgec.compile(model.proto, target=target))

    return build


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("target", "device"), DEVICES)
def test_equals_the_engine(target: str, device: str | None, threads: int, built: Callable[[str], Case]) -> None:
    need_vectors_of(load_profile(target))
    case = built(target)
    need_emulator(case.bundle, device)
    with open_runner(case.bundle, device, threads=threads) as runner:
        (outputs,) = runner.run([ordered_inputs(case.bundle, case.model.feeds)])
    assert [info.name for info in case.bundle.outputs] == list(case.expected)
    for info, actual in zip(case.bundle.outputs, outputs, strict=True):
        np.testing.assert_array_equal(
            actual, case.expected[info.name], err_msg=case.model.described[info.name], strict=True
        )


@pytest.mark.parametrize("seed", range(8))
def test_onnx_runtime_agrees(seed: int, run_onnxruntime: Callable[..., dict[str, Array]]) -> None:
    """Given the engine's integers, it makes the next ones, in float: at most one step off, and hardly ever."""
    drawn = random_quantized_model(seed, CHAINS)
    model = import_model(drawn.proto)
    integers = _integers_of(model)
    engine = execute(model, drawn.feeds, outputs=integers)
    for name, array in execute(model, drawn.feeds).items():
        if name in engine:
            np.testing.assert_array_equal(engine[name], array, err_msg=name)
    pieces = _in_pieces(drawn.proto, engine)
    given = {f"{name}/given": array for name, array in engine.items()}
    inputs = {value.name: {**drawn.feeds, **given}[value.name] for value in pieces.graph.input}
    reference = run_onnxruntime(ir.from_proto(pieces), inputs)
    compared = count = off = 0
    for name in integers:
        if name in drawn.steep:
            continue
        difference = np.abs(engine[name].astype(int) - reference[name].astype(int))
        assert difference.max(initial=0) <= 1, (name, drawn.described.get(name))
        compared, count, off = compared + 1, count + difference.size, off + int(difference.sum())
    assert compared > CHAINS
    assert off <= 2e-3 * count


def _integers_of(model: ir.Model) -> list[str]:
    """Names of the integers that quantizers make."""
    made = [node.outputs[0].name for node in model.graph if node.op_type in ("QuantizeLinear", "QLinearConv")]
    return [name for name in made if name is not None]


def _in_pieces(proto: onnx.ModelProto, integers: dict[str, Array]) -> onnx.ModelProto:
    """The model with all of these integers as outputs, and read from inputs ``NAME/given``."""
    pieces = onnx.ModelProto()
    pieces.CopyFrom(proto)
    del pieces.graph.output[:], pieces.graph.value_info[:]
    pieces.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in integers.items()
    )
    read = set()
    for node in pieces.graph.node:
        for index, name in enumerate(node.input):
            if name in integers:
                read.add(name)
                node.input[index] = f"{name}/given"
    for name in sorted(read):
        array = integers[name]
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        pieces.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}/given", kind, array.shape))
    return pieces
