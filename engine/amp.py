"""Mixed precision: operators in float16 or bfloat16 where that is safe, float32 weights, and a scaled loss.

Source: Micikevicius et al. 2018, "Mixed precision training".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypedDict, TypeVar, cast

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array, is_float
from edgec.engine.modes import state
from edgec.engine.nn.module import Module
from edgec.engine.optim import Optimizer, ParameterGroup
from edgec.engine.tensor import Parameter, Tensor

__all__ = ["BLACK_LIST", "WHITE_LIST", "Autocast", "GradScaler", "auto_cast", "autocast", "decorate"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Sums of many products: most of the time is spent here, and they are added up in float32 whatever goes in.
WHITE_LIST = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
# Steep, or long sums of values of one sign: float16 overflows above 65504 and has eleven bits.
BLACK_LIST = frozenset({
    "Acos", "Acosh", "Asin", "Asinh", "Atanh", "BatchNormalization", "Cosh", "CumSum", "Exp", "GroupNormalization",
    "InstanceNormalization", "LRN", "LayerNormalization", "Log", "LogSoftmax", "LpNormalization",
    "MeanVarianceNormalization", "NegativeLogLikelihoodLoss", "Pow", "RMSNormalization", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Sinh",
    "Softmax", "SoftmaxCrossEntropyLoss", "Softplus", "Sqrt", "Tan",
})  # fmt: skip
# With O2 everything else is cast down too; these take dtypes or mere positions and must be left alone.
_UNTOUCHED = frozenset({"Cast", "CastLike", "DequantizeLinear", "QuantizeLinear", "Resize", "Upsample", "Dropout"})
_WIDE = np.dtype(np.float32)
_FLOAT16 = np.dtype(np.float16)


class Autocast:
    """The dtypes that operators compute in, while it is the mode of a thread."""

    def __init__(self, dtype: np.dtype[Any], white: Collection[str], black: Collection[str], casts_all: bool) -> None:
        self.dtype = dtype
        self._white, self._black, self._casts_all = frozenset(white), frozenset(black), casts_all
        self.key = (dtype.name, self._white, self._black, casts_all)

    def inputs_of(self, op_type: str, inputs: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The inputs as the operator shall get them; float64 ones and integers stay what they are."""
        if op_type in _UNTOUCHED or op_type.startswith("edgec."):
            return inputs
        narrow = (_FLOAT16, self.dtype)
        found = {tensor.dtype for tensor in inputs if tensor is not None and is_float(tensor.dtype)}
        if op_type in self._white:
            wanted = self.dtype
        elif op_type in self._black:
            wanted = _WIDE
        elif self._casts_all:
            wanted = self.dtype
        elif len(found) > 1:
            wanted = _WIDE  # mixed operands meet in the wider type
        else:
            return inputs
        if found <= {wanted}:
            return inputs
        return [
            p.cast(tensor, wanted)
            if tensor is not None and tensor.dtype != wanted and (tensor.dtype == _WIDE or tensor.dtype in narrow)
            else tensor
            for tensor in inputs
        ]


class auto_cast:  # noqa: N801 - Paddle's name, used like a function
    """Inside, operators run in `dtype` or float32 by lists; the reverse pass follows the forward.

    Weights stay float32 and are cast where they are used, so their gradients are float32.

    Args:
        enable: False makes a block inside another one compute as usual.
        dtype: "float16" or "bfloat16". float16 needs a `GradScaler`; bfloat16 has the range of float32.
        custom_white_list: Further operators, by ONNX name, to run in `dtype`.
        custom_black_list: Further operators to run in float32; it wins over the white list.
        level: "O1" casts what is listed, and lets the others compute in what they are given; "O2" casts all but
            the black list; "O0" nothing.

    Raises:
        ValueError: An unknown dtype or level, or an operator in both lists.

    Example::

        with engine.amp.auto_cast(dtype="bfloat16"):
            loss = net(x).square().mean()
        loss.backward()
    """

    def __init__(
        self,
        enable: bool = True,
        custom_white_list: Collection[str] | None = None,
        custom_black_list: Collection[str] | None = None,
        level: str = "O1",
        dtype: str = "float16",
        *,
        enabled: bool = True,
    ) -> None:
        white, black = frozenset(custom_white_list or ()), frozenset(custom_black_list or ())
        if white & black:
            raise ValueError(f"auto_cast: {', '.join(sorted(white & black))} in both lists")
        if level not in ("O0", "O1", "O2"):
            raise ValueError(f'auto_cast: level must be "O0", "O1" or "O2", not {level!r}')
        self._mode = None
        if enable and enabled and level != "O0":
            allowed, denied = (WHITE_LIST | white) - black, (BLACK_LIST - white) | black
            self._mode = Autocast(_dtype(dtype), allowed, denied, level == "O2")
        self._before: list[Autocast | None] = []

    def __enter__(self) -> None:
        self._before.append(state.autocast)
        state.autocast = self._mode
        state.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state.autocast = self._before.pop()
        state.refresh()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self:
                return function(*args, **kwargs)

        return wrapped


