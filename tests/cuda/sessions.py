"""Two sessions of the demo model in one process: run by test_launcher.py, with the stub driver, as a program."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

from tests.cuda.launched_numbers import BYTES, U, X, expected
from tests.targets.runtime_build import OK, Session, load, place


def run(lib: ctypes.CDLL, session: Session, x: np.ndarray, offset: int) -> tuple[int, bytes]:
    inputs = [place(BYTES, offset) for _ in range(2)]
    outputs = [place(size, offset) for size in (BYTES, 2 * BYTES, BYTES)]
    for buffer, array in zip(inputs, (x, U), strict=True):
        buffer[:] = array.reshape(-1).view(np.uint8)
    given = (ctypes.c_void_p * 2)(*(buffer.ctypes.data for buffer in inputs))
    wanted = (ctypes.c_void_p * 3)(*(buffer.ctypes.data for buffer in outputs))
    code = lib.edgec_run(session.handle, given, wanted)
    return code, b"".join(buffer.tobytes() for buffer in outputs)


def run_in_place(lib: ctypes.CDLL, session: Session, x: np.ndarray) -> bytes:
    """On the session's own memory."""
    inputs = [lib.edgec_input_buffer(session.handle, i) for i in range(2)]
    outputs = [lib.edgec_output_buffer(session.handle, i) for i in range(3)]
    for address, array in zip(inputs, (x, U), strict=True):
        ctypes.memmove(address, array.tobytes(), BYTES)
    assert lib.edgec_run(session.handle, (ctypes.c_void_p * 2)(*inputs), (ctypes.c_void_p * 3)(*outputs)) == 0
    return b"".join(map(ctypes.string_at, outputs, (BYTES, 2 * BYTES, BYTES)))


def main(library: str, params: str, *memory_is_short: str) -> None:
    lib = load(Path(library))
    with Session(lib, Path(params), threads=4, verify_params=1) as first:
        assert lib.edgec_num_threads(first.handle) == 1
        second = Session(lib, Path(params))
        if memory_is_short:
            assert second.code != OK and second.handle.value is None
            print(second.code, second.error)
        else:
            assert run(lib, second, X + 2, 1) == (OK, expected(X + 2))
            assert run_in_place(lib, second, X + 3) == expected(X + 3)
            assert run(lib, second, X, 4) == (OK, expected(X))
        for shift, offset in enumerate((0, 4, 1)):
            code, outputs = run(lib, first, X + shift, offset)
            if code == OK:
                assert outputs == expected(X + shift)
            else:
                print(code, lib.edgec_last_error().decode())
        lib.edgec_destroy(second.handle)
        lib.edgec_destroy(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
