"""Compare gradient rules with central differences in float64, and the gradient of the gradient as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from edgec.engine import tape
from edgec.engine.arrays import Array, is_float
from edgec.engine.tensor import Tensor

__all__ = ["check_grads"]

Function: TypeAlias = "Callable[..., Tensor | Sequence[Tensor]]"


def check_grads(
    fn: Function, *args: Tensor | Array | float, order: int = 2, step: float = 1e-5, tolerance: float = 1e-5
) -> None:
    """Check the derivatives of `fn` up to `order`, along random directions.

    Floating arguments are taken in float64 and varied one after the other; the rest are passed on as they are. For
    the next order the gradient itself is the function, of the arguments and of the output weights.

    Args:
        fn: Takes tensors, gives a tensor or several.
        args: Where to check; keep away from kinks by more than `step`.
        order: 1 checks the gradient, 2 also the gradient of the gradient, and so on.
        step: Distance of the central difference.
        tolerance: Allowed error, relative to the larger of 1 and the derivative.

    Raises:
        AssertionError: A derivative is off, has the wrong shape or dtype; the message names order and argument.

    Example::

        check_grads(lambda x: x.exp().sum(), np.array([0.1, 0.2]), order=3)
    """
    tensors = [_widened(argument) for argument in args]
    _check(fn, tensors, order, 1, step, tolerance, np.random.default_rng(0))


def _widened(argument: Tensor | Array | float) -> Tensor:
    array = argument.data if isinstance(argument, Tensor) else np.asarray(argument)
    return Tensor(array.astype(np.float64), requires_grad=True) if is_float(array.dtype) else Tensor(array)


def _outputs(fn: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    made = fn(*tensors)
    outputs = [made] if isinstance(made, Tensor) else list(made)
    return [output for output in outputs if is_float(output.dtype)]


def _check(
    fn: Function,
    tensors: list[Tensor],
    order: int,
    level: int,
    step: float,
    tolerance: float,
    random: np.random.Generator,
) -> None:
    outputs = _outputs(fn, tensors)
    weights = [Tensor(random.standard_normal(output.shape), requires_grad=True) for output in outputs]
    varied = [index for index, tensor in enumerate(tensors) if tensor.requires_grad]

    def gradient(*values: Tensor) -> list[Tensor]:
        made = _outputs(fn, values[: len(tensors)])
        dependent = [
            (out, weight) for out, weight in zip(made, values[len(tensors) :], strict=True) if out.requires_grad
        ]
        inputs = [values[index] for index in varied]
        if not dependent:
            return [Tensor(np.zeros_like(tensor.data)) for tensor in inputs]
        found = tape.grad(
            [out for out, _ in dependent],
            inputs,
            [weight for _, weight in dependent],
            create_graph=True,
            allow_unused=True,
        )
        return [
            Tensor(np.zeros_like(tensor.data)) if slope is None else slope
            for tensor, slope in zip(inputs, found, strict=True)
        ]

    def weighted_sum(values: Sequence[Tensor]) -> float:
        made = _outputs(fn, values)
        return float(sum(np.vdot(out.data, weight.data) for out, weight in zip(made, weights, strict=True)))

    for index, slope in zip(varied, gradient(*tensors, *weights), strict=True):
        at = f"order {level}, argument {index}"
        tensor = tensors[index]
        assert slope.shape == tensor.shape, f"{at}: gradient of shape {slope.shape}, argument {tensor.shape}"
        assert slope.dtype == np.float64, f"{at}: gradient of dtype {slope.dtype} from float64 values"
        for _ in range(2):
            direction = random.standard_normal(tensor.shape)
            sums = [
                weighted_sum([*tensors[:index], Tensor(tensor.data + sign * direction, True), *tensors[index + 1 :]])
                for sign in (step, -step)
            ]
            numeric, ruled = (sums[0] - sums[1]) / (2 * step), float(np.vdot(slope.data, direction))
            error = abs(numeric - ruled) / max(1.0, abs(numeric))
            assert error <= tolerance, f"{at}: the rule gives {ruled:.8g}, central differences {numeric:.8g}"
    if order > 1 and varied:
        _check(gradient, [*tensors, *weights], order - 1, level + 1, step, tolerance, random)
