"""NVIDIA's run-time compiler (NVRTC), from its packages or an installed toolkit: CUDA C becomes code of a GPU."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from edgec.errors import EdgecError, UnsupportedError
from edgec.targets.cuda.architectures import Architecture
from edgec.targets.cuda.kernels import DeviceImage, Resources

__all__ = ["DeviceCompiler", "find_compiler", "installed"]

_LIBRARY = {11: "libnvrtc.so.11.2", 12: "libnvrtc.so.12", 13: "libnvrtc.so.13"}

# Where packages of PyPI put library and headers, below their namespace package ``nvidia``.
_PACKAGED = {
    11: ("cuda_nvrtc/lib", ("cuda_runtime/include",)),
    12: ("cuda_nvrtc/lib", ("cuda_runtime/include",)),
    13: ("cu13/lib", ("cu13/include", "cu13/include/cccl")),
}
_INSTALL = {11: "pip install 'edgec[cuda11]'", 12: "pip install 'edgec[cuda]'", 13: "pip install 'edgec[cuda13]'"}

_REPORT = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class DeviceCompiler:
    """A found compiler.

    Attributes:
        major: Of its version.
        version: As it tells itself, e.g. ``12.9``.
        include: Folders of its headers.
    """

    major: int
    version: str
    include: tuple[Path, ...]
    _library: ctypes.CDLL

    def compile(self, source: str, architecture: Architecture, kinds: Sequence[str] = ("cubin",)) -> list[DeviceImage]:
        """Code for one architecture: a ``cubin``, and what its only kernel takes, ``ptx``, or both.

        Raises:
            EdgecError: The compiler refuses the source.
        """
        arguments = [
            f"--gpu-architecture={architecture.target}",
            "--std=c++17",
            "--ptxas-options=-v",
            *(f"--include-path={folder}" for folder in self.include),
        ]
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        try:
            log = self._compile(program, arguments)
            return [
                DeviceImage(
                    architecture.capability,
                    "ptx" if kind == "ptx" else "cubin",
                    self._text(program, kind.upper()),
                    self.version,
                    None if kind == "ptx" else _resources(log),
                )
                for kind in kinds
            ]
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _compile(self, program: ctypes.c_void_p, arguments: Sequence[str]) -> str:
        """What the compiler says."""
        given = (ctypes.c_char_p * len(arguments))(*(argument.encode() for argument in arguments))
        code = self._library.nvrtcCompileProgram(program, len(arguments), given)
        log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if code == 0:
            return log
        errors = [line for line in log.splitlines() if "error" in line]
        raise EdgecError(
            f"NVRTC {self.version} does not compile a kernel: {self._error(code)}",
            where="\n".join(errors[:8] or log.splitlines()[-8:]),
            fix="this is a bug of edgec: please report it with the model",
        )

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments: object) -> None:
        if (code := getattr(self._library, function)(*arguments)) != 0:
            raise EdgecError(f"{function} failed: {self._error(code)}")

    def _error(self, code: int) -> str:
        return str(self._library.nvrtcGetErrorString(code).decode())


def _resources(log: str) -> Resources:
    found = _REPORT.search(log)
    if found is None:
        raise EdgecError("the device compiler does not say what the kernel takes", where=log[-400:])
    number = {name: int(text or 0) for name, text in found.groupdict().items()}
    return Resources(
        registers=number["registers"],
        shared_bytes=number["shared"],
        spill_bytes=number["stores"] + number["loads"],
        stack_bytes=number["stack"],
    )


def find_compiler(architecture: Architecture) -> DeviceCompiler:
    """The best compiler on this machine for an architecture: from PyPI's packages, else of a toolkit.

    Raises:
        UnsupportedError: There is none.
    """
    for major in architecture.toolkits:
        if (compiler := _load(major)) is not None:
            return compiler
    usual = 12 if 12 in architecture.toolkits else 13
    raise UnsupportedError(
        f"there is no CUDA compiler for {architecture.target}",
        where="looked for NVRTC "
        + " and ".join(f"{major}.x" for major in architecture.toolkits)
        + " among Python's packages and in CUDA_HOME",
        fix=f"{_INSTALL[usual]}, or set CUDA_HOME to an installed toolkit",
    )


def installed() -> list[DeviceCompiler]:
    """All compilers on this machine, oldest first."""
    return [compiler for major in _LIBRARY if (compiler := _load(major)) is not None]


@cache
def _load(major: int) -> DeviceCompiler | None:
    for folder, include in _places(major):
        file = folder / _LIBRARY[major]
        if not file.is_file() or _headers_major(include) != major:
            continue
        try:
            library = ctypes.CDLL(str(file))
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        numbers = (ctypes.c_int(), ctypes.c_int())
        if library.nvrtcVersion(*map(ctypes.byref, numbers)) == 0:
            return DeviceCompiler(major, ".".join(str(n.value) for n in numbers), include, library)
    return None


def _headers_major(include: Sequence[Path]) -> int | None:
    """Of which CUDA the headers are: packages of 11 and 12 have the same folder, and the last one installed has it."""
    for folder in include:
        if (folder / "cuda_fp16.h").is_file() and (folder / "cuda_runtime_api.h").is_file():
            header = (folder / "cuda_runtime_api.h").read_text(encoding="utf-8")  # NVRTC 11.8 sets the process's locale
            version = re.search(r"#define CUDART_VERSION\s+(\d+)", header)
            return int(version[1]) // 1000 if version else None
    return None


def _places(major: int) -> list[tuple[Path, tuple[Path, ...]]]:
    """(folder of the library, folders of headers) to look at."""
    spec = find_spec("nvidia")
    roots = [Path(root) for root in spec.submodule_search_locations or ()] if spec is not None else []
    lib, include = _PACKAGED[major]
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    toolkits = [Path(folder) for folder in (*named, "/usr/local/cuda")]
    return [
        *((root / lib, tuple(root / name for name in include)) for root in roots),
        *((folder / "lib64", (folder / "include", folder / "include" / "cccl")) for folder in toolkits),
    ]
