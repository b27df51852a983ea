"""Convolutions and matrix products as implicit GEMM: our main loop in the device code, the epilogue in TensorIR.

A block computes a tile of rows (output pixels of all images, or rows of a matrix) and columns (output channels). What
TVM generates is ``main_loop`` of `implicit_gemm.cuh`, which leaves every thread with some sums in registers, and the
epilogue for just these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm import ir, prim, tirx
from tvm.s_tir import SBlock, Schedule
from tvm_ffi.structural import structural_map, structural_walk

from edgec.targets.cuda.schedules.tiles import Problem, Tile, candidates, default_tile
from edgec.targets.lowering.convolution import GEOMETRY
from edgec.targets.lowering.layouts import WORD_BYTES
from edgec.targets.lowering.linear import BY_COLUMN
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import REDUCED, Chooser, Site, workload
from edgec.targets.schedules.kernel import Blocks, analyse

__all__ = ["bound", "schedule"]


# Types of the operands' buffers and of the sums -> C++ type of what is multiplied, and how many are in one element.
# Words are of four signed bytes, for dot products.
_ELEMENTS = {
    ("float16", "float32"): ("half", 1),
    ("float32", "float32"): ("float", 1),
    ("int32", "int32"): ("signed char", WORD_BYTES),
}


@dataclass(frozen=True)
class _Product:
    """What the main block computes, as the device code takes it.

    Attributes:
        left, right: C++ types of the operands.
        operands: Their buffers.
        row_axes: Which of the block's axes make up the rows; the others are the columns.
        groups: Independent products that the columns are divided into.
        depth: Chunks of 16 bytes that a row has.
    """

    left: str
    right: str
    operands: tuple[tirx.Buffer, tirx.Buffer]
    row_axes: tuple[int, ...]
    groups: int
    depth: int


def schedule(sch: Schedule, profile: Profile, choose: Chooser) -> Schedule | None:
    """Schedule a kernel whose main block is a convolution or a product with weights that have the reduction last."""
    blocks = analyse(sch)
    if blocks.main is None or profile.gpu is None:
        return None
    main = sch.get(blocks.main)
    if GEOMETRY in main.annotations:
        product = _convolution(sch, blocks, main)
    elif BY_COLUMN in main.annotations:
        product = _matrix_product(sch, blocks, main)
    else:
        return None
    if product is None:
        return None
    for block in blocks.all[: blocks.main_index]:
        sch.compute_inline(block)
    described = f"{workload(sch, blocks)} | sm_{profile.gpu.capability}{' tf32' if profile.gpu.in_tf32 else ''}"
    last = _inline_epilogue(sch, blocks)
    if last is None:
        return None
    row_extents, column_extents = _extents(last, product)
    problem = Problem(
        rows=math.prod(row_extents),
        columns=math.prod(column_extents) // product.groups,
        groups=product.groups,
        depth=product.depth,
        dtype=str(product.operands[0].dtype),
        is_tf32=profile.gpu.in_tf32,
    )
    default = default_tile(problem, profile.gpu)
    tiles = (tile.choice() for tile in candidates(problem, profile.gpu))
    tile = Tile.of(choose(Site.of("implicit_gemm", described, default.choice(), tiles)))
    function = sch.mod["main"]
    body = _kernel(main, last, product, problem, tile)
    return Schedule(tvm.IRModule({"main": function.with_body(body)}))


# -- the operands ------------------------------------------------------------------------------------------------


def _convolution(sch: Schedule, blocks: Blocks, main: SBlock) -> _Product | None:
    """The operands of ``lowering.convolution.conv2d_blocked``."""
    operands = _operands(sch, blocks, main)
    if operands is None:
        return None
    image, weights = operands
    stride_y, stride_x, dilation_y, dilation_x, top, left, groups, channels, fill = map(int, main.annotations[GEOMETRY])
    n, in_blocks, height, width, lanes = map(int, image.shape)
    out_blocks, group_blocks, kh, kw, out_lanes, _ = map(int, weights.shape)
    out_h, out_w = (int(axis.dom.extent) for axis in main.iter_vars[2:4])
    element, per_element = _element(image)
    lanes, channels = lanes * per_element, channels * per_element
    units, parts = group_blocks * kh * kw, lanes * _bytes(element) // 16
    if group_blocks == 1:  # chunks that have no channel are left out
        parts = -(-channels * _bytes(element) // 16)
    numbers = [lanes, n, in_blocks, height, width, out_h, out_w, kh, kw, stride_y, stride_x, dilation_y, dilation_x]
    numbers += [top, left, channels, fill & 255 if per_element > 1 else 0]
    if lanes * _bytes(element) % 16 or (fill and per_element == 1):
        return None
    return _Product(
        left=f"edgec::Image<{element}, {', '.join(map(str, numbers))}>",
        right=f"edgec::Filter<{element}, {out_lanes}, {lanes}, {out_blocks // groups}, {units}, {parts}>",
        operands=operands,
        row_axes=(0, 2, 3),
        groups=groups,
        depth=units * parts,
    )


def _matrix_product(sch: Schedule, blocks: Blocks, main: SBlock) -> _Product | None:
    """The operands of ``lowering.linear.packed_matmul``, or of ``batched_matmul`` with as many groups as products."""
    operands = _operands(sch, blocks, main)
    if operands is None:
        return None
    x, weights = operands
    element, per_element = _element(x)
    *leading, depth = map(int, x.shape)
    batch = int(main.annotations[BY_COLUMN])
    groups = math.prod(leading[:batch])
    columns = math.prod(map(int, weights.shape[:-1])) // groups
    if depth * per_element * _bytes(element) % 16:
        return None
    return _Product(
        left=f"edgec::Matrix<{element}, {math.prod(leading[batch:])}, {depth * per_element}>",
        right=f"edgec::Matrix<{element}, {columns}, {depth * per_element}>",
        operands=operands,
        row_axes=tuple(range(batch, len(leading))),
        groups=groups,
        depth=depth * per_element * _bytes(element) // 16,
    )


def _operands(sch: Schedule, blocks: Blocks, main: SBlock) -> tuple[tirx.Buffer, tirx.Buffer] | None:
    """Input and weights, if the kernel gets both and does nothing to them but pad the input."""
    if len(main.reads) != 2:
        return None
    image, weights = (region.source for region in main.reads)
    before = [sch.get(block) for block in blocks.all[: blocks.main_index]]
    for block in before:
        if block.name_hint == "pad" and block.writes[0].source.same_as(image):
            image = block.reads[0].source
    is_known = (str(image.dtype), str(main.writes[0].source.dtype)) in _ELEMENTS and image.dtype == weights.dtype
    parameters = sch.mod["main"].params
    if is_known and all(any(buffer.same_as(parameter) for parameter in parameters) for buffer in (image, weights)):
        return image, weights
    return None


def _element(buffer: tirx.Buffer) -> tuple[str, int]:
    """The C++ type of what is multiplied, and how many of them are in one element of the buffer."""
    return next(element for (dtype, _), element in _ELEMENTS.items() if dtype == str(buffer.dtype))


def _bytes(element: str) -> int:
    return {"half": 2, "float": 4}.get(element, 1)


# -- the epilogue ------------------------------------------------------------------------------------------------


def _inline_epilogue(sch: Schedule, blocks: Blocks) -> SBlock | None:
    """The last block, with everything that is computed from the sums in it; the main block where nothing follows it.

    None where an element of the result is computed from other sums than its own.
    """
    main = sch.get(blocks.main)
    sums = main.writes[0].source
    if blocks.main_index == len(blocks.all) - 1:
        return main
    try:
        for block in blocks.all[blocks.main_index + 1 : -1]:
            sch.compute_inline(block)
    except tvm.s_tir.ScheduleError:
        return None
    last = sch.get(blocks.all[-1])
    if not isinstance(last.body, tirx.BufferStore) or any(axis.iter_type == REDUCED for axis in last.iter_vars):
        return None
    own: list[bool] = []

    def visit(load: ir.TensorLoad) -> None:
        if load.source.same_as(sums):
            axes = last.iter_vars
            pairs = zip(load.indices, axes, strict=True) if len(load.indices) == len(axes) else [(None, axes[0])]
            own.append(all(index is not None and axis.var.same_as(index) for index, axis in pairs))

    structural_walk(last.body, (ir.TensorLoad, visit))
    return last if own and all(own) else None


def _extents(last: SBlock, product: _Product) -> tuple[list[int], list[int]]:
    """Of the axes that make up the rows, and of those that make up the columns."""
    extents = [int(axis.dom.extent) for axis in last.iter_vars if axis.iter_type != REDUCED]
    parted = [extents[axis] for axis in product.row_axes]
    return parted, [extent for axis, extent in enumerate(extents) if axis not in product.row_axes]


def _kernel(main: SBlock, last: SBlock, product: _Product, problem: Problem, tile: Tile) -> tirx.Stmt:
    """The whole kernel as loops over blocks and threads."""
    sums = main.writes[0].source
    kind = str(sums.dtype)
    count = tile.row_parts * tile.column_parts * 4
    registers = tirx.decl_buffer((count,), kind, "sums", scope="local")
    row_tiles, column_tiles = -(-problem.rows // tile.rows), -(-problem.columns // tile.columns)
    block, thread = tirx.Var("block", "int32"), tirx.Var("thread", "int32")
    tiles = row_tiles * column_tiles * product.groups
    number, part = block // tile.depth_blocks, block % tile.depth_blocks
    group = number // (row_tiles * column_tiles)
    first_row, first_column = number % row_tiles * tile.rows, number // row_tiles % column_tiles * tile.columns
    name = f"edgec::main_loop<{tile.spelled}, {product.left}, {product.right}, {tiles}>"
    pointers = [buffer.data for buffer in (registers, *product.operands)]
    call = tirx.call_extern("int32", name, *pointers, group, first_row, first_column, part, number)
    lane, warp = thread % 32, thread // 32
    row = first_row + warp // tile.column_warps % tile.row_warps * (tile.row_parts * 16) + lane // 4
    column = first_column + warp % tile.column_warps * (tile.column_parts * 8) + lane % 4 * 2
    row_extents, column_extents = _extents(last, product)
    kept, axes = problem.columns, len(row_extents) + len(column_extents)

    def element(i: prim.Expr, half: prim.Expr, j: prim.Expr, member: prim.Expr) -> tirx.Stmt:
        r, c = row + i * 16 + half * 8, column + j * 8 + member
        rows, columns = iter(_unravelled(r, row_extents)), iter(_unravelled(c + group * kept, column_extents))
        indices = [next(rows if axis in product.row_axes else columns) for axis in range(axes)]
        number = ((i * 2 + half) * tile.column_parts + j) * 2 + member
        value = tirx.BufferLoad(registers, [number])
        inside: list[prim.Expr] = []
        if problem.rows % tile.rows:
            inside.append(r < problem.rows)
        if kept % tile.columns:  # pairs of columns are inside together where their number is even
            inside.append((c if kept % 2 else c - member) < kept)
        if tile.depth_warps > 1:
            inside.append(thread < tile.threads // tile.depth_warps)
        store = _stored(last, sums, indices, value)
        return tirx.IfThenElse(tirx.all(*inside), store, None) if inside else store

    # TVM 0.27 takes vectors of booleans for twice as wide as they are.
    has_flags = any(str(region.source.dtype) == "bool" for region in (*last.reads, *last.writes))
    pair = tirx.ForKind.UNROLLED if kept % 2 or has_flags else tirx.ForKind.VECTORIZED
    epilogue = _loop(
        "i",
        tile.row_parts,
        lambda i: _loop(
            "half",
            2,
            lambda half: _loop(
                "j",
                tile.column_parts,
                lambda j: _loop("member", 2, lambda member: element(i, half, j, member), pair),
            ),
        ),
    )
    has_sums = tirx.decl_buffer((1,), "int32", "has_sums", scope="local")
    stored = tirx.IfThenElse(tirx.BufferLoad(has_sums, [0]) != 0, epilogue, None)
    steps = [tirx.AllocBuffer(registers), tirx.AllocBuffer(has_sums), tirx.BufferStore(has_sums, call, [0]), stored]
    of_block = bound(thread, tile.threads, "threadIdx.x", tirx.SeqStmt(steps))
    return bound(block, tiles * tile.depth_blocks, "blockIdx.x", of_block)


def _stored(last: SBlock, sums: tirx.Buffer, indices: Sequence[prim.Expr], value: prim.Expr) -> tirx.Stmt:
    """The last block's statement for one element, whose sum is ``value``."""
    if last.writes[0].source.same_as(sums):
        return tirx.BufferStore(sums, value, list(indices))
    replacements = {axis.var.__chandle__(): index for axis, index in zip(last.iter_vars, indices, strict=True)}

    def visit_variable(variable: ir.Var) -> prim.Expr:
        return replacements.get(variable.__chandle__(), variable)

    def visit_load(load: ir.TensorLoad) -> prim.Expr:
        return value if load.source.same_as(sums) else load

    return structural_map(last.body, [(ir.Var, visit_variable), (ir.TensorLoad, visit_load)])


def _unravelled(number: prim.Expr, extents: Sequence[int]) -> list[prim.Expr]:
    """Indices along axes, the last of which runs fastest."""
    indices = []
    for axis, extent in enumerate(extents):
        inner = math.prod(extents[axis + 1 :])
        index = number // inner if inner > 1 else number
        indices.append(index % extent if axis and extent > 1 else tirx.const(0, "int32") if extent == 1 else index)
    return indices


def _loop(
    name: str,
    extent: int,
    body: Callable[[prim.Expr], tirx.Stmt],
    kind: tirx.ForKind = tirx.ForKind.UNROLLED,
) -> tirx.Stmt:
    variable = tirx.Var(name, "int32")
    return tirx.For(variable, tirx.const(0, "int32"), tirx.const(extent, "int32"), kind, body(variable))


def bound(variable: tirx.Var, extent: int, tag: str, body: tirx.Stmt) -> tirx.Stmt:
    """A loop over blocks or threads."""
    axis = tirx.IterVar(ir.Range(0, extent), variable, 1, tag)
    zero, size = tirx.const(0, "int32"), tirx.const(extent, "int32")
    return tirx.For(variable, zero, size, tirx.ForKind.THREAD_BINDING, body, axis)
