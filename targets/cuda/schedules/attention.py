"""Attention: the kernel is `attend` of the device code, the heads and queries are divided among blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from edgec.targets.cuda.schedules.implicit_gemm import bound
from edgec.targets.lowering.attention import ATTENTION, GIVES_ZERO, MASK, SCALE
from edgec.targets.lowering.attention_mask import MaskKind
from edgec.targets.profile import Gpu, Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site
from edgec.targets.schedules.kernel import analyse

__all__ = ["schedule"]

_WARP_ROWS = 16
_MOST_SHARED_BYTES = 48 << 10
_LOG2_OF_E = math.log2(math.e)
_HIGHEST = float(np.finfo(np.float32).max)


def schedule(sch: Schedule, profile: Profile, choose: Chooser) -> Schedule | None:
    """Schedule a kernel that `lowering.attention` made."""
    blocks = analyse(sch)
    scores = None if blocks.main is None else sch.get(blocks.main)
    if scores is None or ATTENTION not in scores.annotations or profile.gpu is None:
        return None
    function = sch.mod["main"]
    *tensors, result = function.params
    axes = [int(axis) for axis in scores.annotations[ATTENTION]]
    orders = [axes[i : i + 4] for i in range(0, len(axes), 4)]
    buffers = [*tensors[:3], result, *tensors[3:]]  # as the orders are
    images, heads, queries, depth = (int(buffers[0].shape[orders[0].index(axis)]) for axis in range(4))
    keys = int(buffers[1].shape[orders[1].index(2)])
    steps = [_steps(buffer, order) for buffer, order in zip(buffers, orders, strict=True)]
    mask = _mask([str(part) for part in scores.annotations[MASK]], steps[4:], buffers[4:])
    described = (
        f"images={images} heads={heads} queries={queries} keys={keys} depth={depth}{mask.described}"
        f" | sm_{profile.gpu.capability}"
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
    layouts = [f"edgec::Heads<{', '.join(map(str, distances[:3]))}>" for distances in steps[:4]]
    zero = ", true" if int(scores.annotations[GIVES_ZERO]) else ""
    parameters = ", ".join([tile, str(heads), str(queries), str(keys), *layouts])
    name = f"edgec::attend<{parameters}{mask.type}{zero}>"
    tiles = -(-queries // (_WARP_ROWS * choice["warps"]))
    block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
    # Blocks start in order: those for the last queries, which see the most keys, are not to be the last ones.
    tile_index = tiles - 1 - block % tiles if mask.is_causal else block % tiles
    scale = tirx.const(float(str(scores.annotations[SCALE])) * _LOG2_OF_E, "float32")
    pointers = [buffer.data for buffer in (result, *tensors[:3])]
    arguments = (*pointers, scale, block // tiles, tile_index, *mask.arguments)
    call = tirx.Evaluate(tirx.call_extern("void", name, *arguments))
    body = bound(block, tiles * images * heads, "blockIdx.x", bound(thread, choice["warps"] * 32, "threadIdx.x", call))
    return Schedule(tvm.IRModule({"main": function.with_body(body)}))


@dataclass(frozen=True)
class _DeviceMask:
    """A mask as the device code takes it: what follows the other parameters of the template, and arguments."""

    type: str = ""
    described: str = ""
    is_causal: bool = False
    arguments: tuple[tirx.Expr, ...] = ()


def _mask(parts: list[str], steps: list[list[int]], buffers: list[tirx.Buffer]) -> _DeviceMask:
    if not parts:
        return _DeviceMask()
    kind, fill, offset = MaskKind(parts[0]), float(parts[1]), int(parts[2])
    if kind == MaskKind.CAUSAL:
        return _DeviceMask(f", edgec::CausalMask<{offset}>", f" causal={offset}", is_causal=True)
    (distances,), (buffer,) = steps, buffers
    dtype = str(buffer.dtype)
    strides = ", ".join(map(str, distances))
    types = {"float16": "half", "float32": "float", "bool": str(kind == MaskKind.SHOWN).lower()}
    family = "Added" if kind == MaskKind.ADDED else "Chosen"
    # Finite numbers stay finite when they become powers of two.
    power = fill * _LOG2_OF_E if math.isinf(fill) else max(min(fill * _LOG2_OF_E, _HIGHEST), -_HIGHEST)
    return _DeviceMask(
        f", edgec::{family}Mask<{types[dtype]}, {strides}>",
        f" mask={dtype}:{'x'.join(map(str, distances))}",
        arguments=(buffer.data, tirx.const(power, "float32")),
    )


def _steps(buffer: tirx.Buffer, order: list[int]) -> list[int]:
    """The distances between neighbours along images, heads, rows and the last axis; zero where there is but one."""
    shape = [int(extent) for extent in buffer.shape]
    steps = [math.prod(shape[place + 1 :]) if shape[place] > 1 else 0 for place in range(4)]
    return [steps[order.index(axis)] for axis in range(4)]


def _default(candidates: list[Choice], problems: int, queries: int, keys: int, gpu: Gpu) -> Choice:
    """As many warps per block as leave every multiprocessor a block, and the largest part of the keys."""

    def cost(choice: Choice) -> tuple[int, int]:
        blocks = problems * -(-queries // (_WARP_ROWS * choice["warps"]))
        waits = -(-blocks // gpu.multiprocessors) * choice["warps"]
        return waits, -(-keys // choice["keys"])

    return min(candidates, key=cost)
