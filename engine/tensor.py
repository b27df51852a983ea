"""Tensor: a NumPy array with a gradient, and the operators and methods that users of PyTorch or Paddle expect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgec.engine import indexing, recording, tape
from edgec.engine import primitives as p
from edgec.engine.arrays import Array, DTypeLike, has_onnx_type, is_float
from edgec.engine.hooks import GradientHook, Hooks, RemovableHandle
from edgec.engine.inplace import InPlace, become_array
from edgec.engine.modes import state
from edgec.engine.node import Node, note_change
from edgec.engine.operators import Operators

if TYPE_CHECKING:
    from edgec.engine.indexing import Index

__all__ = ["Parameter", "Scalar", "Tensor", "TensorLike", "tensor", "to_tensor"]

Scalar: TypeAlias = "bool | int | float | np.generic"
Axes: TypeAlias = "int | Sequence[int] | None"
TensorLike: TypeAlias = "Tensor | Array | Scalar"
_FLOAT = np.dtype(np.float32)


class Tensor(Operators, InPlace):
    """A NumPy array that remembers how it was computed.

    Attributes:
        data: The values; a traced tensor refuses to show them.
        array: The values, for the engine's own use: reading them is not refused, writing them is not noticed.
        version: When it was last changed in place, on the tape's clock; 0 if never.
        grad: What `backward` accumulated, None before.
        name: A name of the user's, or None.
        node: The call that made it, None for a leaf.
        hooks: Of a leaf; unset while there are none.
    """

    __slots__ = (
        "__weakref__", "_requires_grad", "array", "grad", "hooks", "name", "node", "node_output", "version",
    )  # fmt: skip
    # NumPy must leave `array + tensor` to __radd__.
    __array_ufunc__ = None

    def __init__(self, data: Array, requires_grad: bool = False, name: str | None = None) -> None:
        self.array: Array = np.asarray(data)
        self.grad: Tensor | None = None
        self.name = name
        self.node: Node | None = None
        self.node_output = 0
        self.version = 0
        if requires_grad:
            _requires_float(self.array.dtype)
        self._requires_grad = requires_grad

    @property
    def data(self) -> Array:
        if state.is_special:
            recording.refuse_value(self, ".data")
        return self.array

    @data.setter
    def data(self, array: Array) -> None:
        if array is self.array:  # `tensor.data -= step` wrote into the array itself
            self.version = note_change(array)
        else:
            become_array(self, np.asarray(array))

    # --- what it is ---

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return self.array.size

    def numel(self) -> int:
        return self.array.size

    def dim(self) -> int:
        return self.array.ndim

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __repr__(self) -> str:
        wants = ", requires_grad=True" if self.requires_grad else ""
        name = f", name={self.name!r}" if self.name else ""
        if self.size > 8:
            return f"Tensor(shape={self.shape}, dtype={self.dtype}{wants}{name})"
        return f"Tensor({self.array.tolist()}, shape={self.shape}, dtype={self.dtype}{wants}{name})"

    # --- gradient ---

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.node is not None and value != self._requires_grad:
            raise ValueError("requires_grad of a computed tensor is fixed; use detach()")
        if value:
            _requires_float(self.dtype)
        self._requires_grad = bool(value)

    def requires_grad_(self, value: bool = True) -> Tensor:
        self.requires_grad = value
        return self

    @property
    def stop_gradient(self) -> bool:
        return not self._requires_grad

    @stop_gradient.setter
    def stop_gradient(self, value: bool) -> None:
        self.requires_grad = not value

    @property
    def is_leaf(self) -> bool:
        return self.node is None

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False
    ) -> None:
        """Add this tensor's gradients to the ``.grad`` of the leaves; see `edgec.engine.backward`."""
        tape.backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    def clear_grad(self) -> None:
        self.grad = None

    clear_gradient = zero_grad = clear_grad

    def register_hook(self, hook: GradientHook) -> RemovableHandle:
        """Have `hook` called with the gradient of this tensor in every reverse pass, before it goes further back.

        What the hook returns, unless None, takes the gradient's place. The gradient is complete: all uses summed.
        """
        if not self._requires_grad:
            raise ValueError("register_hook: the tensor does not require a gradient")
        return self._hooks().add(hook)

    def retain_grads(self) -> None:
        """Have `backward` fill ``.grad`` of this computed tensor too; a leaf has it anyway."""
        if not self._requires_grad:
            raise ValueError("retain_grads: the tensor does not require a gradient")
        if self.node is not None:
            self._hooks().retain(self)

    retain_grad = retain_grads

    @property
    def retains_grad(self) -> bool:
        hooks = self.node.hooks if self.node is not None else None
        return hooks is not None and self.node_output in hooks and hooks[self.node_output].is_retaining

    def _hooks(self) -> Hooks:
        recording.refuse_hook(self)
        if self.node is None:
            if not hasattr(self, "hooks"):
                self.hooks = Hooks()
            return self.hooks
        if self.node.hooks is None:
            self.node.hooks = {}
        return self.node.hooks.setdefault(self.node_output, Hooks())

    def detach(self) -> Tensor:
        """The same values, outside the graph (the memory is shared until one of the two changes)."""
        return p.detach(self)

    def clone(self) -> Tensor:
        """A copy that passes the gradient on."""
        return p.call("Identity", self)

    # --- values, which a traced tensor does not have ---

    def numpy(self) -> Array:
        recording.refuse_value(self, "numpy()")
        return self.array

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        recording.refuse_value(self, "numpy conversion")
        return np.array(self.array, dtype) if copy else np.asarray(self.array, dtype)

    def item(self) -> bool | int | float:
        recording.refuse_value(self, "item()")
        value: bool | int | float = self.array.item()
        return value

    def tolist(self) -> object:
        recording.refuse_value(self, "tolist()")
        return self.array.tolist()

    def __bool__(self) -> bool:
        recording.refuse_value(self, "bool()")
        return bool(self.array)

    def __float__(self) -> float:
        recording.refuse_value(self, "float()")
        return float(self.array.item())

    def __int__(self) -> int:
        recording.refuse_value(self, "int()")
        return int(self.array.item())

    def __index__(self) -> int:
        recording.refuse_value(self, "int()")
        return self.array.__index__()

    def __iter__(self) -> Iterator[Tensor]:
        recording.refuse_value(self, "iteration")
        return (self[index] for index in range(len(self)))

    def __contains__(self, value: Scalar) -> bool:
        recording.refuse_value(self, "in")
        return bool((self.array == value).any())

    # --- operators; those with two operands are in `Operators` ---

    def __neg__(self) -> Tensor:
        return p.call("Neg", self)

    def __abs__(self) -> Tensor:
        return p.call("Abs", self)

    def __invert__(self) -> Tensor:
        return p.call("Not", self)

    def __getitem__(self, index: Index) -> Tensor:
        return indexing.index_tensor(self, index)

    # --- elementwise ---

    def exp(self) -> Tensor:
        return p.exp(self)

    def log(self) -> Tensor:
        return p.log(self)

    def sqrt(self) -> Tensor:
        return p.sqrt(self)

    def tanh(self) -> Tensor:
        return p.tanh(self)

    def sigmoid(self) -> Tensor:
        return p.sigmoid(self)

    def relu(self) -> Tensor:
        return p.call("Relu", self)

    def sin(self) -> Tensor:
        return p.call("Sin", self)

    def cos(self) -> Tensor:
        return p.call("Cos", self)

    def abs(self) -> Tensor:
        return abs(self)

    def square(self) -> Tensor:
        return self * self

    def pow(self, exponent: TensorLike) -> Tensor:
        return self**exponent

    def matmul(self, other: Tensor | Array) -> Tensor:
        return self @ other

    def clip(self, min: float | None = None, max: float | None = None) -> Tensor:
        bounds = [None if bound is None else p.full_like(self, bound) for bound in (min, max)]
        return p.call("Clip", self, *bounds)

    clamp = clip

    def softmax(self, axis: int = -1) -> Tensor:
        return p.softmax(self, axis)

    # --- reductions ---

    def sum(self, axis: Axes = None, keepdim: bool = False) -> Tensor:
        return p.reduce_sum(self, _axes(axis), keepdim)

    def mean(self, axis: Axes = None, keepdim: bool = False) -> Tensor:
        return p.reduce_mean(self, _axes(axis), keepdim)

    def max(self, axis: Axes = None, keepdim: bool = False) -> Tensor:
        return p.reduce("ReduceMax", self, _axes(axis), keepdim)

    def min(self, axis: Axes = None, keepdim: bool = False) -> Tensor:
        return p.reduce("ReduceMin", self, _axes(axis), keepdim)

    def prod(self, axis: Axes = None, keepdim: bool = False) -> Tensor:
        return p.reduce("ReduceProd", self, _axes(axis), keepdim)

    def var(self, axis: Axes = None, keepdim: bool = False, correction: int = 1) -> Tensor:
        """The variance; `correction` 1 divides by n - 1."""
        centred = self - self.mean(axis, keepdim=True)
        axes = range(self.ndim) if axis is None else _axes(axis) or ()
        count = int(np.prod([self.shape[index] for index in axes]))
        return (centred * centred).sum(axis, keepdim) / float(count - correction)

    def argmax(self, axis: int | None = None, keepdim: bool = False) -> Tensor:
        x, over = (self.reshape(-1), 0) if axis is None else (self, axis)
        return p.call("ArgMax", x, axis=over, keepdims=int(keepdim))

    def argmin(self, axis: int | None = None, keepdim: bool = False) -> Tensor:
        x, over = (self.reshape(-1), 0) if axis is None else (self, axis)
        return p.call("ArgMin", x, axis=over, keepdims=int(keepdim))

    # --- shape ---

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        return p.reshape(self, _flat(shape))

    view = reshape

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> Tensor:
        first, last = start_axis % max(self.ndim, 1), end_axis % max(self.ndim, 1)
        return p.reshape(self, (*self.shape[:first], -1, *self.shape[last + 1 :]))

    def transpose(self, *perm: int | Sequence[int]) -> Tensor:
        """All axes in a new order; two axes of a larger tensor are swapped; without arguments all are reversed."""
        order = _flat(perm)
        if len(order) == 2 and self.ndim != 2:
            return p.swap_axes(self, *order)
        return p.transpose(self, order or None)

    permute = transpose

    @property
    def T(self) -> Tensor:  # noqa: N802
        return p.transpose(self)

    def t(self) -> Tensor:
        return p.transpose(self)

    def unsqueeze(self, axis: int | Sequence[int]) -> Tensor:
        return p.unsqueeze(self, _axes(axis) or ())

    def squeeze(self, axis: Axes = None) -> Tensor:
        return p.squeeze(self, [i for i, n in enumerate(self.shape) if n == 1] if axis is None else _axes(axis) or ())

    def expand(self, *shape: int | Sequence[int]) -> Tensor:
        return p.expand(self, _flat(shape))

    def astype(self, dtype: DTypeLike) -> Tensor:
        return p.cast(self, dtype)

    cast = to = astype

    def float(self) -> Tensor:
        return p.cast(self, np.float32)

    def double(self) -> Tensor:
        return p.cast(self, np.float64)


