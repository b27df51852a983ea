"""Attention: the kernel is `attend` of the device code, the heads and queries are divided among blocks."""

from __future__ import annotations

import math

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from edgec.targets.cuda.schedules.implicit_gemm import bound
from edgec.targets.lowering.attention import ATTENTION, SCALE, head_axes
from edgec.targets.profile import Gpu, Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site
from edgec.targets.schedules.kernel import analyse

__all__ = ["schedule"]

_WARP_ROWS = 16
_MOST_SHARED_BYTES = 48 << 10


def schedule(sch: Schedule, profile: Profile, choose: Chooser) -> Schedule | None:
    """Schedule a kernel that `lowering.attention` made."""
    blocks = analyse(sch)
    scores = None if blocks.main is None else sch.get(blocks.main)
    if scores is None or ATTENTION not in scores.annotations or profile.gpu is None:
        return None
    function = sch.mod["main"]
    q, k, v, result = function.params
    orders = [bool(order) for order in scores.annotations[ATTENTION]]
    images, heads, queries, depth = (int(q.shape[axis]) for axis in head_axes(orders[0]))
    keys = int(k.shape[head_axes(orders[1])[2]])
    described = (
        f"images={images} heads={heads} queries={queries} keys={keys} depth={depth} | sm_{profile.gpu.capability}"
    )
    candidates = [
        {"warps": warps, "keys": part}
        for warps in (1, 2, 4)
        for part in (16, 32, 64)
        if 4 * part * (2 * depth + 16) <= _MOST_SHARED_BYTES
    ]
    default = _default(candidates, images * heads, queries, keys, profile.gpu)
    choice = choose(Site.of("attention", described, default, candidates))
    tile = f"edgec::AttentionTile<{choice['warps']}, {choice['keys']}, {depth}>"
    layouts = [_layout(buffer, order) for buffer, order in zip((q, k, v, result), orders, strict=True)]
    name = f"edgec::attend<{tile}, {heads}, {queries}, {keys}, {', '.join(layouts)}>"
    tiles = -(-queries // (_WARP_ROWS * choice["warps"]))
    block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
    scale = tirx.const(float(str(scores.annotations[SCALE])) * math.log2(math.e), "float32")
    pointers = [buffer.data for buffer in (result, q, k, v)]
    call = tirx.Evaluate(tirx.call_extern("void", name, *pointers, scale, block // tiles, block % tiles))
    body = bound(block, tiles * images * heads, "blockIdx.x", bound(thread, choice["warps"] * 32, "threadIdx.x", call))
    return Schedule(tvm.IRModule({"main": function.with_body(body)}))


def _layout(buffer: tirx.Buffer, has_heads_first: bool) -> str:
    """The C++ type that tells where images, heads and rows begin."""
    shape = [int(extent) for extent in buffer.shape]
    steps = [math.prod(shape[axis + 1 :]) for axis in range(4)]
    image, head, row, _ = (steps[axis] for axis in head_axes(has_heads_first))
    return f"edgec::Heads<{image}, {head}, {row}>"


def _default(candidates: list[Choice], problems: int, queries: int, keys: int, gpu: Gpu) -> Choice:
    """As many warps per block as leave every multiprocessor a block, and the largest part of the keys."""

    def cost(choice: Choice) -> tuple[int, int]:
        blocks = problems * -(-queries // (_WARP_ROWS * choice["warps"]))
        waits = -(-blocks // gpu.multiprocessors) * choice["warps"]
        return waits, -(-keys // choice["keys"])

    return min(candidates, key=cost)
