"""The GPU launcher against a driver without a GPU: what it computes, which calls it makes, and how it fails."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgec.devices.selection import host_arch
from edgec.targets.cuda.program import device_program
from edgec.targets.link import Program, link_runner
from edgec.targets.lowering.plan import KernelCall, Place, PlacedBuffer, Plan, TensorSpec
from edgec.targets.profile import load_profile
from tests.cuda import launched_model
from tests.cuda.launched_numbers import PARAMS, SAMPLE, U, X, expected
from tests.cuda.stub_driver import Outcome, build_stub, compile_library, run_program
from tests.edgec.elf import ElfFile
from tests.targets.runtime_build import LIBRARY, RUNNER, RUNTIME, cc, embed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the runtime is for Linux")

HERE = Path(__file__).parent
LAUNCH_FAILED = 719
RELEASES = {
    "cuMemFree_v2",
    "cuMemFreeHost",
    "cuModuleUnload",
    "cuEventDestroy_v2",
    "cuStreamDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuCtxPopCurrent_v2",
    "cuDevicePrimaryCtxRelease_v2",
}


@dataclass(frozen=True)
class Built:
    """A runner for one architecture, with a driver and emulated kernels."""

    arch: str
    runner: Path
    stub: Path
    kernels: Path

    def call(self, tmp_path: Path, *arguments: object, runner: Path | None = None, **environment: object) -> Outcome:
        command = [runner or self.runner, *arguments]
        return run_program(command, self.arch, self.stub, tmp_path / "log", kernels=self.kernels, **environment)

    def run(self, tmp_path: Path, runner: Path | None = None, **environment: object) -> tuple[Outcome, bytes]:
        """Two samples; the outputs are empty where it failed."""
        (tmp_path / "in").write_bytes(SAMPLE + (X + 1).tobytes() + U.tobytes())
        (tmp_path / "out").unlink(missing_ok=True)
        outcome = self.call(
            tmp_path, "run", "--input", tmp_path / "in", "--output", tmp_path / "out", runner=runner, **environment
        )
        return outcome, (tmp_path / "out").read_bytes() if outcome.code == 0 else b""


RESULT = expected() + expected(X + 1)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    root, made = tmp_path_factory.mktemp("launcher"), {}

    def make(arch: str) -> Built:
        if arch not in made:
            folder = root / arch
            runner = launched_model.build(folder, arch)
            kernels = compile_library([HERE / "emulated_kernels.c"], folder / "kernels.so", arch)
            made[arch] = Built(arch, runner, build_stub(folder / "stub", arch), kernels)
        return made[arch]

    return make


@pytest.fixture(scope="module", params=dict.fromkeys((host_arch(), "aarch64")))
def built(request: pytest.FixtureRequest, build: Callable[[str], Built]) -> Built:
    return build(request.param)


@pytest.fixture(scope="module")
def native(build: Callable[[str], Built]) -> Built:
    return build(host_arch())


@pytest.fixture(scope="module")
def sanitized(native: Built) -> Path:
    """The native runner again, with what gcc finds of errors in the use of memory; as it is where there is no gcc."""
    if shutil.which("gcc") is None:
        return native.runner
    folder = native.runner.parent
    path, build = folder / "sanitized", folder / "build"
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g"]
    sources = [build / "runner_model.c", build / "runner_images" / "device_images.c", *RUNTIME.glob("cuda/*.c")]
    cc(*flags, *sources, *LIBRARY, *RUNNER, *embed(build / "params.bin"), "-ldl", "-o", path)
    return path


OPENING = """\
cuInit flags=0
cuDeviceGet ordinal=0
cuDeviceGetAttribute attribute=75 device=0
cuDeviceGetAttribute attribute=76 device=0
cuDeviceGetAttribute attribute=18 device=0
cuDevicePrimaryCtxRetain device=0
cuCtxPushCurrent_v2 context=1
cuStreamCreate flags=1
cuEventCreate flags=0
cuEventCreate flags=0
cuModuleLoadDataEx image=text_87
cuModuleGetFunction module=1 name=affine
cuFuncSetAttribute function=affine attribute=8 value=65536
cuModuleGetFunction module=1 name=add
cuMemGetInfo_v2
cuMemAlloc_v2 bytes=332
cuMemAlloc_v2 bytes=1792
cuMemHostAlloc bytes=1536 flags=0
cuMemcpyHtoDAsync_v2 d1+0 pageable bytes=332
cuStreamSynchronize
""".splitlines()
"""d1 are the parameters; d2 the arena of 204 bytes, x at 256, u at 512, y at 768, w at 1024 and copy at 1536."""

STEPS = """\
cuLaunchKernel affine grid=2,1,1 block=32,1,1 shared=65536 arguments=d1+0,d2+256,d1+192,d2+64
cuLaunchKernel add grid=3,2,1 block=4,2,1 shared=0 arguments=d2+64,d2+512,d2+768
cuLaunchKernel add grid=3,2,1 block=4,2,1 shared=0 arguments=d2+768,d2+64,d2+1024
cuLaunchKernel affine grid=2,1,1 block=32,1,1 shared=65536 arguments=d1+0,d2+512,d1+192,d2+1164
cuMemcpyDtoDAsync_v2 d2+1536 d2+768 bytes=140
""".splitlines()
UPLOAD, DOWNLOAD = "cuMemcpyHtoDAsync_v2 d2+256 h1+0 bytes=512", "cuMemcpyDtoHAsync_v2 h1+512 d2+768 bytes=1024"
CAPTURE = ["cuStreamBeginCapture_v2 mode=1", UPLOAD, *STEPS, DOWNLOAD, "cuStreamEndCapture"]
CAPTURE += ["cuGraphInstantiateWithFlags flags=0", "cuGraphDestroy", "cuCtxPopCurrent_v2 depth=1"]
REPLAY = ["cuCtxPushCurrent_v2 context=1", "cuGraphLaunch nodes=7", "cuStreamSynchronize", "cuCtxPopCurrent_v2 depth=1"]
CLOSING = """\
cuCtxPushCurrent_v2 context=1
cuGraphExecDestroy
cuMemFreeHost h1+0
cuMemFree_v2 d2+0
cuMemFree_v2 d1+0
cuModuleUnload module=1
cuEventDestroy_v2 event=2
cuEventDestroy_v2 event=1
cuStreamDestroy_v2
cuCtxPopCurrent_v2 depth=1
cuDevicePrimaryCtxRelease_v2 device=0
""".splitlines()


def test_runner_computes_by_the_planned_calls(built: Built, tmp_path: Path) -> None:
    outcome, result = built.run(tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert result == RESULT
    made = [f"{call.name} {call.arguments}".strip() for call in outcome.calls]
    assert made == OPENING + CAPTURE + 2 * REPLAY + CLOSING
    assert {call.result for call in outcome.calls} == {0}
    outcome.assert_clean()


def test_each_failing_call_is_reported_and_leaks_nothing(native: Built, sanitized: Path, tmp_path: Path) -> None:
    good, _ = native.run(tmp_path, sanitized)
    last_push = good.names.count("cuCtxPushCurrent_v2")
    seen: dict[str, int] = {}
    for name in good.names:
        seen[name] = seen.get(name, 0) + 1
        outcome, result = native.run(tmp_path, sanitized, fail=f"{name}:{seen[name]}={LAUNCH_FAILED}")
        where = f"{name} {seen[name]}\n{outcome.err}\n{outcome.log}"
        assert [call.result for call in outcome.calls].count(LAUNCH_FAILED) == 1, where
        if name in RELEASES:
            assert (outcome.code, outcome.err, result) == (0, "", RESULT), where
        elif (name, seen[name]) == ("cuCtxPushCurrent_v2", last_push):
            # Without a context nothing can be given back; the end of the context frees it.
            assert (outcome.code, outcome.err, outcome.names[-1]) == (0, "", "cuDevicePrimaryCtxRelease_v2"), where
            continue
        else:
            plain = name.removesuffix("_v2")
            assert outcome.code == 6, where
            pattern = (
                rf"edgec-runner: error: model 'demo': {plain} failed.* with CUDA_ERROR_LAUNCH_FAILED \(719\): .*\n"
            )
            assert re.fullmatch(pattern, outcome.err), where
            if name in ("cuLaunchKernel", "cuModuleLoadDataEx", "cuModuleGetFunction", "cuFuncSetAttribute"):
                assert re.search("for kernel '(affine|add|add_too)'", outcome.err), where
        outcome.assert_clean()
    assert len(seen) == 31


def test_failures_are_reported_on_the_board(built: Built, tmp_path: Path) -> None:
    for call in ("cuInit:1=100", "cuMemAlloc_v2:2=2", "cuLaunchKernel:3=719", "cuGraphLaunch:2=700"):
        outcome, _ = built.run(tmp_path, fail=call)
        assert outcome.code == 6
        assert call.split(":")[0].removesuffix("_v2") + " failed" in outcome.err
        outcome.assert_clean()


@pytest.mark.parametrize("code", [801, 900])
def test_without_graphs_kernels_are_launched_one_by_one(native: Built, tmp_path: Path, code: int) -> None:
    outcome, result = native.run(tmp_path, fail=f"cuStreamBeginCapture_v2:1={code}")
    assert (outcome.code, outcome.err, result) == (0, "", RESULT)
    made = [f"{call.name} {call.arguments}" for call in outcome.calls]
    assert [line for line in made if line in STEPS] == STEPS * 2
    assert "cuGraphLaunch" not in outcome.names
    outcome.assert_clean()


def test_driver_of_cuda_10(native: Built, tmp_path: Path) -> None:
    old = build_stub(tmp_path / "old", native.arch, "-DSTUB_CUDA_10")
    outcome, result = Built(native.arch, native.runner, old, native.kernels).run(tmp_path)
    assert (outcome.code, outcome.err, result) == (0, "", RESULT)
    assert {"cuGraphInstantiate", "cuDevicePrimaryCtxRelease"} <= set(outcome.names)
    outcome.assert_clean()


def test_shared_memory_is_used_in_place_where_that_is_faster(built: Built, tmp_path: Path) -> None:
    outcome, result = built.run(tmp_path, integrated=1, slow_copies=1)
    assert (outcome.code, outcome.err, result) == (0, "", RESULT)
    launches = [call.arguments for call in outcome.calls if call.name == "cuGraphLaunch"]
    assert launches == ["nodes=5"] * 6 + ["nodes=7"] * 6 + ["nodes=5"] * 2  # a warm-up and 5 trials each, then the runs
    kernels = [call.arguments for call in outcome.calls if call.name == "cuLaunchKernel"]
    assert kernels[-1].endswith("arguments=d1+0,h1+256,d1+192,h1+908")
    outcome.assert_clean()
    for code in (2, LAUNCH_FAILED):
        for call in ("cuMemHostAlloc:1", "cuMemHostGetDevicePointer_v2:1", "cuGraphLaunch:3", "cuGraphLaunch:9"):
            outcome, _ = built.run(tmp_path, integrated=1, fail=f"{call}={code}")
            assert outcome.code == 6
            outcome.assert_clean()


def test_profile_times_each_kernel(native: Built, sanitized: Path, tmp_path: Path) -> None:
    outcome = native.call(tmp_path, "profile", "--runs", 2, runner=sanitized)
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert report["threads"] == 1
    assert [kernel["name"] for kernel in report["kernels"]] == ["affine", "add", "add_too", "affine", "copy_output"]
    assert all(kernel["min_ns"] > 0 for kernel in report["kernels"])
    assert outcome.names.count("cuEventElapsedTime") == 10
    outcome.assert_clean()
    for name in ("cuEventRecord:2", "cuEventSynchronize:3", "cuEventElapsedTime:1", "cuLaunchKernel:6"):
        outcome = native.call(tmp_path, "profile", "--runs", 2, runner=sanitized, fail=f"{name}={LAUNCH_FAILED}")
        assert outcome.code == 6
        assert re.search(r"for kernel '\w+' with CUDA_ERROR_LAUNCH_FAILED", outcome.err)
        outcome.assert_clean()


@pytest.mark.parametrize(
    ("capability", "image"),
    # In the bundle are machine code for 8.7, of a Jetson, and 8.0, and PTX of 5.3 and 7.2.
    {87: 87, 80: 80, 86: 80, 89: 80, 53: 53, 62: 53, 70: 53, 72: 72, 75: 72, 90: 72, 110: 72}.items(),
)
def test_code_that_suits_the_gpu_is_loaded_once(native: Built, tmp_path: Path, capability: int, image: int) -> None:
    outcome, result = native.run(tmp_path, capability=capability)
    assert (outcome.code, result) == (0, RESULT)
    assert [c.arguments for c in outcome.calls if c.name == "cuModuleLoadDataEx"] == [f"image=text_{image}"]


def error(outcome: Outcome) -> str:
    assert outcome.code == 6
    return outcome.err.removeprefix("edgec-runner: error: model 'demo'").rstrip()


def test_what_is_wrong_with_the_machine_is_said(native: Built, tmp_path: Path) -> None:
    wrong, _ = native.run(tmp_path, capability=52)
    assert error(wrong) == (
        " was compiled for other GPUs: kernel 'affine' is there for sm_87, sm_80, compute_53, compute_72, and this is "
        "Stub GPU, sm_52; compile the model for it"
    )
    small, _ = native.run(tmp_path, memory=2000)
    assert error(small) == (
        " needs 2124 bytes of the GPU's memory, of which 2000 of 2000 bytes are free; end other programs, or take a "
        "smaller model or batch"
    )
    compiled, _ = native.run(tmp_path, capability=90, fail="cuModuleLoadDataEx:1=218")
    assert error(compiled) == (
        ": cuModuleLoadDataEx failed for kernel 'affine' with CUDA_ERROR_INVALID_PTX (218): said the stub: ptxas "
        "application ptx input, line 3; error : the stub wanted it"
    )
    absent, _ = native.run(tmp_path, fail="cuInit:1=100")
    assert error(absent) == ": cuInit failed with CUDA_ERROR_NO_DEVICE (100): said the stub"
    unknown, _ = native.run(tmp_path, fail="cuMemGetInfo_v2:1=12345")
    assert error(unknown) == ": cuMemGetInfo failed with an unknown error (12345): said the stub"
    for outcome in (wrong, small, compiled, absent, unknown):
        outcome.assert_clean()


def test_no_driver(built: Built, tmp_path: Path) -> None:
    if built.arch == host_arch():
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            pass
        else:
            pytest.skip("this machine has a CUDA driver")
    outcome = run_program([built.runner, "bench"], built.arch, None, tmp_path / "log")
    assert error(outcome).startswith(" needs an NVIDIA GPU, and this machine has no CUDA driver: libcuda.so.1: cannot")
    (tmp_path / "cuda.c").write_text('__attribute__((visibility("default"))) int cuInit(void) { return 0; }\n')
    compile_library([tmp_path / "cuda.c"], tmp_path / "libcuda.so.1", built.arch)
    outcome = run_program([built.runner, "bench"], built.arch, tmp_path, tmp_path / "log")
    assert re.fullmatch(r": libcuda\.so\.1 has no cu\w+; CUDA 10\.2 \(JetPack 4\) is the oldest .*", error(outcome))


def in_process(native: Built, tmp_path: Path, *arguments: str, **environment: object) -> Outcome:
    (tmp_path / "params").write_bytes(PARAMS)
    start = f"import sys; sys.path.insert(0, {str(HERE.parents[1])!r}); from tests.cuda.sessions import main; "
    command = [sys.executable, "-c", start + "main(*sys.argv[1:])", native.runner.parent / "libdemo.so"]
    return run_program(
        [*command, tmp_path / "params", *arguments],
        native.arch,
        native.stub,
        tmp_path / "log",
        kernels=native.kernels,
        **environment,
    )


def test_two_sessions_in_one_process(native: Built, tmp_path: Path) -> None:
    outcome = in_process(native, tmp_path)
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")
    assert outcome.names.count("cuDevicePrimaryCtxRetain") == 2
    outcome.assert_clean()

    failed = in_process(native, tmp_path, fail=f"cuGraphLaunch:5={LAUNCH_FAILED}")
    assert (failed.code, failed.err) == (0, "")
    assert failed.out.startswith(b"11 model 'demo': cuGraphLaunch failed with CUDA_ERROR_LAUNCH_FAILED (719)")
    assert failed.out.count(b"\n") == 1  # the session was of use again
    failed.assert_clean()

    second = in_process(native, tmp_path, "memory is short", memory=3000)
    assert (second.code, second.err) == (0, "")
    assert second.out.startswith(b"10 model 'demo' needs 2124 bytes of the GPU's memory, of which 876 of 3000 bytes")
    second.assert_clean()


def test_model_without_kernels_parameters_and_arena(native: Built, tmp_path: Path) -> None:
    source, target = (PlacedBuffer(place, 0, "float32") for place in (Place.INPUT, Place.OUTPUT))
    specs = [(TensorSpec(name, (3,), "float32"),) for name in "xy"]
    plan = Plan(*specs, (KernelCall("copy_output", (source, target)),), {}, b"", 0, 0)
    program = device_program("bare", plan, {}, ())
    assert program.images == {}
    profile = load_profile(launched_model.HOST[native.arch])
    runner = link_runner(Program("bare", program.source, [], b"", program.images), profile, tmp_path)
    (tmp_path / "in").write_bytes(X.tobytes()[:12])
    outcome = native.call(tmp_path, "run", "--input", tmp_path / "in", "--output", tmp_path / "out", runner=runner)
    assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / "out").read_bytes() == X.tobytes()[:12]
    outcome.assert_clean()


def test_what_the_artifact_needs(built: Built) -> None:
    for path in (built.runner, built.runner.parent / "libdemo.so"):
        if not path.exists():
            continue
        versions = {tuple(map(int, v.split(b"."))) for v in re.findall(rb"GLIBC_(\d+\.\d+)\0", path.read_bytes())}
        assert versions and max(versions) <= (2, 27)  # that of JetPack 4; JetPack 5 has 2.31
        assert {name.partition(".so")[0] for name in ElfFile.read(path).needed} <= {
            "libc",
            "libm",
            "libdl",
            "libpthread",
            "ld-linux-aarch64",
            "ld-linux-x86-64",
        }
