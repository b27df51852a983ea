"""A scheduled kernel becomes an object file with one plain C function."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm.target import Target

from edgec.targets.borders import part_borders
from edgec.targets.intrinsics import lower_intrinsics
from edgec.targets.partial_sums import partial_sums
from edgec.targets.profile import Profile
from edgec.targets.remainders import part_remainders
from edgec.targets.vector_operands import vector_operands
from edgec.targets.whole_vectors import whole_vectors

__all__ = ["build_kernel", "llvm_target"]

ALIGNMENT_BYTES = 64
"""Every buffer that a kernel gets begins at a multiple of this."""

MAX_STACK_BYTES = 16384
"""Largest scratch buffer of a kernel that lies on the stack; threads of embedded C libraries have little."""


def llvm_target(profile: Profile) -> Target:
    """The profile as a TVM target."""
    return Target(
        {
            "kind": "llvm",
            "mtriple": profile.llvm_triple,
            "mcpu": profile.llvm_cpu,
            "mattr": list(profile.llvm_attributes),
        }
    )


def _phases(profile: Profile) -> list[tvm.transform.Pass]:
    """All phases from a scheduled kernel to what LLVM takes."""
    by_element = profile.instruction_set.by_element
    remainders, operands = ([part_remainders], [vector_operands]) if by_element else ([], [])
    return [*_TO_LOOPS, *remainders, *_TO_VECTORS, *operands, lower_intrinsics(profile.arch), *_TO_LLVM]


def build_kernel(function: tirx.PrimFunc, symbol: str, profile: Profile) -> tvm.runtime.Module:
    """Compile a scheduled kernel to ``int32_t symbol(T *arg0, T *arg1, ...)``, which returns 0."""
    target = llvm_target(profile)
    module = tvm.IRModule({symbol: function.with_attr({"global_symbol": symbol, "tirx.noalias": True})})
    module = tirx.transform.BindTarget(target.with_host(target))(module)
    # Without the partition of constant loops, the remainder of a tile would be tested in its innermost loop.
    with tvm.transform.PassContext(config={"s_tir.LoopPartition": {"partition_const_loop": True}}):
        module = tvm.transform.Sequential(_phases(profile))(module)
    return tvm.get_global_func("target.build.llvm")(module, target)


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def _plain_arguments(function: tirx.PrimFunc, _module: object, _context: object) -> tirx.PrimFunc:
    """Buffers become bare pointers, where TVM's own calling convention passes boxed tensors and checks them."""
    params, declarations = [], []
    body = _on_stack(function.body)
    for buffer in function.params:
        pointer = tirx.Var(f"{buffer.name}_ptr", PointerType(PrimType(str(buffer.dtype)), "global"))
        params.append(pointer)
        declarations.append(tirx.DeclBuffer(buffer, data=pointer))
        body = tirx.AttrStmt(buffer, "storage_alignment", tirx.const(ALIGNMENT_BYTES, "int32"), body)
    body = tirx.AttrStmt(tvm.ir.StringImm("default"), "device_type", tirx.const(1, "int32"), body)
    body = tirx.AttrStmt(tvm.ir.StringImm("default"), "device_id", tirx.const(0, "int32"), body)
    statements = tirx.SeqStmt([*declarations, body, tirx.Return(tirx.const(0, "int32"))])
    plain = tirx.PrimFunc(params, statements, ret_type=PrimType("int32"), attrs=function.attrs)
    return plain.with_attr("calling_conv", 1)


def _on_stack(statement: tirx.Stmt) -> tirx.Stmt:
    """Mark small allocations to stay on the stack.

    TVM sends everything of 1 KiB or more to the workspace allocator, register tiles of AVX-512 too, and LLVM keeps
    an accumulator in a register only where it lies on the stack.
    """
    if isinstance(statement, tirx.AllocBuffer):
        size = 1
        for extent in statement.buffer.shape:
            size *= int(extent)
        dtype = tvm.DataType(str(statement.buffer.dtype))
        size *= dtype.bits * dtype.lanes // 8
        keep = tirx.const(int(size <= MAX_STACK_BYTES), "int32")
        return tirx.AllocBuffer(statement.buffer, {"disable_lower_builtin": keep})
    if isinstance(statement, tirx.SeqStmt):
        return tirx.SeqStmt([_on_stack(inner) for inner in statement.seq])
    if isinstance(statement, tirx.AttrStmt):
        return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, _on_stack(statement.body))
    if isinstance(statement, tirx.IfThenElse):
        other = None if statement.else_case is None else _on_stack(statement.else_case)
        return tirx.IfThenElse(statement.condition, _on_stack(statement.then_case), other)
    if isinstance(statement, tirx.For):
        return tirx.For(
            statement.loop_var,
            statement.min,
            statement.extent,
            statement.kind,
            _on_stack(statement.body),
            statement.thread_binding,
            statement.annotations,
        )
    return statement


# The CPU part of TVM's own pipeline (tvm/s_tir/pipeline.py of 0.27), with our calling convention at its end.
_TO_LOOPS = [
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.AnnotateIrregularLoop(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    partial_sums,
    tirx.transform.BF16ComputeLegalize(),
    tirx.transform.NarrowDataType(32),
    s_tir.transform.LoopPartition(),
]
_TO_VECTORS = [
    whole_vectors,
    tirx.transform.VectorizeLoop(True),
    tirx.transform.StorageRewrite(),
    s_tir.transform.HoistIfThenElse(),
    tirx.transform.UnrollLoop(),
    s_tir.transform.RenormalizeSplitPattern(),
    tirx.transform.StmtSimplify(),
    part_borders,
]
_TO_LLVM = [
    tirx.transform.ConvertSSA(),
    tirx.transform.RemoveNoOp(),
    s_tir.transform.RewriteUnsafeSelect(),
    tirx.transform.CommonSubexprElim(),
    tirx.transform.VerifyMemory(),
    _plain_arguments,
    tirx.transform.BF16StorageLegalize(),
    tirx.transform.LowerTVMBuiltin(),
    tirx.transform.LowerIntrin(),
]
