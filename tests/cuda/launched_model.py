"""A small plan with two kernels, all kinds of places and a copy, and the programs made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgec.devices.selection import host_arch
from edgec.targets.cuda.kernels import DeviceImage, DeviceKernel
from edgec.targets.cuda.program import DeviceProgram, device_program
from edgec.targets.link import Program, link, link_runner
from edgec.targets.lowering.plan import KernelCall, Place, PlacedBuffer, Plan, TensorSpec
from edgec.targets.profile import load_profile
from tests.cuda.launched_numbers import BYTES, PARAMS, SHAPE

HOST = {"x86_64": "x86-64-v2", "aarch64": "aarch64"}


def _place(place: Place, position: int, offset: int = 0) -> PlacedBuffer:
    return PlacedBuffer(place, position, "float32", offset)


def plan() -> Plan:
    """``t = a x + b, y = t + u``, ``w`` is ``y + t`` and then ``a u + b``, and ``copy`` is ``y``."""
    a, b = _place(Place.PARAMS, 0), _place(Place.PARAMS, 192)
    x, u, t, y = (_place(p, i) for p, i in ((Place.INPUT, 0), (Place.INPUT, 1), (Place.ARENA, 64), (Place.OUTPUT, 0)))
    kernels: Mapping[str, object] = dict.fromkeys(("affine", "add", "add_too"))
    return Plan(
        inputs=(TensorSpec("x", SHAPE, "float32"), TensorSpec("u", SHAPE, "float32")),
        outputs=(
            TensorSpec("y", SHAPE, "float32"),
            TensorSpec("w", (2, *SHAPE), "float32"),
            TensorSpec("copy", SHAPE, "float32"),
        ),
        calls=(
            KernelCall("affine", (a, x, b, t)),
            KernelCall("add", (t, u, y)),
            KernelCall("add_too", (y, t, _place(Place.OUTPUT, 1))),
            KernelCall("affine", (a, u, b, _place(Place.OUTPUT, 1, BYTES))),
            KernelCall("copy_output", (y, _place(Place.OUTPUT, 2))),
        ),
        kernels=kernels,  # type: ignore[arg-type]
        params=PARAMS,
        arena_size_bytes=64 + BYTES,
        arena_bound_bytes=BYTES,
    )


def image(architecture: int, kind: str = "cubin") -> DeviceImage:
    """Text that the stub driver takes for code of both kernels."""
    entries = "".join(
        f".visible .entry {name}({', '.join(f'.param .u64 {name}_{i}' for i in range(count))})\n"
        for name, count in (("affine", 4), ("add", 3))
    )
    content = f".version 6.4\n.target sm_{architecture}\n{entries}".encode() + b"\0" * (kind == "cubin")
    return DeviceImage(architecture, kind, content, "12.9")  # type: ignore[arg-type]


IMAGES = (image(87), image(80), image(53, "ptx"), image(72, "ptx"))


def program(images: tuple[DeviceImage, ...] = IMAGES) -> DeviceProgram:
    affine = DeviceKernel("affine", images, (2, 1, 1), (32, 1, 1), 65536)
    add = DeviceKernel("add", images, (3, 2, 1), (4, 2, 1))
    return device_program("demo", plan(), {"affine": affine, "add": add, "add_too": add}, ())


def build(folder: Path, arch: str) -> Path:
    """The runner; beside it ``libdemo.so`` where that can be loaded here."""
    made = program()
    folder.mkdir()
    linker = link if arch == host_arch() else link_runner
    linker(Program("demo", made.source, [], PARAMS, made.images), load_profile(HOST[arch]), folder)
    return folder / "demo_runner"
