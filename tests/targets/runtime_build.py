"""Building the C runtime around the hand-written model of `runtime_model.c`, and calling the result."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "targets" / "runtime"
LIBRARY = sorted(p for p in RUNTIME.glob("*.c") if not p.name.startswith("runner") and p.name != "embedded_params.c")
RUNNER = sorted(RUNTIME.glob("runner*.c"))
MODEL = [HERE / "runtime_kernels.c", HERE / "runtime_model.c"]
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
ZIG = [sys.executable, "-m", "ziglang", "cc"]
CC = ["gcc"] if shutil.which("gcc") else ZIG

SIZE = 1003
BIAS = np.arange(SIZE, dtype=np.float32) / 4
PARAMS = bytes(64) + BIAS.tobytes()
SHA256 = hashlib.sha256(PARAMS).hexdigest()


def missing(reason: str) -> NoReturn:
    """A skipped test on a developer's machine, a failed one in CI, which has the tools."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def cc(*arguments: str | Path, compiler: list[str] = CC) -> None:
    command = [*compiler, *STRICT, f"-I{RUNTIME}", f'-DPARAMS_SHA256="{SHA256}"', *map(str, arguments), "-pthread"]
    # zig keeps the C library it built per working directory: the same one each time saves building it again.
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    assert not done.stderr, done.stderr


def embed(params: Path) -> list[str | Path]:
    return [
        RUNTIME / "embedded_params.c",
        f'-DEDGEC_PARAMS_FILE="{params}"',
        f"-DEDGEC_PARAMS_SHA256={SHA256}",
    ]


def place(size: int, offset: int) -> np.ndarray:
    room = np.full(size + 128 + offset, 0xEE, np.uint8)
    start = -room.ctypes.data % 64 + offset
    return room[start : start + size]


def expected(x: np.ndarray) -> np.ndarray:
    return (2 * x + BIAS)[::-1]


X = np.linspace(-3, 5, SIZE, dtype=np.float32)


OK, INVALID, NO_MEMORY, BAD_PARAMS, BAD_CPU, KERNEL, THREADS, BUSY = range(8)


class TensorInfo(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("size_bytes", ctypes.c_size_t),
    ]


class Model(ctypes.Structure):
    _fields_ = [
        ("abi_version", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("num_inputs", ctypes.c_int),
        ("inputs", ctypes.POINTER(TensorInfo)),
        ("num_outputs", ctypes.c_int),
        ("outputs", ctypes.POINTER(TensorInfo)),
        ("arena_size_bytes", ctypes.c_size_t),
        ("params_size_bytes", ctypes.c_size_t),
        ("params_sha256", ctypes.c_char_p),
        ("num_kernels", ctypes.c_int),
        ("kernel_names", ctypes.POINTER(ctypes.c_char_p)),
        ("run", ctypes.c_void_p),
        ("cpu_features_required", ctypes.POINTER(ctypes.c_char_p)),
        ("backend", ctypes.c_void_p),
        ("program", ctypes.c_void_p),
        ("fallback", ctypes.c_void_p),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("threads", ctypes.c_int),
        ("cpus", ctypes.POINTER(ctypes.c_int)),
        ("num_cpus", ctypes.c_int),
        ("pin_caller", ctypes.c_int),
        ("spin_us", ctypes.c_int),
        ("verify_params", ctypes.c_int),
        ("params", ctypes.c_void_p),
        ("params_size", ctypes.c_size_t),
        ("params_path", ctypes.c_char_p),
    ]


def load(path: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(path))
    lib.edgec_model_default.restype = ctypes.POINTER(Model)
    lib.edgec_last_error.restype = ctypes.c_char_p
    for name, count in {"run": 3, "destroy": 1, "set_profiler": 3, "num_threads": 1, "worker_cpus": 2}.items():
        getattr(lib, f"edgec_{name}").argtypes = [ctypes.c_void_p] * count
    for find in (lib.edgec_input_buffer, lib.edgec_output_buffer):
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]
    return lib


class Session:
    """Owns one session of the shared library; `code` and `error` say how its creation went."""

    def __init__(self, lib: ctypes.CDLL, path: Path | None, model: Model | None = None, **options: object) -> None:
        self.lib, self.handle = lib, ctypes.c_void_p()
        settings = Options(ctypes.sizeof(Options), params_path=None if path is None else os.fsencode(path))
        for key, value in options.items():
            setattr(settings, key, value)
        model = model or lib.edgec_model_default().contents
        self.code = lib.edgec_create(ctypes.byref(model), ctypes.byref(settings), ctypes.byref(self.handle))
        self.error = lib.edgec_last_error().decode()

    def __enter__(self) -> Session:
        assert self.code == OK, self.error
        return self

    def __exit__(self, *exc: object) -> None:
        self.lib.edgec_destroy(self.handle)

    def run(self, x: np.ndarray, mode: int = 0, offset: int = 0) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """`offset` bytes from an aligned address is where every tensor lies."""
        source, mode_at, y, counts, data = (place(n, offset) for n in (4 * SIZE, 4, 4 * SIZE, 64, 77))
        source[:], mode_at[:] = x.view(np.uint8), np.array([mode], np.int32).view(np.uint8)
        inputs = (ctypes.c_void_p * 2)(source.ctypes.data, mode_at.ctypes.data)
        outputs = (ctypes.c_void_p * 3)(y.ctypes.data, counts.ctypes.data, data.ctypes.data)
        code = self.lib.edgec_run(self.handle, inputs, outputs)
        return code, y.copy().view(np.float32), counts.copy().view(np.int32), data
