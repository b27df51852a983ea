"""A model's plan for a GPU, run step by step on the host: every kernel scheduled, as CUDA C, by the emulation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.targets.cuda.architectures import ARCHITECTURES
from edgec.targets.cuda.device_code import DeviceSource, device_source, prelude
from edgec.targets.cuda.schedules import schedule_kernel
from edgec.targets.lowering import Emitter, TensorSpec, fuse, make_plan
from edgec.targets.lowering.plan import KernelCall, Place, PlacedBuffer, Plan
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Chooser, default_choice
from tests.cuda.emulate import emulate

__all__ = ["plan_of", "run_plan", "sources_of"]

Array = NDArray[Any]


def plan_of(model: ir.Model, profile: Profile) -> Plan:
    """The plan of a model as it is: neither simplified nor converted."""
    inputs, outputs = (
        [
            TensorSpec(value.name, tuple(value.shape.numpy()), value.dtype.numpy().name)  # type: ignore[union-attr]
            for value in values
        ]
        for values in (model.graph.inputs, model.graph.outputs)
    )
    return make_plan(fuse(Emitter(profile).emit_graph(model.graph)), inputs, outputs)


def sources_of(plan: Plan, profile: Profile, choose: Chooser = default_choice) -> dict[str, DeviceSource]:
    """CUDA C of every kernel that the plan calls, by its name in the plan; the symbol is that of no C function."""
    assert profile.gpu is not None
    row = ARCHITECTURES[profile.gpu.capability]
    names = dict.fromkeys(call.kernel for call in plan.calls if call.kernel in plan.kernels)
    kernels = {name: schedule_kernel(plan.kernels[name], profile, choose) for name in names}
    return {name: device_source(kernel, f"kernel_{name}", row) for name, kernel in kernels.items()}


def run_plan(
    plan: Plan, profile: Profile, inputs: Mapping[str, Array], folder: Path, choose: Chooser = default_choice
) -> dict[str, Array]:
    """What the plan's kernels compute, by the name of the output."""
    assert profile.gpu is not None
    sources = sources_of(plan, profile, choose)
    text = "\n".join([prelude(), *(source.text for source in sources.values())])
    emulated = emulate(text, [source.symbol for source in sources.values()], folder, profile.gpu.capability)
    memory = {
        (Place.PARAMS, 0): np.frombuffer(plan.params, np.uint8).copy(),
        (Place.ARENA, 0): np.full(plan.arena_size_bytes, 0xFF, np.uint8),
    }
    for number, spec in enumerate(plan.inputs):
        memory[Place.INPUT, number] = np.ascontiguousarray(inputs[spec.name]).reshape(-1).view(np.uint8).copy()
    for number, spec in enumerate(plan.outputs):
        memory[Place.OUTPUT, number] = np.full(spec.size_bytes, 0xFF, np.uint8)

    def at(buffer: PlacedBuffer, size: int) -> Array:
        in_memory = buffer.place in (Place.PARAMS, Place.ARENA)
        start = buffer.position if in_memory else buffer.offset_bytes
        return memory[buffer.place, 0 if in_memory else buffer.position][start : start + size]

    for call in plan.calls:
        if call.kernel not in plan.kernels:
            _copy(call, plan, at)
            continue
        params = plan.kernels[call.kernel].params
        sizes = [int(np.prod([int(s) for s in p.shape])) * np.dtype(str(p.dtype)).itemsize for p in params]
        source = sources[call.kernel]
        arrays = [at(buffer, size) for buffer, size in zip(call.arguments, sizes, strict=True)]
        emulated.launch(source.symbol, source.grid, source.block, arrays)
    return {
        spec.name: memory[Place.OUTPUT, number].view(spec.dtype).reshape(spec.shape)
        for number, spec in enumerate(plan.outputs)
    }


def _copy(call: KernelCall, plan: Plan, at: Any) -> None:
    assert call.kernel == "copy_output"
    source, to = call.arguments
    size = plan.outputs[to.position].size_bytes
    at(to, size)[...] = at(source, size)
