"""Kernels of one expression, compiled for a target and run there, or under QEMU, without the rest of the compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import s_tir, te

from edgec.devices.selection import host_arch
from edgec.targets.kernel_object import build_kernel
from edgec.targets.profile import Profile
from tests.targets.runtime_build import ZIG, missing

Array = NDArray[Any]

__all__ = ["TinyKernel", "run_kernels"]

_MAIN = """#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

%(declarations)s
static _Alignas(64) unsigned char memory[%(size)d];

int main(int argc, char **argv) {
    FILE *file = fopen(argv[argc - 1], "rb+");
    if (file == NULL || fread(memory, 1, sizeof memory, file) != sizeof memory) return 1;
    %(calls)s
    rewind(file);
    if (fwrite(memory, 1, sizeof memory, file) != sizeof memory || fclose(file) != 0) return 3;
    return 0;
}
"""


@dataclass(frozen=True, eq=False)
class TinyKernel:
    """An element-wise expression over arrays (rows, lanes), each row computed as one vector.

    Attributes:
        function: From one element of every input to one of the output.
        inputs: Arrays of one shape.
    """

    function: Callable[..., Any]
    inputs: Sequence[Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs[0].shape

    def built(self, symbol: str, profile: Profile) -> Any:
        """TVM's module with the kernel."""
        placeholders = [
            te.placeholder(array.shape, array.dtype.name, name=f"x{i}") for i, array in enumerate(self.inputs)
        ]
        out = te.compute(self.shape, lambda row, lane: self.function(*(x[row, lane] for x in placeholders)), name="out")
        schedule = s_tir.Schedule(te.create_prim_func([*placeholders, out]))
        schedule.vectorize(schedule.get_loops("out")[1])
        return build_kernel(schedule.mod["main"], symbol, profile)


def run_kernels(kernels: Sequence[TinyKernel], dtype: str, profile: Profile, folder: Path) -> list[Array]:
    """What the kernels compute, each an array of ``dtype`` and the shape of its inputs."""
    objects, declarations, calls, outputs = [], [], [], []
    memory = bytearray()

    def place(content: bytes) -> str:
        """Where the program keeps an array: each begins at a multiple of 64 bytes."""
        offset = len(memory)
        memory.extend(content.ljust(-(-len(content) // 64) * 64, b"\xee"))
        return f"memory + {offset}"

    for number, kernel in enumerate(kernels):
        symbol = f"kernel_{number}"
        objects.append(folder / f"{symbol}.o")
        kernel.built(symbol, profile).write_to_file(str(objects[-1]), "o")
        places = [place(array.tobytes()) for array in kernel.inputs]
        outputs.append(len(memory))
        places.append(place(bytes(int(np.prod(kernel.shape)) * np.dtype(dtype).itemsize)))
        declarations.append(f"int32_t {symbol}({', '.join(['void *'] * len(places))});")
        calls.append(f"if ({symbol}({', '.join(places)}) != 0) return 2;")
    (folder / "arrays").write_bytes(memory)
    parts = {"declarations": "\n".join(declarations), "size": len(memory), "calls": "\n    ".join(calls)}
    _run_program(_MAIN % parts, objects, profile, folder)
    result = (folder / "arrays").read_bytes()
    return [
        np.frombuffer(result, dtype, int(np.prod(kernel.shape)), start).reshape(kernel.shape)
        for kernel, start in zip(kernels, outputs, strict=True)
    ]


def _run_program(source: str, objects: Sequence[Path], profile: Profile, folder: Path) -> None:
    (folder / "main.c").write_text(source)
    target, program = profile.link_targets["runner"], folder / "program"
    is_static = ["-static"] if "musl" in target else []
    files = map(str, [folder / "main.c", *objects, "-lm", "-o", program])
    subprocess.run([*ZIG, "-target", target, "-O1", *is_static, *files], check=True, cwd="/")
    prefix = []
    if profile.arch != host_arch():
        emulator = shutil.which(f"qemu-{profile.arch}")
        if emulator is None:
            missing(f"no qemu-{profile.arch}: apt-get install qemu-user")
        prefix = [emulator, "-cpu", profile.qemu_cpu]
    subprocess.run([*prefix, str(program), str(folder / "arrays")], check=True)
