"""The device compiler: which one is taken, what it makes, what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.errors import EdgecError, UnsupportedError
from edgec.targets.cuda import nvrtc
from edgec.targets.cuda.architectures import ARCHITECTURES, architecture
from edgec.targets.cuda.kernels import DeviceImage, DeviceKernel, Resources

SOURCE = 'extern "C" __global__ void doubled(float *x) { x[threadIdx.x] *= 2; }'


@pytest.mark.parametrize(
    ("capability", "installed", "taken"),
    [(87, (11, 12, 13), 11), (87, (12, 13), 12), (90, (11, 12, 13), 13), (53, (12, 13), 12), (110, (11, 12, 13), 13)],
)
def test_which_one_is_taken(
    capability: int, installed: tuple[int, ...], taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilers = {major: nvrtc.DeviceCompiler(major, f"{major}.0", (), None) for major in installed}  # type: ignore[arg-type]
    monkeypatch.setattr(nvrtc, "_load", compilers.get)
    assert nvrtc.find_compiler(ARCHITECTURES[capability]).major == taken


def test_none_for_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_load", lambda _major: None)
    with pytest.raises(UnsupportedError, match="no CUDA compiler for sm_87") as caught:
        nvrtc.find_compiler(ARCHITECTURES[87])
    assert caught.value.fix == "pip install 'edgec[cuda]', or set CUDA_HOME to an installed toolkit"


def test_headers_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of CUDA 11 and 12 share a folder."""
    include = tmp_path / "include"
    include.mkdir()
    (include / "cuda_fp16.h").touch()
    (include / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  12090\n")
    (tmp_path / "libnvrtc.so.11.2").touch()
    monkeypatch.setattr(nvrtc, "_places", lambda _major: [(tmp_path, (include,))])
    monkeypatch.setattr(nvrtc.ctypes, "CDLL", lambda path: pytest.fail(f"loaded {path}"))
    assert nvrtc._load.__wrapped__(11) is None


def test_machine_code_and_ptx_with_what_they_take() -> None:
    row = architecture("sm_86")
    cubin, ptx = nvrtc.find_compiler(row).compile(SOURCE, row, ("cubin", "ptx"))
    assert cubin.content[:4] == b"\x7fELF" and cubin.content[18:20] == (190).to_bytes(2, "little")  # EM_CUDA
    assert cubin.resources is not None and 1 <= cubin.resources.registers <= 32
    assert (cubin.resources.spill_bytes, cubin.resources.shared_bytes) == (0, 0)
    assert b".target sm_86" in ptx.content and ptx.resources is None
    assert (cubin.target, ptx.target) == ("sm_86", "compute_86")


def test_registers_that_do_not_suffice_are_reported() -> None:
    row = architecture("sm_80")
    values = "".join(f"float v{i} = x[{i}]; " for i in range(160))
    uses = "".join(f"x[{i}] = v{i} * v{(i * 7) % 160}; " for i in range(160))
    source = f'extern "C" __global__ __launch_bounds__(1024) void k(volatile float *x) {{ {values}{uses} }}'
    (image,) = nvrtc.find_compiler(row).compile(source, row)
    assert image.resources is not None and image.resources.spill_bytes > 0


def test_a_wrong_source_is_told_with_its_line() -> None:
    row = architecture("sm_80")
    with pytest.raises(EdgecError, match="does not compile a kernel") as caught:
        nvrtc.find_compiler(row).compile(SOURCE.replace("2;", "two;"), row)
    assert "two" in str(caught.value.where)


def test_drivers_that_load_it() -> None:
    assert DeviceImage(87, "cubin", b"", "12.9").driver == "12.0"
    assert DeviceImage(87, "ptx", b"", "12.9").driver == "12.9"


def test_a_kernel_survives_the_store() -> None:
    images = (
        DeviceImage(87, "cubin", b"\x7fELF\0", "12.9", Resources(32, 1024, 0, 0)),
        DeviceImage(87, "ptx", b"p", "1"),
    )
    kernel = DeviceKernel("k", images, (4, 2, 1), (128, 1, 1), 65536, "source")
    assert DeviceKernel.unpacked(kernel.packed()) == kernel
