"""What each NVIDIA architecture offers to a kernel: one row of a table each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.errors import UnsupportedError

if TYPE_CHECKING:
    from tvm.target import Target

__all__ = ["ARCHITECTURES", "Architecture", "architecture", "cuda_target"]


@dataclass(frozen=True)
class Architecture:
    """A compute capability.

    Attributes:
        capability: As one integer: 87 for sm_87.
        name: Of the generation.
        toolkits: Major versions of the CUDA compilers that make code for it, the best one first: the newest, but for
            Jetson boards the oldest, as drivers load no code of a newer major version, and those come with JetPack.
        shared_bytes: Most shared memory that a block can ask for, in bytes.
        resident_threads: Threads that a multiprocessor holds at once.
        multiprocessors: How many a usual GPU of the architecture has, for targets that name no board.
    """

    capability: int
    name: str
    toolkits: tuple[int, ...]
    shared_bytes: int
    resident_threads: int
    multiprocessors: int

    @property
    def target(self) -> str:
        """Its name for a compiler, e.g. ``sm_87``."""
        return f"sm_{self.capability}"

    @property
    def block_registers(self) -> int:
        """How many registers of 32 bits a block can have (CUDA C++ Programming Guide, technical specifications)."""
        return (32 if self.capability in (53, 62) else 64) << 10

    @property
    def has_dot_product(self) -> bool:
        """Whether four products of bytes are one instruction (PTX ISA, dp4a)."""
        return self.capability >= 61

    @property
    def tensor_core_types(self) -> frozenset[str]:
        """What its tensor cores multiply, none where it has none."""
        return frozenset(name for name, since in _TENSOR_CORES_SINCE.items() if self.capability >= since)

    @property
    def has_ldmatrix(self) -> bool:
        """Whether a warp can load fragments of eight rows anywhere in shared memory (PTX ISA, ldmatrix)."""
        return self.capability >= 75

    @property
    def has_async_copy(self) -> bool:
        """Whether a thread can copy to shared memory without waiting (PTX ISA, cp.async)."""
        return self.capability >= 80


# What is multiplied -> the first capability with instructions for it (PTX ISA: mma.m8n8k4, wmma.mma, mma.m16n8k8).
_TENSOR_CORES_SINCE = {"float16": 70, "int8": 72, "tf32": 80}

# CUDA C++ Programming Guide, "Compute Capabilities", technical specifications per compute capability; which compiler
# serves which: release notes of CUDA 11.8 (to Hopper), 12.9 (to Blackwell) and 13.0 (from Turing on, sm_110 instead of
# sm_101). Multiprocessors, by NVIDIA's white papers and data sheets, in order: Tegra X1, P100, GTX 1080, TX2, V100,
# Xavier, T4, A100, A10, Orin, RTX 4090, H100 and H200, B200, Thor, RTX 5090.
ARCHITECTURES = {
    row.capability: row
    for row in (
        Architecture(53, "Maxwell", (11, 12), 48 << 10, 2048, 2),
        Architecture(60, "Pascal", (12, 11), 48 << 10, 2048, 56),
        Architecture(61, "Pascal", (12, 11), 48 << 10, 2048, 20),
        Architecture(62, "Pascal", (11, 12), 48 << 10, 2048, 2),
        Architecture(70, "Volta", (12, 11), 96 << 10, 2048, 80),
        Architecture(72, "Volta", (11, 12), 96 << 10, 2048, 8),
        Architecture(75, "Turing", (13, 12, 11), 64 << 10, 1024, 40),
        Architecture(80, "Ampere", (13, 12, 11), 163 << 10, 2048, 108),
        Architecture(86, "Ampere", (13, 12, 11), 99 << 10, 1536, 72),
        Architecture(87, "Ampere", (11, 12, 13), 163 << 10, 1536, 16),
        Architecture(89, "Ada", (13, 12, 11), 99 << 10, 1536, 128),
        Architecture(90, "Hopper", (13, 12, 11), 227 << 10, 2048, 132),
        Architecture(100, "Blackwell", (13, 12), 227 << 10, 2048, 148),
        Architecture(110, "Blackwell", (13,), 227 << 10, 1536, 20),
        Architecture(120, "Blackwell", (13, 12), 99 << 10, 1536, 170),
    )
}
"""Compute capability -> its row."""


def architecture(name: str) -> Architecture:
    """The row of ``sm_87`` or the like.

    Raises:
        UnsupportedError: There is none.
    """
    digits = name.removeprefix("sm_")
    row = ARCHITECTURES.get(int(digits)) if digits.isdecimal() else None
    if row is None or not name.startswith("sm_"):
        raise UnsupportedError(
            f"unknown GPU architecture '{name}'",
            fix="choose one of " + ", ".join(known.target for known in ARCHITECTURES.values()),
        )
    return row


def cuda_target(row: Architecture) -> Target:
    """The architecture as a TVM target."""
    from tvm.target import Target

    return Target(
        {
            "kind": "cuda",
            "arch": row.target,
            "max_threads_per_block": 1024,
            "thread_warp_size": 32,
            "max_shared_memory_per_block": 48 << 10,
        }
    )
