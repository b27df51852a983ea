"""CUDA C on the host: a kernel's source becomes a shared library that runs its threads as fibers."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["EmulatedKernels", "emulate", "emulated_library"]

HERE = Path(__file__).parent / "emulation"

MARGIN_BYTES = 4096
"""Around each array that a kernel gets, so that what lies beside it belongs to no other."""

# The sanitizers' calls are answered by emulation/sanitizer.h, so the driver is not to link a library of them.
# Clang 22 (ziglang 0.17.1) leaves out terms where it vectorizes a loop over several minima that are joined afterwards.
FLAGS = (
    "-fno-vectorize",
    *("-x", "c++", "-std=c++20", "-O2", "-ffp-contract=off", "-fno-sanitize=all", "-g0", "-w"),
    *("-Xclang", "-fsanitize=thread,alignment", "-Xclang", "-fsanitize-recover=alignment"),
    *("-nostdinc++", "-nostdlib++", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-shared", "-fPIC"),
)


class EmulatedKernels:
    """The kernels of a source, by name."""

    def __init__(self, library: Path) -> None:
        self.path = library
        self._library = ctypes.CDLL(str(library))

    def launch(
        self,
        symbol: str,
        grid: Sequence[int],
        block: Sequence[int],
        arrays: Sequence[np.ndarray],
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel over contiguous arrays, in place.

        Raises:
            RuntimeError: The threads do not meet, or an access is wrong (``emulation/sanitizer.h``).
        """
        function = getattr(self._library, f"{symbol}_emulated")
        function.restype = ctypes.c_char_p
        held = [_Guarded(array) for array in arrays]
        pointers = (ctypes.c_void_p * len(held))(*(guarded.address for guarded in held))
        arguments = (ctypes.c_void_p * len(held))(
            *(ctypes.addressof(pointers) + i * ctypes.sizeof(ctypes.c_void_p) for i in range(len(held)))
        )
        ranges = [end for guarded in held for end in (guarded.address, guarded.address + guarded.array.nbytes)]
        self._library.edgec_arrays((ctypes.c_void_p * len(ranges))(*ranges), len(held))
        sizes = [(ctypes.c_uint * 3)(*extents, *[1] * (3 - len(extents))) for extents in (grid, block)]
        error = function(*sizes, ctypes.c_uint(shared_bytes), arguments)
        if error is not None:
            raise RuntimeError(error.decode())
        for guarded in held:
            guarded.take_over()


class _Guarded:
    """A copy of an array between margins, aligned to 256 bytes as device memory is."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.memory = np.full(array.nbytes + 2 * MARGIN_BYTES + 256, 0xFF, np.uint8)
        self.begin = MARGIN_BYTES + -(self.memory.ctypes.data + MARGIN_BYTES) % 256
        self.inside = slice(self.begin, self.begin + array.nbytes)
        self.memory[self.inside] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        self.address = self.memory.ctypes.data + self.begin

    def take_over(self) -> None:
        """What the kernel wrote."""
        self.array[...] = self.memory[self.inside].view(self.array.dtype).reshape(self.array.shape)


def emulate(source: str, symbols: Sequence[str], folder: Path, capability: int = 87) -> EmulatedKernels:
    """Compile CUDA C for the host, as if for an architecture; arguments as for :func:`emulated_library`."""
    return EmulatedKernels(emulated_library(source, symbols, folder, capability))


def emulated_library(
    source: str, symbols: Sequence[str], folder: Path, capability: int = 87, arch: str | None = None
) -> Path:
    """A shared library with a function ``SYMBOL_emulated`` for each kernel.

    Args:
        source: The translation unit, as NVRTC would get it.
        symbols: Names of its kernels.
        folder: Where the library is written to.
        capability: What ``__CUDA_ARCH__`` tells, as an integer: 87 for sm_87.
        arch: Of the CPU that runs it, if that is not this machine's.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise RuntimeError("the emulation needs the C++ compiler of the package 'ziglang'")
    entries = "\n".join(f"EDGEC_EMULATED_KERNEL({symbol})" for symbol in symbols)
    text = f'#include "simt.h"\n#line 1\n{source}\n{entries}\n'
    machine = ["-march=native"] if arch is None else ["-target", f"{arch}-linux-gnu.2.27"]
    stem = hashlib.sha256(f"{capability}\n{machine}\n{text}".encode()).hexdigest()[:16]
    file, library = folder / f"{stem}.cc", folder / f"{stem}.so"
    file.write_text(text)
    definitions = [f"-D__CUDA_ARCH__={capability * 10}", "-DEDGEC_EMULATION"]
    command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, *machine, *definitions, f"-I{HERE}"]
    command += [str(file), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if result.returncode != 0:
        raise RuntimeError(result.stderr[-4000:])
    return library
