"""``tensor[...]``: ints, slices, None, Ellipsis, one index tensor or boolean mask, as Slice, Gather and Reshape."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

import edgec.engine.tensor as tensors
from edgec.engine import primitives as p
from edgec.engine import recording
from edgec.engine.arrays import Array

if TYPE_CHECKING:
    from edgec.engine.tensor import Tensor

Part: TypeAlias = "int | slice | EllipsisType | Tensor | Array | Sequence[int] | None"
Index: TypeAlias = "Part | tuple[Part, ...]"

_END = np.iinfo(np.int64).max


def index_tensor(x: Tensor, index: Index) -> Tensor:
    """`x[index]` with NumPy's meaning.

    Several index tensors must be integers and stand side by side; a boolean mask must come alone.

    Raises:
        IndexError: Too many indices, or an int out of range.
        TypeError: A kind of index that is not supported.
    """
    parts = _spelled_out(x, index if isinstance(index, tuple) else (index,))
    if len(parts) == 1 and isinstance(parts[0], tensors.Tensor) and parts[0].dtype.kind == "b":
        recording.refuse_value(parts[0], "indexing with a boolean mask")
        return p.call("GatherND", x, p.int64(np.argwhere(parts[0].data)))  # type: ignore[arg-type]
    slices: list[tuple[int, slice]] = []
    arrays: list[tuple[int, Tensor]] = []
    shape_steps: list[str] = []
    axis = 0
    for part in parts:
        if part is None:
            shape_steps.append("new")
            continue
        if isinstance(part, int):
            start = part + x.shape[axis] if part < 0 else part
            if not 0 <= start < x.shape[axis]:
                raise IndexError(f"index {part} is out of range for axis {axis} of size {x.shape[axis]}")
            slices.append((axis, slice(start, start + 1, 1)))
            shape_steps.append("drop")
        elif isinstance(part, slice):
            if part != slice(None):
                slices.append((axis, part))
            shape_steps.append("keep")
        else:
            arrays.append((axis, part))
            shape_steps.append("array")
        axis += 1
    x = _slice(x, slices)
    if arrays:
        if any(step in ("new", "drop") for step in shape_steps) and len(arrays) > 1:
            raise TypeError("several index tensors beside ints or None are not supported; index in two steps")
        if len(arrays) > 1:
            return _gather_several(x, arrays)
    return _shape_as(x, arrays, shape_steps)


def _spelled_out(x: Tensor, parts: tuple[Part, ...]) -> list[int | slice | Tensor | None]:
    """Without Ellipsis, arrays as tensors, one part per axis."""
    known: list[int | slice | Tensor | EllipsisType | None] = []
    for part in parts:
        if part is None or isinstance(part, slice | EllipsisType | tensors.Tensor):
            known.append(part)
        elif isinstance(part, int | np.integer):
            known.append(int(part))
        else:
            known.append(p.constant(np.asarray(part)))
    if sum(part is Ellipsis for part in known) > 1:
        raise IndexError("an index can have one Ellipsis")
    used = sum(part is not None and part is not Ellipsis for part in known)
    mask_axes = sum(part.ndim - 1 for part in known if isinstance(part, tensors.Tensor) and part.dtype.kind == "b")
    free = x.ndim - used - mask_axes
    if free < 0:
        raise IndexError(f"{used} indices for a tensor of shape {x.shape}")
    spelled: list[int | slice | Tensor | None] = []
    for part in known:
        if isinstance(part, EllipsisType):
            spelled.extend([slice(None)] * free)
        else:
            spelled.append(part)
    if not mask_axes and Ellipsis not in [part for part in known if isinstance(part, EllipsisType)]:
        is_mask = len(spelled) == 1 and isinstance(spelled[0], tensors.Tensor) and spelled[0].dtype.kind == "b"
        if not is_mask:
            spelled.extend([slice(None)] * free)
    return spelled


def _slice(x: Tensor, slices: list[tuple[int, slice]]) -> Tensor:
    if not slices:
        return x
    starts, ends, steps = [], [], []
    for axis, part in slices:
        start, stop, step = part.indices(x.shape[axis])
        starts.append(start)
        # Going down to the first element ends at -1, which ONNX would read as the last one.
        ends.append(stop if stop >= 0 else -_END)
        steps.append(step)
    return p.slice_axes(x, starts, ends, [axis for axis, _ in slices], steps)


def _gather_several(x: Tensor, arrays: list[tuple[int, Tensor]]) -> Tensor:
    axes = [axis for axis, _ in arrays]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise TypeError("several index tensors must stand side by side; index in two steps")
    first, last = axes[0], axes[-1]
    perm = [*axes, *range(first), *range(last + 1, x.ndim)]
    shape = np.broadcast_shapes(*(index.shape for _, index in arrays))
    wrapped = [p.where(index < 0, index + x.shape[axis], index) for axis, index in arrays]
    indices = p.concat([p.unsqueeze(p.expand(p.cast(index, np.int64), shape), [-1]) for index in wrapped], axis=-1)
    gathered = p.call("GatherND", p.transpose(x, perm), indices)
    count = len(shape)
    return p.transpose(gathered, [*range(count, count + first), *range(count), *range(count + first, gathered.ndim)])


def _shape_as(x: Tensor, arrays: list[tuple[int, Tensor]], steps: list[str]) -> Tensor:
    """Gather by the one index tensor there may be, drop the axes of ints, add the new ones."""
    shape: list[int] = []
    axis = 0
    for step in steps:
        if step == "new":
            shape.append(1)
            continue
        if step == "array":
            shape.extend(arrays[0][1].shape)
        elif step == "keep":
            shape.append(x.shape[axis])
        axis += 1
    if arrays:
        x = p.gather(x, arrays[0][1], arrays[0][0])
    return p.reshape(x, shape)
