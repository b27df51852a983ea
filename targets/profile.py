"""The machine that code is generated for: what a board file says, joined with its instruction set."""

from __future__ import annotations

import dataclasses
import difflib
import platform
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from edgec.errors import UnsupportedError, UsageError
from edgec.targets.instruction_sets import INSTRUCTION_SETS, OPTIONAL_FEATURES, InstructionSet

if TYPE_CHECKING:
    from edgec.targets.intrinsics import DotProduct

__all__ = [
    "ALIASES",
    "PLANNED",
    "Cluster",
    "Gpu",
    "Profile",
    "float16_targets",
    "list_profiles",
    "load_profile",
    "on_more_gpus",
]

# Boards that edgec is meant for and does not generate code for yet.
PLANNED = {
    "riscv64": "generic RISC-V",
    "loongarch64": "generic LoongArch",
}

ALIASES = {"jetson": "jetson-orin"}
"""Other names of targets."""

GPU_BLOCK_BITS = 256
"""Channels of a block on a GPU: 8 of float32 and 16 of float16, the depth of one product of its tensor cores."""

CHANNEL_BLOCK_BYTES = 16
"""Channels per block of a tensor of bytes: four 32-bit words, and the accumulators of one AVX-512 register."""


@dataclass(frozen=True)
class Cluster:
    """A group of equal cores.

    Attributes:
        core: The core's name, as its maker writes it.
        cpus: Logical CPU numbers as Linux counts them on the board.
        max_mhz: Highest clock, in MHz.
        l1d_kib: Level-1 data cache per core, in KiB.
        l2_kib: Level-2 cache per core (or of the cluster where it is shared), in KiB.
    """

    core: str
    cpus: tuple[int, ...]
    max_mhz: int
    l1d_kib: int
    l2_kib: int


@dataclass(frozen=True)
class Gpu:
    """The GPU that the kernels run on.

    Attributes:
        capability: Compute capability as an integer: 87 for sm_87.
        multiprocessors: How many it has.
        max_mhz: Highest clock, in MHz.
        memory_mib: Memory that it can use, on a Jetson shared with the CPU, in MiB.
        bandwidth_gb_s: Of that memory, in GB/s.
        also: Further capabilities that machine code is made for, all of them higher.
        with_ptx: Whether there is code that drivers of later GPUs compile.
        in_tf32: Whether tensor cores may round what they multiply of float32 to its ten highest bits.
    """

    capability: int
    multiprocessors: int
    max_mhz: int
    memory_mib: int
    bandwidth_gb_s: float
    also: tuple[int, ...] = ()
    with_ptx: bool = False
    in_tf32: bool = False


@dataclass(frozen=True)
class Profile:
    """Everything that code generation and the runners need to know of a target.

    Attributes:
        name: The target's name on the command line.
        description: One line for people.
        arch: ``x86_64`` or ``aarch64``.
        llvm_triple: Triple the kernels are compiled for.
        llvm_cpu: LLVM's name of the CPU that the kernels are compiled for.
        instruction_set: Vector width and registers.
        required_features: CPU features that the artifact checks before it runs.
        link_targets: Zig's target triples for the shared library and the runner.
        qemu_cpu: CPU model that QEMU's user mode should emulate.
        clusters: The board's cores, fastest first; empty for a generic target.
        sources: Where the figures come from.
        gpu: Where the kernels run if not on the CPU, which then only launches them.
    """

    name: str
    description: str
    arch: str
    llvm_triple: str
    llvm_cpu: str
    instruction_set: InstructionSet
    required_features: tuple[str, ...]
    link_targets: dict[str, str]
    qemu_cpu: str
    clusters: tuple[Cluster, ...] = ()
    sources: tuple[str, ...] = ()
    llvm_attributes: tuple[str, ...] = field(default=())
    gpu: Gpu | None = None

    def lanes(self, dtype: str) -> int:
        """How many elements of ``dtype`` one vector register holds, or one block of channels on a GPU."""
        bits = self.instruction_set.vector_bits if self.gpu is None else GPU_BLOCK_BITS
        return bits // (np.dtype(dtype).itemsize * 8)

    def row_lanes(self, dtype: str) -> int:
        """How many partial results a row is reduced to first: a vector; threads of a GPU share rows by themselves."""
        return self.lanes(dtype) if self.gpu is None else 1

    def channel_block(self, dtype: str) -> int:
        """How many channels one block of a blocked tensor holds: a vector of floats, but always 16 bytes."""
        return CHANNEL_BLOCK_BYTES if np.dtype(dtype).itemsize == 1 else self.lanes(dtype)

    @property
    def dot_product(self) -> DotProduct | None:
        """The CPU's way to add up products of bytes, if it has a better one than single products."""
        from edgec.targets.intrinsics import DOT_PRODUCTS

        return DOT_PRODUCTS.get(self.instruction_set.dot_product if self.gpu is None else "dp4a")

    @property
    def has_float16(self) -> bool:
        """Whether it computes in float16 (of GPUs: from sm_53 on, which is all)."""
        return self.gpu is not None or self.instruction_set.has_float16

    @property
    def cpu(self) -> Profile:
        """The machine without its GPU."""
        return dataclasses.replace(self, gpu=None, required_features=self.instruction_set.required)

    @property
    def by_element(self) -> bool:
        """Whether vectors are multiplied by elements of others (see the instruction set)."""
        return self.gpu is None and self.instruction_set.by_element

    @property
    def big_cpus(self) -> tuple[int, ...]:
        """Logical CPUs of the fastest cluster; empty for a generic target."""
        return self.clusters[0].cpus if self.clusters else ()


