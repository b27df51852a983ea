"""The C runtime: a hand-written model is built in every way the compiler links one, and driven."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import platform
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.targets.runtime_build import (
    BAD_CPU,
    BAD_PARAMS,
    HERE,
    INVALID,
    KERNEL,
    LIBRARY,
    MODEL,
    NO_MEMORY,
    OK,
    PARAMS,
    RUNTIME,
    SHA256,
    SIZE,
    THREADS,
    Model,
    Session,
    X,
    cc,
    expected,
    load,
    missing,
    place,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runtime is for Linux")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    (folder / "params").write_bytes(PARAMS)
    (folder / "exports.map").write_text("{ global: edgec_*; local: *; };\n")
    return folder


@pytest.fixture(scope="module")
def params(build: Path) -> Path:
    return build / "params"


@pytest.fixture(scope="module")
def library(build: Path) -> Path:
    path = build / "libfake.so"
    export = f"-Wl,--version-script={build / 'exports.map'}"
    cc("-shared", "-fPIC", "-fvisibility=hidden", export, *MODEL, *LIBRARY, "-o", path)
    return path


@pytest.fixture(scope="module")
def lib(library: Path) -> ctypes.CDLL:
    return load(library)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("offset", [0, 4, 1])
def test_values(lib: ctypes.CDLL, params: Path, threads: int, offset: int) -> None:
    with Session(lib, params, threads=threads, verify_params=1) as session:
        assert lib.edgec_num_threads(session.handle) == threads
        for shift in range(3):
            code, y, counts, data = session.run(X + shift, offset=offset)
            assert code == OK
            np.testing.assert_array_equal(y, expected(X + shift))
            np.testing.assert_array_equal(counts, [*range(9, 1109, 100), -1, -1, -1, -1, threads])
            np.testing.assert_array_equal(data, np.arange(77))


def test_memory_of_the_session(lib: ctypes.CDLL, params: Path) -> None:
    """It is used in place, beside buffers of the application's that are copied, and ends nowhere too early."""
    with Session(lib, params, threads=2) as session:
        given = [lib.edgec_input_buffer(session.handle, i) for i in range(2)]
        wanted = [lib.edgec_output_buffer(session.handle, i) for i in range(3)]
        assert len({*given, *wanted}) == 5 and all(address % 64 == 0 for address in (*given, *wanted))
        inputs, outputs = (ctypes.c_void_p * 2)(*given), (ctypes.c_void_p * 3)(*wanted)
        ctypes.memset(given[1], 0, 4)
        for shift in (0, 1):
            ctypes.memmove(given[0], (X + shift).tobytes(), 4 * SIZE)
            assert lib.edgec_run(session.handle, inputs, outputs) == OK
            found = np.frombuffer(ctypes.string_at(wanted[0], 4 * SIZE), np.float32)
            np.testing.assert_array_equal(found, expected(X + shift))
            assert ctypes.string_at(wanted[2], 77) == bytes(range(77))
        x, y = place(4 * SIZE, 1), place(4 * SIZE, 4)
        x[:] = (X + 5).view(np.uint8)
        inputs[0], outputs[0] = x.ctypes.data, y.ctypes.data
        assert lib.edgec_run(session.handle, inputs, outputs) == OK
        np.testing.assert_array_equal(y.view(np.float32), expected(X + 5))
        for index in (-1, 2, 3):
            assert lib.edgec_input_buffer(session.handle, index) is None
        assert lib.edgec_output_buffer(session.handle, 3) is None and lib.edgec_output_buffer(None, 0) is None