class Parameter(Tensor):
    """A leaf tensor that a module trains."""

    __slots__ = ()

    def __init__(self, data: Tensor | Array, requires_grad: bool = True, name: str | None = None) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad, name)


def wrap(data: Array, node: Node | None, output: int) -> Tensor:
    """The tensor for an output of a node; for constants of the engine's own, node is None."""
    made = Tensor.__new__(Tensor)
    made.array = data
    made.grad = made.name = None
    made.node_output = output
    made.version = 0
    if node is not None and (data.dtype.kind == "f" or is_float(data.dtype) or node.primitive.carries_integers):
        made.node = node
        made._requires_grad = True
    else:
        made.node = None
        made._requires_grad = False
    return made


def tensor(data: object, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A new tensor from a copy of `data`.

    Dtype: NumPy arrays and tensors keep theirs; Python floats become float32, ints int64.
    """
    if isinstance(data, Tensor):
        data = data.numpy()
    array = np.array(data, dtype)
    if dtype is None and array.dtype == np.float64 and not isinstance(data, np.ndarray | np.generic):
        array = array.astype(_FLOAT)
    if not has_onnx_type(array.dtype):
        raise TypeError(f"cannot make a tensor of dtype {array.dtype} from {type(data).__name__}")
    return Tensor(array, requires_grad)


def to_tensor(data: object, dtype: DTypeLike | None = None, stop_gradient: bool = True) -> Tensor:
    """`tensor` under Paddle's name."""
    return tensor(data, dtype, requires_grad=not stop_gradient)


def _requires_float(dtype: np.dtype[Any]) -> None:
    if not is_float(dtype):
        raise TypeError(f"only floating tensors can require a gradient, this one is {dtype}")


def _axes(axis: Axes) -> list[int] | None:
    if axis is None:
        return None
    return [axis] if isinstance(axis, int) else list(axis)


def _flat(values: Sequence[int | Sequence[int]]) -> list[int]:
    if len(values) == 1 and not isinstance(values[0], int | np.integer):
        return list(values[0])
    return [int(value) for value in values]  # type: ignore[arg-type]
