"""The losses that are ONNX operators, defined by LogSoftmax and Gather."""

from __future__ import annotations

import numpy as np

from edgec.engine import primitives as p
from edgec.engine.arrays import Array
from edgec.engine.modes import is_first_order
from edgec.engine.ops.activations import log_softmax
from edgec.engine.ops.defined import defined
from edgec.engine.registry import Gradients, Sample
from edgec.engine.samples import integers, normal, positive
from edgec.engine.tape import Node
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

_defined_forward, _defined_rule = softmax_cross_entropy_loss.forward, softmax_cross_entropy_loss.rule
softmax_cross_entropy_loss.keeps_outputs = (1,)


def _is_plain(scores: Array | Tensor, weight: object, ignore_index: object, reduction: object) -> bool:
    """The case that networks are trained with, which is worth a shorter way; it gives the same bits."""
    return len(scores.shape) == 2 and scores.shape[0] > 0 and weight is ignore_index is None and reduction == "mean"


def _forward(
    scores: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Array | tuple[Array, ...]:
    if not _is_plain(scores, weight, ignore_index, reduction):
        return _defined_forward(scores, target, weight, ignore_index=ignore_index, reduction=reduction)
    logs = log_softmax.forward(scores, axis=1)
    assert isinstance(logs, np.ndarray)
    return np.asarray(np.mean(-logs[np.arange(len(target)), target], dtype=logs.dtype)), logs


@softmax_cross_entropy_loss.gradient
def _(call: Node, d_loss: Tensor | None, d_logs: Tensor | None = None) -> Gradients:
    scores, target = call.input(0), call.input(1)
    weight = call.input(2) if call.has(2) else None
    is_plain = _is_plain(scores, weight, call.attribute("ignore_index"), call.attribute("reduction"))
    if d_loss is None or d_logs is not None or not is_plain or not is_first_order():
        assert _defined_rule is not None
        return _defined_rule(call, d_loss, d_logs)
    # (softmax - one at the target) / n
    share = d_loss.array * scores.dtype.type(1.0 / len(target))
    gradient = np.exp(call.output(1).array)
    gradient *= share
    gradient[np.arange(len(target)), target.array] -= share
    return (p.constant(gradient),)


softmax_cross_entropy_loss.forward = _forward
