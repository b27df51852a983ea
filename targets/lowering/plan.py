"""The plan of an inference: ordered kernel calls, each argument a place in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import tvm
from tvm import relax, tirx

from edgec.errors import EdgecError
from edgec.targets.lowering.emitter import VIEW, dtype_of
from edgec.targets.lowering.memory import Interval, aligned, assign_offsets, live_bound

__all__ = ["KernelCall", "Place", "PlacedBuffer", "Plan", "TensorSpec", "make_plan"]


class Place(Enum):
    """Where a buffer lies."""

    INPUT = "inputs"
    OUTPUT = "outputs"
    PARAMS = "params"
    ARENA = "arena"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and NumPy data type of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class PlacedBuffer:
    """A kernel's argument.

    Attributes:
        position: Byte offset in the arena or the parameters, or number of the input or output.
        offset_bytes: Where the argument begins in an output that is one piece of several.
    """

    place: Place
    position: int
    dtype: str
    offset_bytes: int = 0


@dataclass(frozen=True)
class KernelCall:
    """One step: the kernel and its arguments, inputs first."""

    kernel: str
    arguments: tuple[PlacedBuffer, ...]


@dataclass(frozen=True)
class Plan:
    """Everything the driver needs.

    Attributes:
        kernels: Kernels by name, in TensorIR, not scheduled yet.
        params: The parameters, each constant at a multiple of the alignment.
        arena_bound_bytes: Lower bound of the arena's size (largest set of live tensors).
        constants: Where each constant lies in the parameters, by SHA-256.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    calls: tuple[KernelCall, ...]
    kernels: dict[str, tirx.PrimFunc]
    params: bytes
    arena_size_bytes: int
    arena_bound_bytes: int
    constants: Mapping[bytes, int] = field(default_factory=dict)


@dataclass(eq=False)
class _Storage:
    """Bytes that one or more Relax variables stand for; those of a parent, from ``offset`` on, where there is one."""

    size_bytes: int
    dtype: str
    place: Place | None = None
    position: int = -1
    first: int = -1
    last: int = -1
    parent: _Storage | None = None
    offset: int = 0

    def whole(self) -> tuple[_Storage, int]:
        """What the bytes are finally a part of, and where in it."""
        storage, offset = self, 0
        while storage.parent is not None:
            storage, offset = storage.parent, offset + storage.offset
        return storage, offset


@dataclass
class _Walk:
    """State of the walk over ``main``: variables by identity, calls, parameters."""

    module: tvm.IRModule
    values: dict[int, list[_Storage]] = field(default_factory=dict)
    kept: list[object] = field(default_factory=list)  # keeps the keys of `values` alive: they are ids
    calls: list[tuple[str, list[_Storage]]] = field(default_factory=list)
    params: bytearray = field(default_factory=bytearray)
    param_offsets: dict[bytes, int] = field(default_factory=dict)

    def bind(self, var: relax.Var, storages: list[_Storage]) -> None:
        self.values[var.__chandle__()] = storages
        self.kept.append(var)

    def storages(self, expr: relax.Expr) -> list[_Storage]:
        if isinstance(expr, relax.Tuple):
            return [storage for item in expr.fields for storage in self.storages(item)]
        if isinstance(expr, tvm.ir.GenericConst):
            return [self._constant(expr.value.numpy())]
        if isinstance(expr, relax.TupleGetItem):
            return [self.storages(expr.tuple_value)[expr.index]]
        return self.values[expr.__chandle__()]

    def _constant(self, array: np.ndarray) -> _Storage:
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self.param_offsets:
            self.params.extend(bytes(aligned(len(self.params)) - len(self.params)))
            self.param_offsets[key] = len(self.params)
            self.params.extend(data)
        return _Storage(len(data), array.dtype.name, Place.PARAMS, self.param_offsets[key])

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir"):
            arguments = self.storages(value.args[1])
            results = [_Storage(_size_bytes(ty), str(ty.dtype)) for ty in _tensor_types(var.ty)]
            view = self.module[value.args[0]].attrs.get(VIEW)
            if view is None or not _lay(arguments, results[0], int(view)):
                self.calls.append((value.args[0].name_hint, [*arguments, *results]))
            self.bind(var, results)
        elif isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.reshape"):
            self.bind(var, self.storages(value.args[0]))
        elif isinstance(value, relax.Call):
            raise EdgecError(f"lowering left the operator {value.op} in the graph")
        else:
            self.bind(var, self.storages(value))

    def finish(self, outputs: list[_Storage]) -> None:
        """Give outputs the caller's memory. One that the caller already has elsewhere, or in another, is copied."""
        for number, storage in enumerate(outputs):
            if storage.place is None and storage.parent is None:
                storage.place, storage.position = Place.OUTPUT, number
            else:
                copy = _Storage(storage.size_bytes, storage.dtype, Place.OUTPUT, number)
                self.calls.append((_COPY, [storage, copy]))

    def arena(self) -> list[_Storage]:
        """What lies in the arena, from the first to the last call that touches any part of it."""
        found: dict[int, _Storage] = {}
        for step, (_, storages) in enumerate(self.calls):
            for part in storages:
                storage, _ = part.whole()
                if storage.place is not None:
                    continue
                if id(storage) not in found:
                    found[id(storage)] = storage
                    storage.first = step
                storage.last = step
        return list(found.values())


