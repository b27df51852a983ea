"""Kernels timed side by side: a small artifact of nothing but them, on the device that counts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgec.bundle import Bundle, seal
from edgec.files import temporary_folder
from edgec.manifest import target_row

if TYPE_CHECKING:
    from tvm import tirx

    from edgec.targets.lowering import Plan
    from edgec.targets.profile import Profile

__all__ = ["plan_of_variants", "random_inputs", "runner_bundle"]

_NAME = "timed"


def runner_bundle(plan: Plan, kernels: Mapping[str, tirx.PrimFunc], profile: Profile) -> Bundle:
    """A bundle with a runner only; ``kernels`` are the scheduled ones of the plan."""
    folder = temporary_folder("edgec-tune-")
    try:
        lib = Path(folder.name) / "lib"
        lib.mkdir()
        (_link_for_cpu if profile.gpu is None else _link_for_gpu)(plan, kernels, profile, lib)
        tensors = {
            kind: [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in specs]
            for kind, specs in (("inputs", plan.inputs), ("outputs", plan.outputs))
        }
        return seal(folder, {"name": _NAME, "target": target_row(profile), **tensors})
    except BaseException:
        folder.cleanup()
        raise


def _link_for_cpu(plan: Plan, kernels: Mapping[str, tirx.PrimFunc], profile: Profile, lib: Path) -> None:
    from edgec.targets.driver import driver_source, kernel_symbol
    from edgec.targets.kernel_object import build_kernel
    from edgec.targets.link import Program, link_runner

    def build(name: str) -> Path:
        path = lib.parent / f"{name}.o"
        build_kernel(kernels[name], kernel_symbol(_NAME, name), profile).write_to_file(str(path), "o")
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(build, sorted(kernels)))
    driver = driver_source(_NAME, plan, profile.required_features)
    link_runner(Program(_NAME, driver, objects, plan.params), profile, lib)


def _link_for_gpu(plan: Plan, kernels: Mapping[str, tirx.PrimFunc], profile: Profile, lib: Path) -> None:
    from edgec.targets.cuda.architectures import ARCHITECTURES
    from edgec.targets.cuda.device_code import compile_source, device_source
    from edgec.targets.cuda.kernels import DeviceKernel
    from edgec.targets.cuda.program import device_program
    from edgec.targets.driver import kernel_symbol
    from edgec.targets.link import Program, link_runner

    gpu = profile.gpu
    assert gpu is not None

    def build(name: str) -> DeviceKernel:
        source = device_source(kernels[name], kernel_symbol(_NAME, name), ARCHITECTURES[gpu.capability])
        return compile_source(source, gpu)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        built = dict(zip(kernels, pool.map(build, kernels), strict=True))
    program = device_program(_NAME, plan, built, profile.required_features)
    link_runner(Program(_NAME, program.source, [], plan.params, program.images), profile, lib)


def plan_of_variants(function: tirx.PrimFunc, count: int) -> Plan:
    """A plan that calls variants ``v0``, ``v1`` ... of one kernel in turn, on the same inputs.

    Each variant has outputs of its own, in their order. The first step is ``v0`` too, to warm the caches: what comes
    first pays for what happens between two inferences.
    """
    from edgec.targets.lowering.plan import KernelCall, Place, PlacedBuffer, Plan, TensorSpec

    specs = [
        TensorSpec(f"t{i}", tuple(int(extent) for extent in buffer.shape), str(buffer.dtype))
        for i, buffer in enumerate(function.params)
    ]
    split = len(specs) - _count_results(function)
    inputs, results = specs[:split], specs[split:]
    operands = [PlacedBuffer(Place.INPUT, i, spec.dtype) for i, spec in enumerate(inputs)]
    calls: list[KernelCall] = []
    outputs: list[TensorSpec] = []
    for variant in range(count):
        places = [PlacedBuffer(Place.OUTPUT, len(outputs) + i, spec.dtype) for i, spec in enumerate(results)]
        outputs += [TensorSpec(f"v{variant}_{spec.name}", spec.shape, spec.dtype) for spec in results]
        calls.append(KernelCall(f"v{variant}", (*operands, *places)))
    kernels = {call.kernel: function for call in calls}
    calls.insert(0, calls[0])
    return Plan(tuple(inputs), tuple(outputs), tuple(calls), kernels, b"", 0, 0)


def _count_results(function: tirx.PrimFunc) -> int:
    """How many of the kernel's arguments it writes; they are the last ones."""
    from tvm import tirx
    from tvm_ffi.structural import structural_walk

    written: set[int] = set()

    def visit(store: tirx.BufferStore) -> None:
        written.add(store.buffer.__chandle__())

    structural_walk(function.body, (tirx.BufferStore, visit))
    return sum(param.__chandle__() in written for param in function.params)


def random_inputs(bundle: Bundle) -> list[np.ndarray]:
    """One sample of normal floats, of zeros for integers (which may be indices), in the bundle's order."""
    rng = np.random.default_rng(7)
    return [
        (rng.standard_normal(info.shape) if np.dtype(info.dtype).kind == "f" else np.zeros(info.shape)).astype(
            info.dtype
        )
        for info in bundle.inputs
    ]