autocast = auto_cast


def decorate(
    models: Module | list[Module],
    optimizers: Optimizer | list[Optimizer] | None = None,
    level: str = "O2",
    dtype: str = "float16",
    master_weight: bool = True,
) -> Any:
    """Make the weights themselves `dtype` (normalization layers keep float32), for `auto_cast` with level "O2".

    The optimizers then keep a float32 master copy of every such weight, update that, and round it to the weight: steps
    smaller than half a unit of the narrow type would be lost otherwise. The copies are in the optimizer's state
    ("master"), and so are saved and resumed.

    Returns:
        The models, or models and optimizers, as they were given.
    """
    narrow = _dtype(dtype)
    several = models if isinstance(models, list) else [models]
    adapted = [] if optimizers is None else optimizers if isinstance(optimizers, list) else [optimizers]
    if level == "O2":
        masters: dict[int, Array] = {}
        for model in several:
            for parameter in _narrowable(model):
                masters[id(parameter)] = parameter.data
                parameter.data, parameter.grad = parameter.data.astype(narrow), None
        for optimizer in adapted if master_weight else ():
            _keep_masters(optimizer, masters)
    return models if optimizers is None else (models, optimizers)


def _narrowable(model: Module) -> Iterable[Parameter]:
    for module in model.modules():
        if "Norm" not in type(module).__name__:
            for value in vars(module).values():
                if isinstance(value, Parameter) and value.dtype == _WIDE:
                    yield value


def _keep_masters(optimizer: Optimizer, masters: dict[int, Array]) -> None:
    update = optimizer.update

    def update_master(parameter: Tensor, gradient: Array, group: ParameterGroup, own: dict[str, Array]) -> None:
        if parameter.dtype == _WIDE or not is_float(parameter.dtype):
            update(parameter, gradient, group, own)
            return
        # Out of the state while the optimizer looks at it: an empty state is how it knows the first step.
        master = own.pop("master", None)
        if master is None:
            master = masters.pop(id(parameter), parameter.data).astype(_WIDE)
        wide = Tensor(master)
        update(wide, gradient.astype(_WIDE), group, own)
        own["master"] = wide.data
        parameter.data = wide.data.astype(parameter.dtype)

    setattr(optimizer, "update", update_master)  # noqa: B010 - a method of this one optimizer


class ScalerState(TypedDict):
    """What `GradScaler.state_dict` gives."""

    scale: float
    good_steps: int
    bad_steps: int


