"""A GPU for programs of this machine: a stub of the driver, whose kernels are those of a bundle in the emulation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgec.bundle import Bundle
from edgec.devices.selection import host_arch
from tests.cuda.emulate import emulated_library
from tests.cuda.stub_driver import build_stub

__all__ = ["install_emulated_gpu"]


def install_emulated_gpu(bundle: Bundle, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Give programs that are started from now on a GPU that can run the kernels of a bundle."""
    source = (bundle.folder / "lib" / "kernels.cu").read_text()
    symbols = re.findall(r'^extern "C" __global__ .*?(\w+)\([^()]*\) \{$', source, re.MULTILINE)
    capability = bundle.manifest["target"]["gpu"]["capability"]
    foreign = None if bundle.arch == host_arch() else bundle.arch
    library = emulated_library(source, symbols, folder, capability, foreign)
    patch.setenv("LD_LIBRARY_PATH", str(build_stub(folder / "stub", bundle.arch)))
    patch.setenv("EDGEC_STUB_KERNELS", str(library))
    patch.setenv("EDGEC_STUB_CAPABILITY", str(capability))
    patch.setenv("EDGEC_STUB_LOG", str(folder / "log"))
