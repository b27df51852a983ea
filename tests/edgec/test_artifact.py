"""The files inside a bundle: what they need on the device, what they export, and that they work alone."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.bundle import Bundle
from tests.edgec.elf import EM_AARCH64, EM_X86_64, PT_INTERP, ElfFile
from tests.edgec.tiny import FEATURES, tiny_inputs

MACHINES = {"x86_64": EM_X86_64, "aarch64": EM_AARCH64}
LIBC = re.compile(r"(libc|libm|libpthread|ld-linux[\w-]*)\.so\.\d+")


@pytest.fixture(scope="module")
def bundle(native: Path) -> Bundle:
    return edgec.load(native)


@pytest.mark.parametrize("target", ["native", "rk3588"])
def test_the_library_needs_libc_only(target: str, tiny_bundle: Callable[[str], Path]) -> None:
    loaded = edgec.load(tiny_bundle(target))
    library = ElfFile.read(loaded.library)
    assert library.machine == MACHINES[loaded.arch]
    assert library.needed, "a library that needs no libc is not what was meant to be read"
    assert [name for name in library.needed if not LIBC.fullmatch(name)] == []
    exported = library.exported()
    assert {"edgec_create", "edgec_run", "edgec_destroy", "edgec_last_error", "edgec_model_default"} <= exported
    assert [name for name in exported if not name.startswith("edgec_")] == []


def test_the_runner_of_a_board_is_a_static_executable(tiny_bundle: Callable[[str], Path]) -> None:
    loaded = edgec.load(tiny_bundle("rk3588"))
    runner = ElfFile.read(loaded.runner)
    assert runner.machine == MACHINES[loaded.arch]
    assert PT_INTERP not in runner.segment_types
    assert runner.needed == []


def test_the_runner_of_this_machine_needs_libc_only(bundle: Bundle) -> None:
    runner = ElfFile.read(bundle.runner)
    assert runner.machine == MACHINES[bundle.arch]
    assert runner.needed
    assert [name for name in runner.needed if not LIBC.fullmatch(name)] == []


def test_the_elf_reader_sees_what_is_there() -> None:
    """The tests above would pass on a reader that finds nothing."""
    python = ElfFile.read(Path(sys.executable).resolve())
    assert PT_INTERP in python.segment_types
    assert any(name.startswith("libc.so") for name in python.needed)
    assert python.machine == MACHINES[platform.machine()]


def expected_bytes(bundle: Bundle) -> bytes:
    outputs = bundle.run(tiny_inputs())
    return b"".join(outputs[info.name].tobytes() for info in bundle.outputs)


def test_the_runner_works_alone(bundle: Bundle, tmp_path: Path) -> None:
    """Copied into an empty folder, without environment: code and parameters are inside."""
    folder = tmp_path / "board with spaces"
    folder.mkdir()
    shutil.copy(bundle.runner, folder / "runner")
    (folder / "in.bin").write_bytes(b"".join(array.tobytes() for array in tiny_inputs().values()))
    command = ["./runner", "run", "--input", "in.bin", "--output", "out.bin", "--samples", "1"]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(
        np.frombuffer((folder / "out.bin").read_bytes(), np.float32),
        np.frombuffer(expected_bytes(bundle), np.float32),
        rtol=1e-5,
        atol=1e-6,
    )


PROGRAM = """
#include <stdio.h>
#include "tiny.h"
static float image[192], shift[256], logits[5], features[256];
int main(int argc, char **argv) {
    if (argc != 2 || fread(image, 4, 192, stdin) != 192 || fread(shift, 4, 256, stdin) != 256) return 10;
    const edgec_options options = {.struct_size = sizeof options, .threads = 2, .params_path = argv[1]};
    edgec_session *session;
    if (edgec_create(MODEL, &options, &session)) return fprintf(stderr, "%s", edgec_last_error()), 11;
    const void *inputs[] = {image, shift};
    void *outputs[] = {logits, features};
    if (edgec_run(session, inputs, outputs)) return 12;
    edgec_destroy(session);
    return fwrite(logits, 4, 5, stdout) != 5 || fwrite(features, 4, 256, stdout) != 256;
}
"""


@pytest.mark.parametrize(("kind", "model"), [("a", "&edgec_model_tiny"), ("so", "edgec_model_default()")])
def test_a_c_program_links_with_the_library(kind: str, model: str, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    library = bundle.library.with_suffix(f".{kind}")
    flags = [
        "-std=c11",
        f"-DMODEL={model}",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-I",
        str(library.parent),
        "-Wl,-rpath," + str(library.parent),
    ]
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.2.27"]
    program = str(tmp_path / "main")
    command = [*zig, *flags, str(tmp_path / "main.c"), str(library), "-lm", "-lpthread", "-o", program]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given = b"".join(array.tobytes() for array in tiny_inputs().values())
    ran = subprocess.run([program, str(bundle.params)], input=given, capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout == expected_bytes(bundle)


def test_two_sessions_of_one_library(bundle: Bundle) -> None:
    """Two models in one process, and the same one twice, keep apart."""
    library = ctypes.CDLL(str(bundle.library))
    assert library.edgec_model_default is not None
    first, second = tiny_inputs(1), tiny_inputs(2)
    from edgec.devices import open_runner
    from edgec.devices.samples import ordered_inputs

    with open_runner(bundle) as a, open_runner(bundle, threads=2) as b:
        one = a.run([ordered_inputs(bundle, first)])[0]
        two = b.run([ordered_inputs(bundle, second)])[0]
        again = a.run([ordered_inputs(bundle, first)])[0]
    assert one[1].shape == FEATURES
    assert not np.array_equal(one[1], two[1])
    for before, after in zip(one, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_driver_is_there_to_read(bundle: Bundle) -> None:
    text = (bundle.folder / "lib" / "model.c").read_text()
    assert text.startswith("/* tiny: generated by edgec. ")
    assert str(bundle.folder) not in text
    assert "EDGEC_STEP" in text
