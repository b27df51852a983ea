"""Recurrent layers: the kernel is `walk` of the device code, samples and directions are divided among blocks."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from edgec.errors import UnsupportedError
from edgec.targets.cuda.architectures import ARCHITECTURES, Architecture
from edgec.targets.cuda.schedules.implicit_gemm import bound
from edgec.targets.cuda.schedules.tiles import SHARED_BYTES, THREAD_REGISTERS
from edgec.targets.lowering.recurrent import CELL, Cell
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Choice, Chooser, Site

__all__ = ["scheduled"]

_WARP = 32
_PARTS = (1, 2, 4, 8, 16, 32)
_VECTOR = 4
"""Columns of the gates that a thread sums up at once."""

_UNROLLED = 8
"""Loads of a thread at once, of weights that it does not keep."""

_OTHER_REGISTERS = 56
"""Of a thread, besides the weights that it keeps."""


def scheduled(function: tirx.PrimFunc, profile: Profile, choose: Chooser) -> tirx.PrimFunc:
    """The kernel of a `lowering.recurrent.walk_kernel`, whose loops TVM's schedules do not take.

    Raises:
        UnsupportedError: The state and the gates do not fit the shared memory.
    """
    assert profile.gpu is not None
    fields = {str(name): _plain(value) for name, value in function.attrs[CELL].items()}
    cell = Cell(**fields)  # type: ignore[arg-type]  # as `walk_kernel` wrote them
    row = ARCHITECTURES[profile.gpu.capability]
    weights = str(function.params[1].dtype)
    weight_bytes = np.dtype(weights).itemsize
    candidates = [choice for parts in _PARTS for choice in _choices(cell, parts, row, weight_bytes)]
    if not candidates:
        raise UnsupportedError(
            f"a {cell.kind} with a hidden size of {cell.hidden} does not fit the shared memory of a GPU's block",
            fix="compile for the board's CPU, e.g. --target aarch64",
        )
    described = f"{_kind(cell)} hidden={cell.hidden} | {weights} | {row.target}"
    default = min(candidates, key=lambda choice: _cycles(cell, choice, weight_bytes))
    choice = choose(Site.of("recurrent", described, default, candidates))
    return function.with_body(_kernel(function, cell, choice))


def _kind(cell: Cell) -> str:
    """As the device code calls it."""
    if cell.kind == "GRU":
        return "GruResetFirst" if cell.resets_first else "Gru"
    return cell.kind.capitalize()


def _plain(value: object) -> str | int | bool:
    return value if isinstance(value, bool | int) else str(value)


def _choices(cell: Cell, parts: int, row: Architecture, weight_bytes: int) -> list[Choice]:
    """How a block may work whose threads divide each sum into so many parts."""
    states = 2 if cell.resets_first else 1
    if parts > cell.hidden or (parts * cell.columns + states * cell.hidden) * 4 > SHARED_BYTES:
        return []
    wanted = -(-parts * cell.columns // _VECTOR // _WARP) * _WARP
    choices: list[Choice] = []
    for threads in sorted({min(most, wanted) for most in (128, 256, 512, 1024)}):
        registers = min(THREAD_REGISTERS, row.block_registers // (-(-threads // 128) * 128))
        kept = sum(_loads(cell, threads, parts)) * _VECTOR * weight_bytes // 4
        # A loop that is unrolled as a whole is one whose weights the compiler keeps, whether they fit or not.
        if registers < _OTHER_REGISTERS:
            break
        can = {0: cell.hidden > _UNROLLED * parts, 1: registers >= _OTHER_REGISTERS + kept}
        choices += [{"threads": threads, "parts": parts, "keeps": keeps} for keeps in can if can[keeps]]
    return choices


def _loads(cell: Cell, threads: int, parts: int) -> list[int]:
    """How often a thread loads weights in each product of a step, with what fills up the last round and part."""
    columns = [2 * cell.width, cell.width] if cell.resets_first else [cell.columns]
    rows = -(-cell.hidden // parts)
    return [-(-of_product // _VECTOR // (threads // parts)) * rows for of_product in columns]


def _cycles(cell: Cell, choice: Choice, weight_bytes: int) -> float:
    """Estimated for one step: the products of warps, four at a time, and adding up their parts; what is not kept comes
    by the bandwidth of the L2 cache after its latency, which eight loads share.
    """
    warps, parts = choice["threads"] / _WARP, choice["parts"]
    loads = _loads(cell, choice["threads"], parts)
    products = max(warps / 4, 1.0) * sum(loads) * (_VECTOR + 2)
    sums = -(-cell.hidden // choice["threads"]) * cell.gates * (30 + 4 * parts)
    waits = 0.0
    if not choice["keeps"]:
        waits = cell.columns * cell.hidden * weight_bytes / 64 + sum(500 * -(-count // _UNROLLED) for count in loads)
    return products + sums + waits + (100 + 4 * warps) * (len(loads) + 1)


def _kernel(function: tirx.PrimFunc, cell: Cell, choice: Choice) -> tirx.Stmt:
    count = cell.states
    x, weights, bias = (buffer.data for buffer in function.params[:3])
    before = [buffer.data for buffer in function.params[3 : 3 + count]]
    outputs, *after = (buffer.data for buffer in function.params[3 + count : 4 + 2 * count])
    keeps, is_reverse = (str(bool(flag)).lower() for flag in (choice["keeps"], cell.is_reverse))
    tile = f"edgec::WalkTile<{choice['threads']}, {choice['parts']}, {keeps}>"
    sizes = f"{cell.directions}, {cell.steps}, {cell.batch}, {cell.hidden}, {cell.width}"
    block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
    pointers = [x, weights, bias, outputs, before[0], after[0], before[-1], after[-1]]
    element = {"float16": "half", "float32": "float"}[str(function.params[1].dtype)]
    name = f"edgec::walk<edgec::Cell::k{_kind(cell)}, {element}, {tile}, {sizes}, {is_reverse}>"
    call = tirx.Evaluate(tirx.call_extern("void", name, *pointers, block))
    threads = bound(thread, choice["threads"], "threadIdx.x", call)
    return bound(block, cell.batch * cell.directions, "blockIdx.x", threads)
