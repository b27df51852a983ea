"""Losses, numerically safe at extremes; `edgec.engine.functional` has them too."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgec.engine import primitives as p
from edgec.engine.arrays import is_float
from edgec.engine.tensor import Tensor

__all__ = [
    "Reduction",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]

Reduction: TypeAlias = Literal["mean", "sum", "none"]


def _reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    return losses.mean() if reduction == "mean" else losses.sum()


def mse_loss(x: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    difference = x - target
    return _reduced(difference * difference, reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    return _reduced(abs(x - target), reduction)


def smooth_l1_loss(x: Tensor, target: Tensor, beta: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Quadratic within `beta` of the target, linear beyond."""
    distance = abs(x - target)
    losses = p.where(distance < beta, distance * distance * (0.5 / beta), distance - 0.5 * beta)
    return _reduced(losses, reduction)


def nll_loss(log_probabilities: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Minus the log-probability of the target class.

    Shape: log_probabilities (n, classes, ...), target (n, ...) of integers.
    """
    picked = p.call("GatherElements", log_probabilities, p.unsqueeze(target, [1]), axis=1)
    return _reduced(-p.squeeze(picked, [1]), reduction)


def cross_entropy(
    logits: Tensor, target: Tensor, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Softmax and the negative log-likelihood of the target in one, numerically safe.

    Args:
        logits: Shape (n, classes, ...).
        target: Class numbers of shape (n, ...), or probabilities of the logits' shape.
        label_smoothing: Share of the target that is spread over all classes.
        reduction: Over the samples.
    """
    logs = p.call("LogSoftmax", logits, axis=1)
    if is_float(target.dtype):
        losses = -(logs * target).sum(1)
    else:
        losses = nll_loss(logs, target, "none")
    if label_smoothing:
        losses = losses * (1.0 - label_smoothing) - logs.mean(1) * label_smoothing
    return _reduced(losses, reduction)


def binary_cross_entropy(probabilities: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """The logarithms are held above -100, so that a certain and wrong answer stays finite."""
    log_yes, log_no = (part.log().clip(min=-100.0) for part in (probabilities, 1.0 - probabilities))
    return _reduced(-(target * log_yes + (1.0 - target) * log_no), reduction)


def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """log(1 + exp(x)) - x t, which neither overflows nor cancels."""
    return _reduced(p.call("Softplus", logits) - logits * target, reduction)


def kl_div(log_probabilities: Tensor, target: Tensor, reduction: Reduction | Literal["batchmean"] = "mean") -> Tensor:
    """The sum of target (log target - log_probabilities); the target holds probabilities."""
    safe = p.where(target > 0.0, target, p.full_like(target, 1.0))
    losses = target * (safe.log() - log_probabilities)
    if reduction == "batchmean":
        return losses.sum() / float(losses.shape[0])
    return _reduced(losses, reduction)
