"""How much accuracy an artifact loses: scores on samples, by the user's metric or by agreement with the float model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgec.bundle import Bundle
from edgec.devices import open_runner
from edgec.errors import EdgecError
from edgec.progress import Progress, silent
from edgec.samples import Samples
from edgec.sources import call_reference, origin

__all__ = ["Judge", "Metric", "agreement", "are_probabilities", "open_metric"]

Array: TypeAlias = NDArray[np.generic]
Metric: TypeAlias = Callable[[Mapping[str, Array], Mapping[str, Array]], float]
"""Outputs and inputs by name, stacked over the samples along a new first axis -> a score in percent, more is better."""

_SIGNATURE = "it takes outputs and inputs by name, both with a leading sample axis, and returns a score in percent"


def open_metric(metric: str | Metric) -> Metric:
    """The function that a text stands for; a function as it is.

    Raises:
        EdgecError: It cannot be imported or is no function.
    """
    fix = f"give package.module:callable; {_SIGNATURE}"
    found = call_reference(metric, "metric", fix, calls=False) if isinstance(metric, str) else metric
    if not callable(found):
        raise EdgecError(f"the metric '{metric}' is a {type(found).__name__}, not a function", fix=fix)
    return found


class Judge:
    """Scores artifacts on samples.

    Args:
        samples: To be gone through once for each artifact.
        metric: Of the user; None for the agreement with the outputs of the first artifact.
        progress: Called after every sample.
    """

    def __init__(self, samples: Samples, metric: Metric | None = None, progress: Progress = silent) -> None:
        self._samples, self._metric, self._progress = samples, metric, progress
        self._expected: dict[str, Array] | None = None
        self.count = 0

    def score(self, bundle: Bundle) -> float:
        """Of an artifact for this machine, in percent.

        Raises:
            EdgecError: There are no samples; the metric failed, or does not return a number.
        """
        outputs, inputs = self._run(bundle)
        if self._metric is None:
            self._expected = self._expected or outputs
            return min(agreement(self._expected[name], array) for name, array in outputs.items())
        try:
            score = float(self._metric(outputs, inputs))
        except Exception as err:  # the user's own code: whatever it raises
            raise EdgecError(f"the metric failed: {err}", where=origin(err), fix=_SIGNATURE) from err
        if not math.isfinite(score):
            raise EdgecError(f"the metric returned {score}, not a score in percent", fix=_SIGNATURE)
        return score

    def _run(self, bundle: Bundle) -> tuple[dict[str, Array], dict[str, Array]]:
        inputs: dict[str, list[Array]] = {info.name: [] for info in bundle.inputs}
        outputs: dict[str, list[Array]] = {info.name: [] for info in bundle.outputs}
        self.count = 0
        with open_runner(bundle, "inprocess") as runner:
            for sample in self._samples:
                (results,) = runner.run([[sample[name] for name in inputs]])
                for kept, array in zip(outputs.values(), results, strict=True):
                    kept.append(array)
                for name in inputs if self._metric is not None else ():
                    inputs[name].append(sample[name])
                self.count += 1
                self._progress("judge", self.count, self._samples.count or 0)
        if not self.count:
            raise EdgecError("there are no samples to judge by", where=self._samples.source)
        stacked = {name: np.stack(arrays) for name, arrays in outputs.items()}
        return stacked, {name: np.stack(arrays) for name, arrays in inputs.items() if arrays}


def agreement(expected: Array, actual: Array) -> float:
    """How far an output is that of the float model, in percent.

    Integers: the share that is the same. Scores of classes (samples of two axes, or fewer) and rows of probabilities
    (more axes): the share with the same largest one. All else: 100 · (1 - power of the error / power of the values),
    not below 0.

    Args:
        expected: Shape (samples, *output shape).
        actual: The same.
    """
    if not expected.size:
        return 100.0
    if expected.dtype.kind != "f":
        return 100 * float(np.mean(expected == actual))
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    if a.ndim >= 2 and a.shape[-1] > 1 and (_are_scores(a) or are_probabilities(a)):
        return 100 * float(np.mean(a.argmax(-1) == b.argmax(-1)))
    error, power = float(np.square(a - b).sum()), float(np.square(a).sum())
    if not power:
        return 100.0 if not error else 0.0
    return max(0.0, 100 * (1 - error / power))


def _are_scores(stacked: NDArray[np.float64]) -> bool:
    return all(extent == 1 for extent in stacked.shape[1:-1]) and stacked.ndim <= 3


def are_probabilities(stacked: NDArray[np.float64]) -> bool:
    """Whether the last axis of an output holds shares of one."""
    return bool((stacked >= 0).all() and np.allclose(stacked.sum(-1), 1, atol=1e-3))