def test_thousands_of_runs(lib: ctypes.CDLL, params: Path) -> None:
    inputs, outputs = (ctypes.c_void_p * 2)(), (ctypes.c_void_p * 3)()
    x, mode, y, counts, data = (place(n, 0) for n in (4 * SIZE, 4, 4 * SIZE, 64, 77))
    mode[:] = 0
    inputs[:], outputs[:] = (x.ctypes.data, mode.ctypes.data), (y.ctypes.data, counts.ctypes.data, data.ctypes.data)
    for spin_us in (0, -1):
        with Session(lib, params, threads=2, spin_us=spin_us) as session:
            for run in range(2000):
                x[:] = (X + run).view(np.uint8)
                assert lib.edgec_run(session.handle, inputs, outputs) == OK
                assert np.array_equal(y.view(np.float32), expected(X + run))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (1, "code -1"),
        (2, "code -3"),
        (3, f"code -1: no memory for a workspace of {2**61} bytes"),
        (4, "code -1: ValueError: argument 0 has shape (2,)"),
    ],
)
def test_kernel_failure_is_named(lib: ctypes.CDLL, params: Path, threads: int, mode: int, reason: str) -> None:
    with Session(lib, params, threads=threads) as session:
        for _ in range(12):  # more often than a worker has workspaces: a failing kernel frees none
            assert session.run(X, mode)[0] == KERNEL
        assert lib.edgec_last_error().decode() == f"model 'fake': kernel 3 ('fake_obey') failed with {reason}"
        code, y, _, _ = session.run(X)
        assert code == OK
        np.testing.assert_array_equal(y, expected(X))


def test_options_are_checked(lib: ctypes.CDLL, params: Path) -> None:
    cpus = (ctypes.c_int * 2)(0, 0)
    for options, text in [
        ({"threads": -1}, "options.threads is -1; it must be 0 to 256"),
        ({"threads": 2**31 - 1}, "it must be 0 to 256"),
        ({"struct_size": 0}, "options.struct_size is 0; set it to sizeof(edgec_options), 56"),
        ({"threads": 3, "cpus": cpus, "num_cpus": 2}, "options.cpus lists 2 CPUs for 3 threads"),
        ({"num_cpus": 2}, "options.cpus and options.num_cpus (2) disagree"),
        ({"params": 64}, "options.params and options.params_path are both set"),
    ]:
        session = Session(lib, params, **options)
        assert (session.code, session.handle.value) == (INVALID, None)
        assert text in session.error
    pinned = Session(lib, params, threads=2, cpus=(ctypes.c_int * 2)(0, 8190), num_cpus=2)
    assert pinned.code == THREADS
    assert pinned.error == "cannot pin worker 1 to CPU 8190: Invalid argument"


def test_model_is_checked(lib: ctypes.CDLL, params: Path) -> None:
    model = Model.from_buffer_copy(lib.edgec_model_default().contents)
    model.abi_version = 99
    session = Session(lib, params, model)
    assert session.code == INVALID
    assert "generated for runtime ABI 99, this runtime has ABI 3" in session.error
    model = Model.from_buffer_copy(lib.edgec_model_default().contents)
    model.arena_size_bytes = 2**62
    session = Session(lib, params, model)
    assert session.code == NO_MEMORY
    assert f"cannot allocate an arena of {2**62}" in session.error
    assert lib.edgec_create(None, None, ctypes.byref(session.handle)) == INVALID
    assert lib.edgec_run(None, None, None) == INVALID
    lib.edgec_destroy(None)
    with Session(lib, params) as good:
        assert lib.edgec_run(good.handle, None, None) == INVALID
        assert lib.edgec_last_error() == b"inputs is NULL"
        assert lib.edgec_run(good.handle, (ctypes.c_void_p * 2)(64, None), (ctypes.c_void_p * 3)()) == INVALID
        assert lib.edgec_last_error() == b"input 1 ('mode') is NULL"


def test_params(lib: ctypes.CDLL, tmp_path: Path) -> None:
    none = Session(lib, None)
    assert (none.code, none.error[:44]) == (BAD_PARAMS, "model 'fake' needs 4076 bytes of parameters ")
    path = tmp_path / "p"
    absent = Session(lib, path)
    assert absent.code == BAD_PARAMS
    assert absent.error == f"{path}: cannot open the parameters of model 'fake': No such file or directory"
    assert "must be a regular file" in Session(lib, tmp_path).error
    for content in (b"", PARAMS[:-1], PARAMS + b"x"):
        path.write_bytes(content)
        wrong = Session(lib, path)
        assert wrong.code == BAD_PARAMS
        assert wrong.error.endswith(f"parameters of model 'fake' have {len(content)} bytes, expected 4076")
    path.write_bytes(PARAMS[:-1] + b"x")
    corrupt = Session(lib, path, verify_params=1)
    assert corrupt.code == BAD_PARAMS
    assert corrupt.error.endswith(f"expected {SHA256}")
    with Session(lib, path):
        pass  # the hash costs time, so it is compared on request only

    memory = place(len(PARAMS), 0)
    memory[:] = np.frombuffer(PARAMS, np.uint8)
    with Session(lib, None, params=memory.ctypes.data, params_size=len(PARAMS), verify_params=1) as session:
        np.testing.assert_array_equal(session.run(X)[1], expected(X))
    shifted = Session(lib, None, params=memory.ctypes.data + 4, params_size=len(PARAMS))
    assert shifted.code == INVALID
    assert "are not aligned to 64 bytes" in shifted.error


