"""Every other kernel: sums over much that the threads of a block share.

Kernels with one reduction are ours. Those with several, such as a softmax, follow TVM's rules for GPUs (dlight).
"""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import Schedule, dlight
from tvm.s_tir.schedule import SBlockRV
from tvm_ffi.structural import structural_walk

from edgec.targets.cuda.architectures import ARCHITECTURES, cuda_target
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import REDUCED, Chooser
from edgec.targets.schedules.kernel import Blocks, analyse, reduces

__all__ = ["schedule"]

_RULES = (dlight.gpu.Reduction, dlight.gpu.GeneralReduction, dlight.gpu.Fallback)

THREADS = 256
_WARP = 32


def schedule(sch: Schedule, profile: Profile, _choose: Chooser) -> Schedule | None:
    """Schedule any kernel; the last rule of the list."""
    assert profile.gpu is not None
    function = sch.mod["main"]
    blocks = analyse(sch)
    reducing = [block for block in blocks.all if reduces(sch, block)]
    if len(reducing) == 1:
        try:
            return _one_reduction(sch, blocks, reducing[0])
        except tvm.s_tir.ScheduleError:  # the epilogue reads other results than its own
            pass
    target = cuda_target(ARCHITECTURES[profile.gpu.capability])
    function = function.with_attr("target", target)
    with target:
        for rule in _RULES:
            made = rule().apply(function, target, False)
            if made is not None:
                return made[0] if isinstance(made, list) else made
    return None


def _one_reduction(sch: Schedule, blocks: Blocks, main: SBlockRV) -> Schedule:
    """A block of threads for one result, or for neighbouring ones where these are neighbours in memory."""
    at = blocks.all.index(main)
    for block in (*blocks.all[:at], *blocks.all[at + 1 : -1]):
        sch.compute_inline(block)
    loops, axes = sch.get_loops(main), sch.get(main).iter_vars
    spatial = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != REDUCED]
    reduced = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == REDUCED]
    if not spatial:
        spatial = [sch.add_unit_loop(loops[0])]
    last = int(sch.get(spatial[-1]).extent)
    neighbours = 1 if _is_along_rows(sch, main) else max(n for n in range(1, _WARP + 1) if last % n == 0)
    outer, inner = sch.split(spatial[-1], [None, neighbours])
    terms = sch.fuse(*reduced)
    enough = 1 << (int(sch.get(terms).extent) - 1).bit_length()
    steps, shared = sch.split(terms, [None, min(THREADS // neighbours, max(enough, _WARP // neighbours))])
    sch.reorder(*spatial[:-1], outer, inner, shared, steps)
    block = sch.fuse(*spatial[:-1], outer)
    sch.bind(block, "blockIdx.x")
    sch.bind(inner, "threadIdx.y" if neighbours == 1 else "threadIdx.x")
    sch.bind(shared, "threadIdx.x" if neighbours == 1 else "threadIdx.y")
    if at < len(blocks.all) - 1:
        epilogue = blocks.all[-1]
        sch.set_scope(main, 0, "local" if neighbours == 1 else "shared")
        sch.reverse_compute_at(epilogue, block, preserve_unit_loops=True)
        results = sch.fuse(*sch.get_loops(epilogue)[1:])
        # One of the threads that share a sum writes its result: of an axis as long as theirs, the first.
        _, first = sch.split(sch.add_unit_loop(results), [None, sch.get(shared).extent])
        sch.bind(first, "threadIdx.x" if neighbours == 1 else "threadIdx.y")
        if neighbours > 1:
            sch.bind(results, "threadIdx.x")
    return sch


def _is_along_rows(sch: Schedule, main: SBlockRV) -> bool:
    """Whether neighbours in what is reduced lie beside each other in memory."""
    block = sch.get(main)
    reduced = {axis.var.__chandle__() for axis in block.iter_vars if axis.iter_type == REDUCED}
    found: list[bool] = []

    def visit(variable: tirx.Var) -> None:
        found.append(variable.__chandle__() in reduced)

    structural_walk(block.reads[0].region[-1].min, (tirx.Var, visit))
    return any(found)
