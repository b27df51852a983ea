"""A scheduled kernel becomes CUDA C, by TVM's generator, and from there machine code of one or more GPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm.target import Target
from tvm_ffi.structural import structural_walk

from edgec.targets.cuda.architectures import ARCHITECTURES, Architecture, cuda_target
from edgec.targets.cuda.intrinsics import finish_for_cuda, lower_to_cuda
from edgec.targets.cuda.kernels import DeviceImage, DeviceKernel
from edgec.targets.cuda.nvrtc import find_compiler
from edgec.targets.profile import Gpu

__all__ = ["DeviceSource", "compile_source", "device_source", "prelude"]

_DEVICE_FILES = (
    "prelude",
    "tensor_core",
    "operands",
    "tile",
    "volta",
    "products",
    "implicit_gemm",
    "attention",
    "recurrent",
)

_LAUNCHED_BY_DEVICE = 2  # tvm::CallingConv::kDeviceKernelLaunch


@dataclass(frozen=True)
class DeviceSource:
    """CUDA C of one kernel without what all of them include, and how it is launched."""

    symbol: str
    text: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]


def device_source(function: tirx.PrimFunc, symbol: str, row: Architecture) -> DeviceSource:
    """The CUDA C function ``symbol(T *arg0, T *arg1, ...)`` of a kernel whose loops are bound to blocks and threads."""
    target = cuda_target(row)
    host = Target({"kind": "llvm"})
    module = tvm.IRModule({symbol: function.with_attr({"global_symbol": symbol, "tirx.noalias": True})})
    module = tirx.transform.BindTarget(target.with_host(host))(module)
    module = tvm.transform.Sequential(_PHASES)(module)
    lowered = module[symbol]
    extents = _thread_extents(lowered)
    code = tvm.get_global_func("target.build.cuda")(module, target).inspect_source("cuda")
    _, opening, body = code.partition('extern "C" __global__')
    # ptxas of CUDA 12.9 spills a few registers to have more blocks at once, unless it is told that one is enough.
    body = re.sub(r"__launch_bounds__\((\d+)\)", r"__launch_bounds__(\1, 1)", body)
    # Lanes without a part of a sum exchange what they have, which TVM leaves undefined; the others do not use it.
    body = re.sub(r"(?m)^(\s*alignas\(64\) \w+ red_buf\d+_ptr\w*\[1\]);", r"\1 = {};", body)
    grid, block = (tuple(extents.get(f"{level}.{axis}", 1) for axis in "xyz") for level in ("blockIdx", "threadIdx"))
    return DeviceSource(symbol, f"{opening}{body}", grid, block)  # type: ignore[arg-type]


def compile_source(source: DeviceSource, gpu: Gpu) -> DeviceKernel:
    """Code of a kernel for a GPU and for what else is asked.

    Raises:
        UnsupportedError: There is no compiler for an architecture.
        EdgecError: The compiler refuses the source.
    """
    text = f"{prelude()}\n{source.text}"
    images: list[DeviceImage] = []
    for capability in (gpu.capability, *gpu.also):
        row = ARCHITECTURES[capability]
        is_lowest = capability == gpu.capability
        images += find_compiler(row).compile(text, row, ("cubin", "ptx") if is_lowest and gpu.with_ptx else ("cubin",))
    return DeviceKernel(source.symbol, tuple(images), source.grid, source.block, source=source.text)


def _thread_extents(function: tirx.PrimFunc) -> dict[str, int]:
    """Extents by name of the thread axis; axes that kernels repeat have one extent."""
    extents: dict[str, int] = {}

    def visit(node: tirx.AttrStmt) -> None:
        if node.attr_key == "thread_extent":
            extents[str(node.node.thread_tag)] = int(node.value)

    structural_walk(function.body, (tirx.AttrStmt, visit))
    return extents


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def _plain_arguments(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Buffers become bare pointers in the order of the arguments, and the function the kernel itself."""
    params, declarations = [], []
    for buffer in function.params:
        pointer = tirx.Var(f"{buffer.name}_ptr", PointerType(PrimType(str(buffer.dtype)), "global"))
        params.append(pointer)
        declarations.append(tirx.DeclBuffer(buffer, data=pointer))
    plain = tirx.PrimFunc(params, tirx.SeqStmt([*declarations, function.body]), attrs=function.attrs)
    return plain.with_attr({"calling_conv": _LAUNCHED_BY_DEVICE, "tirx.is_global_func": True})


@cache
def prelude() -> str:
    """What the source of every kernel begins with: types and functions, templates of those that kernels call."""
    folder = resources.files("edgec.targets.cuda.device")
    return "\n".join((folder / f"{name}.cuh").read_text() for name in _DEVICE_FILES)


# The GPU part of TVM's own pipeline (tvm/s_tir/pipeline.py of 0.27), with our arguments instead of a host function.
_PHASES = [
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerCrossThreadReduction(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.LiftThreadBinding(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.UnifyThreadBinding(),
    s_tir.transform.LowerMatchBuffer(),
    tirx.transform.ConvertSSA(),
    tirx.transform.StmtSimplify(),
    s_tir.transform.AnnotateIrregularLoop(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    s_tir.transform.LoopPartition(),
    tirx.transform.VectorizeLoop(True),
    tirx.transform.StorageRewrite(),
    s_tir.transform.HoistIfThenElse(),
    tirx.transform.UnrollLoop(),
    s_tir.transform.RenormalizeSplitPattern(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
    s_tir.transform.RewriteUnsafeSelect(),
    lower_to_cuda,
    tirx.transform.CommonSubexprElim(),
    tirx.transform.VerifyMemory(),
    s_tir.transform.ThreadSync("shared"),
    s_tir.transform.ThreadSync("shared.dyn"),
    s_tir.transform.ThreadSync("warp"),
    s_tir.transform.LowerThreadAllreduce(),
    s_tir.transform.MergeSharedMemoryAllocations(),
    _plain_arguments,
    tirx.transform.LowerWarpMemory(),
    tirx.transform.StmtSimplify(),
    tirx.transform.LowerIntrin(),
    finish_for_cuda,
]
