"""The losses that are ONNX operators, defined by LogSoftmax and Gather."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Sample
from edgec.engine.samples import integers, normal, positive
from edgec.engine.tensor import Tensor


def _negative_log_likelihood(
    logs: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int | None, reduction: str
) -> Tensor:
    """Minus the log-probability of each target; what is ignored weighs nothing and does not count for the mean."""
    counts = np.ones(target.shape, bool) if ignore_index is None else target.data != ignore_index
    safe = p.constant(np.where(counts, target.data, 0))
    picked = p.squeeze(p.call("GatherElements", logs, p.unsqueeze(safe, [1]), axis=1), [1])
    weights = p.cast(p.constant(counts), logs.dtype)
    if weight is not None:
        weights = weights * p.gather(weight, safe)
    # Where the weight is zero the log-probability may be -inf.
    picked = p.where(p.equal(weights, p.full_like(weights, 0.0)), p.full_like(picked, 0.0), picked)
    losses = -picked * weights
    if reduction == "none":
        return losses
    total = p.reduce_sum(losses)
    return total / p.reduce_sum(weights) if reduction == "mean" else total


@defined("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(
    logs: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Shape: logs (n, classes, ...), target (n, ...), weight (classes)."""
    return _negative_log_likelihood(logs, target, weight, ignore_index, reduction)


def _samples(last: int = 1) -> list[Sample]:
    return [
        Sample([normal(3, 4), integers(3, high=4)], outputs=last),
        Sample([normal(2, 4, 3), integers(2, 3, high=4), positive(4)], {"reduction": "sum"}, outputs=last, order=1),
        Sample([normal(3, 4), np.array([1, 3, 0]), positive(4)], {"ignore_index": 3}, outputs=last, order=1),
        Sample([normal(3, 4) * 1e4, integers(3, high=4)], {"reduction": "none"}, outputs=last, order=1),
        Sample([normal(0, 4), integers(0)], {"reduction": "none"}, outputs=last, reference="", varied=()),
    ]


negative_log_likelihood_loss.samples = _samples


@defined("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> list[Tensor]:
    """The loss and the log-probabilities. Shape: as NegativeLogLikelihoodLoss."""
    logs = p.call("LogSoftmax", scores, axis=1)
    return [_negative_log_likelihood(logs, target, weight, ignore_index, reduction), logs]


softmax_cross_entropy_loss.samples = lambda: _samples(2)