def test_cpu_features(lib: ctypes.CDLL, params: Path) -> None:
    def create(*names: bytes) -> Session:
        model = Model.from_buffer_copy(lib.edgec_model_default().contents)
        model.cpu_features_required = (ctypes.c_char_p * (len(names) + 1))(*names, None)
        session = Session(lib, params, model)
        lib.edgec_destroy(session.handle)
        return session

    unknown = create(b"avx9000")
    assert unknown.code == BAD_CPU
    assert unknown.error.startswith("model 'fake' requires CPU feature 'avx9000', which this runtime does not know")
    if platform.machine() != "x86_64":
        return
    present = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].splitlines()[0].split())
    kernel_name = {"sse4.1": "sse4_1", "sse4.2": "sse4_2", "bmi": "bmi1", "lzcnt": "abm", "avxvnni": "avx_vnni"}
    kernel_name |= {f"avx512{x}": f"avx512_{x}" for x in ("vnni", "bf16", "fp16")}
    names = "ssse3 sse4.1 sse4.2 cx16 popcnt lzcnt movbe bmi bmi2 avx f16c fma avx2 avxvnni avx512f avx512dq avx512cd "
    names += "avx512bw avx512vl avx512ifma avx512vbmi avx512vnni avx512fp16 avx512bf16"
    for name in names.split():
        session = create(b"ssse3", name.encode())
        has = kernel_name.get(name, name) in present
        assert session.code == (OK if has else BAD_CPU), name
        assert has or f"feature '{name}', which this CPU or its operating system lacks" in session.error


def test_profiler_and_cpus(lib: ctypes.CDLL, params: Path) -> None:
    seen: list[tuple[int, bytes]] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint64)(
        lambda _user, index, name, _ns: seen.append((index, name))
    )
    cpu = min(os.sched_getaffinity(0))
    with Session(lib, params, threads=2, cpus=(ctypes.c_int * 2)(cpu, cpu), num_cpus=2) as session:
        assert lib.edgec_set_profiler(session.handle, callback, None) == OK
        session.run(X)
        assert lib.edgec_set_profiler(session.handle, None, None) == OK
        session.run(X)
        cpus = (ctypes.c_int * 2)()
        assert lib.edgec_worker_cpus(session.handle, cpus) == OK
    assert seen == [(0, b"fake_scale_add"), (1, b"fake_count"), (2, b"fake_reverse"), (3, b"fake_obey")]
    assert cpus[1] == cpu


