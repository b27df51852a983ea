"""Find the first operator that makes NaN or Inf out of finite values, forward or backward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgec.engine.arrays import Array, is_float
from edgec.engine.errors import AnomalyError
from edgec.engine.modes import state
from edgec.engine.recording import user_line

if TYPE_CHECKING:
    from edgec.engine.node import Node
    from edgec.engine.tensor import Tensor

__all__ = ["check_results", "detect_anomaly", "run_rule"]


class detect_anomaly:  # noqa: N801 - PyTorch's name, used like a function
    """Inside, an operator or gradient that produces NaN or Inf raises AnomalyError, which names it and its line.

    An infinity that came in (a mask of -inf, say) may go out again; what counts is the operator that made the first.
    Every result is searched, so it is for finding a fault, not for training.

    Raises:
        AnomalyError: Forward or backward, by the operator that produced the value.

    Example::

        with engine.detect_anomaly():
            loss = (x.log() * y).sum()
            loss.backward()
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(state.finds_anomalies)
        state.finds_anomalies = self._enabled
        state.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state.finds_anomalies = self._before.pop()
        state.refresh()


def check_results(op_type: str, inputs: Iterable[Array | None], results: Iterable[Array]) -> None:
    """Raise if a forward produced NaN or Inf."""
    produced = _produced(inputs, results)
    if produced is not None:
        raise AnomalyError(
            f"{op_type} produced {produced} from finite inputs"
            if produced == "Inf"
            else f"{op_type} produced {produced}",
            where=user_line(),
            fix="look at the operator's inputs there: a log, division or root of zero, an overflow, a missing clip",
        )


def run_rule(node: Node, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """`Node.run_rule`, and raise if a gradient comes out as NaN or Inf."""
    made = node.run_rule(gradients)
    produced = _produced(
        [None if gradient is None else gradient.array for gradient in gradients],
        [
            gradient.array
            for gradient, is_wanted in zip(made, node.wanted, strict=False)
            if gradient is not None and is_wanted
        ],
    )
    if produced is not None:
        raise AnomalyError(
            f"the gradient of {node.primitive.name} produced {produced}",
            where=getattr(node, "source", None) or f"the call of {node.primitive.name}, outside detect_anomaly()",
            fix="keep the forward value away from where the slope is infinite or undefined, or clip it there",
        )
    return made


def _produced(given: Iterable[Array | None], made: Iterable[Array]) -> str | None:
    """NaN or Inf if that is in `made` and nothing in `given` explains it."""
    results = [array for array in made if is_float(array.dtype)]
    if all(_is_finite(array) for array in results):
        return None
    inputs = [array for array in given if array is not None and is_float(array.dtype)]
    if any(np.isnan(array).any() for array in inputs):
        return None
    if any(np.isnan(array).any() for array in results):
        return "NaN"
    return "Inf" if all(_is_finite(array) for array in inputs) else None


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array).all())