def _lay(sources: list[_Storage], result: _Storage, offset: int) -> bool:
    """Make a kernel that only copies unnecessary; False where something has its place already.

    One source has ``result`` as its part from ``offset`` on, or is it under another type. Several are parts of
    ``result``, one after the other; one that is itself a part of something takes that along, if all of it comes here.
    """
    if len(sources) == 1:
        if sources[0].whole()[0].place is not None and sources[0].size_bytes != result.size_bytes:
            return False
        result.parent, result.offset = sources[0], offset
        return True
    at = 0
    moved: dict[int, tuple[_Storage, int]] = {}
    covered: dict[int, int] = {}
    for source in sources:
        storage, inside = source.whole()
        if storage.place is not None or moved.setdefault(id(storage), (storage, at - inside))[1] != at - inside:
            return False
        covered[id(storage)] = covered.get(id(storage), 0) + source.size_bytes
        at += source.size_bytes
    if any(covered[key] != storage.size_bytes for key, (storage, _) in moved.items()):
        return False
    for storage, place in moved.values():
        storage.parent, storage.offset = result, place
    return True


_COPY = "copy_output"


def make_plan(module: tvm.IRModule, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Plan:
    """Read the plan off a fused Relax module whose ``main`` only calls kernels and reshapes."""
    main = module["main"]
    walk = _Walk(module)
    for number, param in enumerate(main.params):
        walk.bind(param, [_Storage(_size_bytes(param.ty), dtype_of(param), Place.INPUT, number)])
    for block in main.body.blocks:
        for binding in block.bindings:
            walk.visit(binding.var, binding.value)
    walk.finish(walk.storages(main.body.body))
    in_arena = walk.arena()
    intervals = [Interval(s.size_bytes, s.first, s.last) for s in in_arena]
    offsets, arena = assign_offsets(intervals)
    for storage, offset in zip(in_arena, offsets, strict=True):
        storage.place, storage.position = Place.ARENA, offset
    kernels = {gv.name_hint: func for gv, func in module.functions_items() if isinstance(func, tirx.PrimFunc)}
    return Plan(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        calls=tuple(KernelCall(name, tuple(_placed(s) for s in storages)) for name, storages in walk.calls),
        kernels=kernels,
        params=bytes(walk.params),
        arena_size_bytes=arena,
        arena_bound_bytes=live_bound(intervals),
        constants=walk.param_offsets,
    )


def _placed(storage: _Storage) -> PlacedBuffer:
    whole, offset = storage.whole()
    assert whole.place is not None
    if whole.place in (Place.INPUT, Place.OUTPUT):
        return PlacedBuffer(whole.place, whole.position, storage.dtype, offset)
    return PlacedBuffer(whole.place, whole.position + offset, storage.dtype)


def _tensor_types(ty: object) -> list[relax.TensorType]:
    return list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]


def _size_bytes(ty: relax.TensorType) -> int:
    return int(np.prod([int(d) for d in ty.shape], dtype=np.int64)) * np.dtype(str(ty.dtype)).itemsize