def test_sessions_in_threads_are_independent(lib: ctypes.CDLL, params: Path) -> None:
    problems: list[str] = []

    def drive(shift: int) -> None:
        with Session(lib, params, threads=2) as session:
            for run in range(200):
                fails = run % 5 == shift
                code, y, _, _ = session.run(X + shift, mode=int(fails))
                if code != (KERNEL if fails else OK) or not (fails or np.array_equal(y, expected(X + shift))):
                    problems.append(f"thread {shift} run {run}: {code}")

    workers = [threading.Thread(target=drive, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems


def test_load_and_unload_leaves_nothing(library: Path, params: Path) -> None:
    def count(what: str) -> int:
        return sum(1 for _ in Path(f"/proc/self/{what}").iterdir())

    def once(copy: Path) -> None:
        lib = load(copy)
        with Session(lib, params, threads=3) as session:
            assert session.run(X)[0] == OK
        _ctypes.dlclose(lib._handle)

    copy = library.with_name("libunload.so")  # the other tests hold the first one open
    shutil.copy(library, copy)
    threads, files = count("task"), count("fd")
    for _ in range(20):
        once(copy)
    assert copy.name not in Path("/proc/self/maps").read_text()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        once(copy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048
    deadline = time.monotonic() + 5  # a thread that was joined stays in the list for a moment
    while count("task") > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count("task") <= threads
    assert count("fd") == files


def dynamic_names(path: Path) -> tuple[set[str], set[str]]:
    """Needed libraries and exported symbols of a little-endian 64-bit ELF file."""
    data = path.read_bytes()
    table, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
    needed, exported = set(), set()
    for _, kind, _, _, offset, size, link, *_ in sections:

        def name(at: int, strings: int = sections[link][4]) -> str:
            return data[strings + at : data.index(b"\0", strings + at)].decode()

        if kind == 6:  # SHT_DYNAMIC
            entries = (struct.unpack_from("<qQ", data, offset + i) for i in range(0, size, 16))
            needed |= {name(value) for tag, value in entries if tag == 1}
        elif kind == 11:  # SHT_DYNSYM
            symbols = (struct.unpack_from("<IBBHQQ", data, offset + i) for i in range(24, size, 24))
            exported |= {name(at) for at, _, _, section, _, _ in symbols if section != 0}
    return needed, exported


def test_shared_library_needs_only_libc_and_exports_only_the_interface(library: Path) -> None:
    needed, exported = dynamic_names(library)
    assert {n.split(".")[0] for n in needed} <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    functions = {
        word.split("(")[0] for word in (RUNTIME / "edgec.h").read_text().replace("*", "").split() if "(" in word
    }
    assert exported == {f for f in functions if f.startswith("edgec_")} - {"edgec_options)", "edgec_profiler"}
    assert "edgec_run" in exported


def test_header_is_cpp(build: Path) -> None:
    source = build / "header.cpp"
    source.write_text(
        '#include "edgec.h"\nint main() { return edgec_create(edgec_model_default(), nullptr, nullptr); }\n'
    )
    if not shutil.which("g++"):
        pytest.skip("needs g++; zig would first build its C++ library, for minutes")
    command = [
        "g++",
        "-std=c++11",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        f"-I{RUNTIME}",
        "-fsyntax-only",
        source,
    ]
    subprocess.run(command, check=True)


def stress(path: Path, *arguments: str) -> str:
    environment = os.environ | {
        "TSAN_OPTIONS": "allocator_may_return_null=1:halt_on_error=1",
        "ASAN_OPTIONS": "allocator_may_return_null=1",
    }
    command: list[str | Path] = [path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    if "unexpected memory mapping" in done.stderr:  # gcc < 14 with more than 28 random bits in addresses
        done = subprocess.run(["setarch", "-R", *command], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_static_library(build: Path) -> None:
    """The kernels come first in the archive, so their weak definitions are met before the runtime's."""
    objects = []
    for source in [*MODEL, *LIBRARY]:
        objects.append(build / f"{source.stem}.static.o")
        cc("-c", "-DEDGEC_STATIC_LIBRARY", source, "-o", objects[-1])
    archiver = ["ar"] if shutil.which("ar") else [sys.executable, "-m", "ziglang", "ar"]
    subprocess.run([*archiver, "rcs", build / "libfake.a", *objects], check=True)
    cc(HERE / "runtime_stress.c", build / "libfake.a", "-o", build / "stress")
    assert stress(build / "stress", "500", "2").startswith("errors 0,")


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_sanitizers(build: Path, sanitizer: str) -> None:
    if not shutil.which("gcc"):
        pytest.skip("sanitizers need gcc")
    probe = build / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g"]
    if subprocess.run(["gcc", *flags, probe, "-o", build / "probe"], capture_output=True).returncode != 0:
        missing(f"gcc has no -fsanitize={sanitizer}")
    path = build / f"stress-{sanitizer}"
    cc(*flags, "-DEDGEC_STATIC_LIBRARY", *MODEL, *LIBRARY, HERE / "runtime_stress.c", "-o", path, compiler=["gcc"])
    for threads in ("2", "3"):
        assert stress(path, "300", threads).startswith("errors 0,")
