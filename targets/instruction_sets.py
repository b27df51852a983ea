"""What each CPU instruction set offers to a kernel: one row of a table each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["INSTRUCTION_SETS", "OPTIONAL_FEATURES", "InstructionSet"]


@dataclass(frozen=True)
class InstructionSet:
    """One SIMD instruction set.

    Attributes:
        name: How board files refer to it.
        vector_bits: Width of one vector register, in bits.
        vector_registers: How many of them a kernel may use.
        llvm_cpu: The LLVM CPU whose features it means, where a target names no other.
        llvm_attributes: LLVM features to set on top.
        required: CPU features that the artifact checks before it runs.
        qemu_cpu: The oldest CPU model of QEMU's user mode that has it.
        dot_product: The row of `DOT_PRODUCTS` for sums of products of bytes; empty where single products of 16 bits
            are as fast.
        by_element: Whether a vector can be multiplied by an element of another in one instruction.
        has_float16: Whether it computes with vectors of float16, and does not only convert them.
    """

    name: str
    vector_bits: int
    vector_registers: int
    llvm_cpu: str
    llvm_attributes: tuple[str, ...]
    required: tuple[str, ...]
    qemu_cpu: str
    dot_product: str = ""
    by_element: bool = False
    has_float16: bool = False


_AVX2 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")

_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

OPTIONAL_FEATURES = ("avx512vnni", "avx512vbmi", "avx512bf16", "avx512ifma", "avx512fp16")
"""Features beyond the table that LLVM uses where code is made for one certain CPU."""

# The x86-64 levels are those of the System V psABI supplement, section "Micro-architecture levels";
# the Arm features are those of the Arm Architecture Reference Manual (DDI 0487).
INSTRUCTION_SETS = {
    row.name: row
    for row in (
        InstructionSet("sse4.2", 128, 16, "x86-64-v2", (), ("sse4.2", "popcnt", "ssse3"), "Nehalem", "vpmaddwd"),
        InstructionSet("avx2", 256, 16, "x86-64-v3", (), _AVX2, "Haswell", "vpmaddwd"),
        # LLVM prefers 256-bit vectors on x86-64-v4; a register-tiled kernel wants the full width.
        InstructionSet("avx512", 512, 32, "x86-64-v4", ("-prefer-256-bit",), _AVX512, "Skylake-Server", "vpmaddwd"),
        InstructionSet(
            "avx512-vnni",
            512,
            32,
            "x86-64-v4",
            ("-prefer-256-bit", "+avx512vnni"),
            (*_AVX512, "avx512vnni"),
            "Cascadelake-Server",
            "vpdpbusd",
        ),
        InstructionSet("neon", 128, 32, "generic", ("+neon",), ("asimd",), "cortex-a53", by_element=True),
        InstructionSet(
            "neon-dotprod",
            128,
            32,
            "cortex-a76",
            ("+neon", "+dotprod", "+fullfp16"),
            ("asimd", "asimdhp", "asimddp"),
            "cortex-a76",
            "sdot",
            by_element=True,
            has_float16=True,
        ),
    )
}