class GradScaler:
    """Multiplies the loss so that small gradients survive float16, and skips the steps in which they overflow.

    Args:
        enable: False makes every method do what it would without scaling.
        init_loss_scaling: The first factor.
        incr_ratio: The factor grows by it after `incr_every_n_steps` good steps in a row.
        decr_ratio: And shrinks by it after `decr_every_n_nan_or_inf` bad ones in a row.
        incr_every_n_steps: See `incr_ratio`.
        decr_every_n_nan_or_inf: See `decr_ratio`.
        use_dynamic_loss_scaling: False keeps the first factor.
        names: PyTorch's: ``init_scale``, ``growth_factor``, ``backoff_factor``, ``growth_interval``, ``enabled``.

    Example::

        scaler = engine.amp.GradScaler()
        with engine.amp.auto_cast():
            loss = net(x).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    """

    _NAMES = {  # noqa: RUF012
        "init_scale": "init_loss_scaling", "growth_factor": "incr_ratio", "backoff_factor": "decr_ratio",
        "growth_interval": "incr_every_n_steps", "enabled": "enable",
    }  # fmt: skip

    def __init__(
        self,
        enable: bool = True,
        init_loss_scaling: float = 65536.0,
        incr_ratio: float = 2.0,
        decr_ratio: float = 0.5,
        incr_every_n_steps: int = 2000,
        decr_every_n_nan_or_inf: int = 1,
        use_dynamic_loss_scaling: bool = True,
        **names: float,
    ) -> None:
        settings: dict[str, float] = {
            "enable": enable, "init_loss_scaling": init_loss_scaling, "incr_ratio": incr_ratio,
            "decr_ratio": decr_ratio, "incr_every_n_steps": incr_every_n_steps,
        }  # fmt: skip
        for name, value in names.items():
            if name not in self._NAMES:
                raise TypeError(f"GradScaler has no argument {name}")
            settings[self._NAMES[name]] = value
        if settings["incr_ratio"] <= 1.0 or not 0.0 < settings["decr_ratio"] < 1.0:
            raise ValueError("GradScaler: incr_ratio must be above 1 and decr_ratio between 0 and 1")
        self._is_enabled, self._is_dynamic = bool(settings["enable"]), use_dynamic_loss_scaling
        self._scale = float(settings["init_loss_scaling"])
        self._growth, self._shrinkage = settings["incr_ratio"], settings["decr_ratio"]
        self._good_needed, self._bad_needed = int(settings["incr_every_n_steps"]), decr_every_n_nan_or_inf
        self._good = self._bad = 0
        # Optimizers whose gradients were unscaled since the last update, and whether all were finite.
        self._unscaled: dict[int, bool] = {}

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the factor, of which to call backward(); in float32, for float16 could not hold it."""
        if not self._is_enabled:
            return loss
        wide = p.cast(loss, _WIDE) if loss.dtype.itemsize < _WIDE.itemsize else loss
        return wide * self._scale

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the factor, for clipping between backward() and step().

        Raises:
            RuntimeError: They have been already, since the last `update`.
        """
        if not self._is_enabled:
            return
        if id(optimizer) in self._unscaled:
            raise RuntimeError("unscale_ was already called for this optimizer since the last update()")
        is_finite = True
        for parameter in optimizer._all():
            if parameter.grad is not None:
                gradient = parameter.grad.data.astype(_WIDE) * np.float32(1.0 / self._scale)
                is_finite = is_finite and bool(np.isfinite(gradient).all())
                # float16 parameters may have gradients that only fit after unscaling into float32.
                parameter.grad = Tensor(gradient)
        self._unscaled[id(optimizer)] = is_finite

    def step(self, optimizer: Optimizer) -> bool:
        """``optimizer.step()`` on the unscaled gradients, unless one is NaN or Inf; gives whether it was made."""
        if not self._is_enabled:
            optimizer.step()
            return True
        if id(optimizer) not in self._unscaled:
            self.unscale_(optimizer)
        is_finite = self._unscaled[id(optimizer)]
        if is_finite:
            optimizer.step()
        return is_finite

    def update(self) -> None:
        """Adapt the factor to what the steps since the last call found."""
        if not self._is_enabled or not self._unscaled:
            return
        is_good = all(self._unscaled.values())
        self._unscaled = {}
        if not self._is_dynamic:
            return
        self._good, self._bad = (self._good + 1, 0) if is_good else (0, self._bad + 1)
        if self._bad >= self._bad_needed:
            self._scale, self._bad = max(self._scale * self._shrinkage, 1.0), 0
        elif self._good >= self._good_needed:
            grown = self._scale * self._growth
            self._scale, self._good = grown if math.isfinite(grown) else self._scale, 0

    def minimize(self, optimizer: Optimizer, _loss: Tensor | None = None) -> None:
        """`step` and `update` in one, as in Paddle."""
        self.step(optimizer)
        self.update()

    def get_scale(self) -> float:
        """The factor in use."""
        return self._scale if self._is_enabled else 1.0

    get_loss_scaling = get_scale

    def is_enable(self) -> bool:
        return self._is_enabled

    is_enabled = is_enable

    def state_dict(self) -> ScalerState:
        return {"scale": self._scale, "good_steps": self._good, "bad_steps": self._bad}

    def load_state_dict(self, saved: ScalerState) -> None:
        self._scale = float(saved["scale"])
        self._good, self._bad = int(saved["good_steps"]), int(saved["bad_steps"])


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return cast("np.dtype[Any]", np.dtype(ml_dtypes.bfloat16))
    if name != "float16":
        raise ValueError(f'the dtype must be "float16" or "bfloat16", not {name!r}')
    return _FLOAT16