_LINK_TARGETS = {
    # glibc 2.27 is what JetPack 4 and Ubuntu 18.04 have; a static musl runner needs no libc on the board at all.
    "x86_64": {"library": "x86_64-linux-gnu.2.27", "runner": "x86_64-linux-musl"},
    "aarch64": {"library": "aarch64-linux-gnu.2.27", "runner": "aarch64-linux-musl"},
}


def _native_link_targets(arch: str) -> dict[str, str]:
    """The runner uses the machine's C library, too.

    For this machine: zig would need a minute to build another one, once. For a GPU: only such a program can load the
    driver.
    """
    return dict.fromkeys(("library", "runner"), _LINK_TARGETS[arch]["library"])


_TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


@cache
def list_profiles() -> dict[str, str]:
    """Names of all targets that code can be generated for, with their descriptions."""
    profiles = {"native": "the machine this runs on"}
    for file in sorted(resources.files("edgec.targets.boards").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            data = tomllib.loads(file.read_text())
            profiles[data["name"]] = data["description"]
    return profiles


def float16_targets() -> list[str]:
    """Names of the targets that compute in float16."""
    named = [name for name in list_profiles() if name != "native"]
    return [name for name in named if load_profile(name).has_float16]


@cache
def load_profile(name: str) -> Profile:
    """The profile of a target.

    Raises:
        UnsupportedError: The name is unknown, or stands for a board that is not supported yet.
    """
    if name == "native":
        return _native()
    name = ALIASES.get(name, name)
    if name in PLANNED:
        raise UnsupportedError(
            f"target '{name}' is not supported yet",
            where=PLANNED[name],
            fix="see `edgec targets` for the targets that are",
        )
    if name.startswith("cuda:"):
        return _generic_gpu(name)
    if name not in list_profiles():
        known = [*list_profiles(), *PLANNED, *ALIASES]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise UnsupportedError(
            f"unknown target '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            fix="`edgec targets` lists them",
        )
    data = tomllib.loads((resources.files("edgec.targets.boards") / f"{name}.toml").read_text())
    isa = INSTRUCTION_SETS[data["instruction_set"]]
    return Profile(
        name=name,
        description=data["description"],
        arch=data["arch"],
        llvm_triple=_TRIPLES[data["arch"]],
        llvm_cpu=data.get("llvm_cpu", isa.llvm_cpu),
        llvm_attributes=isa.llvm_attributes,
        instruction_set=isa,
        required_features=() if "gpu" in data else isa.required,
        link_targets=_LINK_TARGETS[data["arch"]] if "gpu" not in data else _native_link_targets(data["arch"]),
        qemu_cpu=data.get("qemu_cpu", isa.qemu_cpu),
        gpu=Gpu(**data["gpu"]) if "gpu" in data else None,
        clusters=tuple(
            Cluster(c["core"], tuple(c["cpus"]), c["max_mhz"], c["l1d_kib"], c["l2_kib"])
            for c in data.get("clusters", [])
        ),
        sources=tuple(data.get("sources", [])),
    )


def _generic_gpu(name: str) -> Profile:
    """A GPU in an x86-64 machine, of which only the architecture is known: ``cuda:sm_80``."""
    from edgec.targets.cuda.architectures import architecture

    row = architecture(name.removeprefix("cuda:"))
    host = load_profile("x86-64-v2")
    return dataclasses.replace(
        host,
        name=name,
        description=f"{row.name} GPU ({row.target}) in an x86-64 machine",
        required_features=(),
        link_targets=_native_link_targets(host.arch),
        gpu=Gpu(row.capability, multiprocessors=row.multiprocessors, max_mhz=0, memory_mib=0, bandwidth_gb_s=0.0),
        sources=(),
    )


def on_more_gpus(profile: Profile, others: Sequence[str]) -> Profile:
    """The target, with code for other GPUs as well.

    Args:
        profile: A GPU target, which the kernels are made for.
        others: Architectures, as ``sm_90``, and ``ptx`` for those that are not there yet; ``cpu`` changes nothing here.

    Raises:
        UsageError: The target has no GPU, or an architecture is older than its own.
        UnsupportedError: An architecture is unknown.
    """
    from edgec.targets.cuda.architectures import architecture

    if not others:
        return profile
    if profile.gpu is None:
        raise UsageError(
            f"target '{profile.name}' has no GPU, and --also-for adds code for others",
            fix="leave --also-for out, or choose a GPU; `edgec targets` lists them",
        )
    own = profile.gpu.capability
    rows = [architecture(name) for name in others if name not in ("ptx", "cpu")]
    if older := [row.target for row in rows if row.capability < own]:
        raise UsageError(
            f"kernels for sm_{own} do not run on {', '.join(older)}",
            where=f"target '{profile.name}' with --also-for {','.join(others)}",
            fix="compile for the oldest of the GPUs, and name the newer ones in --also-for",
        )
    also = tuple(sorted({row.capability for row in rows} - {own}))
    return dataclasses.replace(profile, gpu=dataclasses.replace(profile.gpu, also=also, with_ptx="ptx" in others))


def _native() -> Profile:
    """This machine: LLVM's name of its CPU and the widest instruction set it has."""
    import tvm_ffi

    arch = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() != "Linux" or arch not in _LINK_TARGETS:
        raise UnsupportedError(
            f"target 'native' is not supported on {platform.system()} {platform.machine()}",
            fix="compile for a named target instead; `edgec targets` lists them",
        )
    import tvm  # noqa: F401  registers the functions below

    cpu = str(tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUName")())
    raw = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    present = {str(name) for name, is_on in raw.items() if is_on}
    isa = INSTRUCTION_SETS[_widest(arch, present)]
    # LLVM may know the CPU's name while the hypervisor hides some of its features: say which are there.
    attributes = tuple(f"{'+' if is_on else '-'}{name}" for name, is_on in sorted(raw.items()))
    return Profile(
        name="native",
        description=f"this machine ({cpu})",
        arch=arch,
        llvm_triple=_TRIPLES[arch],
        llvm_cpu=cpu,
        llvm_attributes=(*attributes, *(a for a in isa.llvm_attributes if a.startswith("-prefer"))),
        instruction_set=isa,
        required_features=tuple(dict.fromkeys((*isa.required, *(f for f in OPTIONAL_FEATURES if f in present)))),
        link_targets=_native_link_targets(arch),
        qemu_cpu="max",
    )


def _widest(arch: str, features: set[str]) -> str:
    """The name of the widest instruction set that a CPU with these LLVM features has."""
    if arch == "aarch64":
        return "neon-dotprod" if {"dotprod", "fullfp16"} <= features else "neon"
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features:
        return "avx512-vnni" if "avx512vnni" in features else "avx512"
    return "avx2" if {"avx2", "fma"} <= features else "sse4.2"
