"""Run the shared library inside this process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from edgec.bundle import Bundle, TensorInfo
from edgec.devices.protocol import advice
from edgec.errors import DeviceError

__all__ = ["InProcessRunner"]


class _Options(ctypes.Structure):
    """``edgec_options`` of edgec.h."""

    _fields_ = (
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
    )


class InProcessRunner:
    """The bundle's shared library, loaded with ctypes."""

    description = "this process"
    is_emulated = False

    def __init__(self, bundle: Bundle, threads: int, cpus: Sequence[int] = ()) -> None:
        self._bundle = bundle
        self._session = ctypes.c_void_p()
        try:
            self._library = ctypes.CDLL(str(bundle.library))
        except OSError as err:
            raise DeviceError(
                f"this machine cannot load the library of {bundle.name}", where=str(err), fix=f"target {bundle.target}"
            ) from err
        self._library.edgec_model_default.restype = ctypes.c_void_p
        self._library.edgec_session_model.restype = ctypes.c_void_p
        self._library.edgec_last_error.restype = ctypes.c_char_p
        options = _Options(struct_size=ctypes.sizeof(_Options), threads=threads)
        if cpus:
            options.cpus, options.num_cpus = (ctypes.c_int * len(cpus))(*cpus), len(cpus)
        if bundle.params.stat().st_size:
            options.params_path = str(bundle.params).encode()
        model = ctypes.c_void_p(self._library.edgec_model_default())
        self._check(self._library.edgec_create(model, ctypes.byref(options), ctypes.byref(self._session)))
        if self._library.edgec_session_model(self._session) != model.value:
            self.description = "this process, on the CPU"

    def run(self, samples: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        return [self._run_one(sample) for sample in samples]

    def _run_one(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = [_aligned_empty(info) for info in self._bundle.outputs]
        self._check(self._library.edgec_run(self._session, _pointers(inputs), _pointers(outputs)))
        return outputs

    def bind(self, inputs: Sequence[np.ndarray]) -> tuple[Callable[[], None], list[np.ndarray]]:
        """An inference on copies of these inputs in the session's own memory, page-locked for a GPU, and the outputs
        there, which each call of it overwrites. Both are gone when the runner is closed.
        """
        inputs_there = [self._buffer("input", i, array.shape, array.dtype) for i, array in enumerate(inputs)]
        for there, array in zip(inputs_there, inputs, strict=True):
            there[...] = array
        outputs = [self._buffer("output", i, o.shape, np.dtype(o.dtype)) for i, o in enumerate(self._bundle.outputs)]
        given, wanted = _pointers(inputs_there), _pointers(outputs)

        def infer() -> None:
            self._check(self._library.edgec_run(self._session, given, wanted))

        return infer, outputs

    def _buffer(self, kind: str, index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        find = self._library[f"edgec_{kind}_buffer"]
        find.restype = ctypes.c_void_p
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        memory = ctypes.cast(find(self._session, index), ctypes.POINTER(ctypes.c_uint8))
        return np.ctypeslib.as_array(memory, (size,)).view(dtype).reshape(shape)

    def _check(self, status: int) -> None:
        if status != 0:
            message = self._library.edgec_last_error().decode(errors="replace")
            where, fix = f"target {self._bundle.target}", advice(self._bundle, message)
            raise DeviceError(f"{self._bundle.name} failed: {message}", where=where, fix=fix)

    def close(self) -> None:
        self._library.edgec_destroy(self._session)
        self._session = ctypes.c_void_p()

    def __enter__(self) -> InProcessRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_ALIGNMENT = 64
"""``EDGEC_ALIGNMENT`` of edgec.h: buffers aligned to so many bytes are used in place."""


def _aligned_empty(info: TensorInfo) -> np.ndarray:
    size = int(np.prod(info.shape, dtype=np.int64)) * np.dtype(info.dtype).itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(info.dtype).reshape(info.shape)


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
