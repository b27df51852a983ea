"""Losses, numerically safe at extremes; `edgec.engine.functional` has them too. Arguments as in PyTorch."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from edgec.engine import primitives as p
from edgec.engine import recording
from edgec.engine.arrays import is_float
from edgec.engine.ctc import ctc_loss
from edgec.engine.modes import state
from edgec.engine.reduction import Reduction, reduced
from edgec.engine.tensor import Tensor

__all__ = [
    "Reduction", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy",
    "ctc_loss", "dice_loss", "focal_loss", "huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss",
    "sigmoid_focal_loss", "smooth_l1_loss", "triplet_margin_loss",
]  # fmt: skip

KLReduction: TypeAlias = Reduction | Literal["batchmean"]


# --- regression ---


def mse_loss(x: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    difference = x - target
    return reduced(difference * difference, reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    return reduced(abs(x - target), reduction)


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: Reduction = "mean", beta: float = 1.0) -> Tensor:
    """Quadratic within `beta` of the target, linear with slope 1 beyond."""
    if beta == 0.0:
        return l1_loss(x, target, reduction)
    distance = abs(x - target)
    losses = p.where(distance < beta, distance * distance * (0.5 / beta), distance - 0.5 * beta)
    return reduced(losses, reduction)


def huber_loss(x: Tensor, target: Tensor, reduction: Reduction = "mean", delta: float = 1.0) -> Tensor:
    """Half the square within `delta` of the target, linear with slope `delta` beyond. Source: Huber 1964."""
    distance = abs(x - target)
    losses = p.where(distance < delta, distance * distance * 0.5, (distance - 0.5 * delta) * delta)
    return reduced(losses, reduction)


# --- classification ---


def nll_loss(
    log_probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the log-probability of the target class.

    Args:
        log_probabilities: Shape (n, classes, ...).
        target: Class numbers of shape (n, ...).
        weight: One per class.
        ignore_index: Targets of this number count nothing, in the mean neither.
        reduction: Over the targets; the mean is the weighted one.
    """
    counted = _counted(target, log_probabilities, ignore_index)
    safe = target if counted is None else p.where(counted, target, p.full_like(target, 0))
    picked = p.squeeze(p.call("GatherElements", log_probabilities, p.unsqueeze(safe, [1]), axis=1), [1])
    return _weighted(-picked, _target_weights(safe, weight, counted), reduction)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax and the negative log-likelihood of the target in one, numerically safe.

    Args:
        logits: Shape (n, classes, ...).
        target: Class numbers of shape (n, ...), or probabilities of the logits' shape.
        weight: One per class.
        ignore_index: Class numbers of this value count nothing.
        reduction: Over the samples. With class numbers the mean is the one weighted by `weight`.
        label_smoothing: Share of the target that is spread over all classes.

    Source: Szegedy et al. 2016, section 7 (label smoothing).
    """
    is_common = weight is None and label_smoothing == 0.0 and reduction == "mean" and not is_float(target.dtype)
    is_common = is_common and logits.ndim == 2 and len(logits) > 0 and not state.is_special
    if is_common and _counted(target, logits, ignore_index) is None:
        return p.call("SoftmaxCrossEntropyLoss", logits, target)  # the same bits, sooner
    logs = p.call("LogSoftmax", logits, axis=1)
    shaped = None if weight is None else p.reshape(weight, [-1, *[1] * (logits.ndim - 2)])
    spread = logs if shaped is None else logs * shaped
    classes = logits.shape[1]
    if is_float(target.dtype):
        if label_smoothing:
            target = target * (1.0 - label_smoothing) + label_smoothing / classes
        losses = -(spread * target).sum(1)
        # PyTorch divides by the number of samples here, whatever their weights.
        return losses.sum() / float(max(losses.size, 1)) if reduction == "mean" else reduced(losses, reduction)
    if not label_smoothing:
        return nll_loss(logs, target, weight, ignore_index, reduction)
    counted = _counted(target, logits, ignore_index)
    safe = target if counted is None else p.where(counted, target, p.full_like(target, 0))
    picked = p.squeeze(p.call("GatherElements", spread, p.unsqueeze(safe, [1]), axis=1), [1])
    losses = -picked * (1.0 - label_smoothing) - spread.sum(1) * (label_smoothing / classes)
    if counted is not None:
        losses = p.mask(counted, losses)
    weights = _target_weights(safe, weight, counted)
    if reduction == "mean" and weights is not None:
        return losses.sum() / weights.sum()
    return reduced(losses, reduction)


def _counted(target: Tensor, like: Tensor, ignore_index: int) -> Tensor | None:
    """Which targets count, or None if all do.

    Raises:
        IndexError: A target is no class number. (A wrong label would otherwise wrap around or read elsewhere.)
    """
    active = recording.active()
    if active is not None and active.is_traced(target):
        return target != ignore_index  # what the next targets hold is not known
    numbers, classes = target.data, like.shape[1]
    wrong = (numbers != ignore_index) & ((numbers < 0) | (numbers >= classes))
    if wrong.any():
        raise IndexError(f"target {numbers[wrong][0]} is no class: there are {classes}, from 0")
    if not (numbers == ignore_index).any():
        return None
    return target != ignore_index


def _target_weights(target: Tensor, weight: Tensor | None, counted: Tensor | None) -> Tensor | None:
    if weight is None:
        return None if counted is None else p.cast(counted, np.float32)
    weights = p.gather(weight, target)
    return weights if counted is None else p.mask(counted, weights)


def _weighted(losses: Tensor, weights: Tensor | None, reduction: Reduction) -> Tensor:
    if weights is None:
        return reduced(losses, reduction)
    weights = p.cast(weights, losses.dtype)
    losses = losses * weights
    return losses.sum() / weights.sum() if reduction == "mean" else reduced(losses, reduction)


def binary_cross_entropy(
    probabilities: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """The logarithms are held above -100, so that a certain and wrong answer stays finite."""
    log_yes, log_no = (part.log().clip(min=-100.0) for part in (probabilities, 1.0 - probabilities))
    losses = -(target * log_yes + (1.0 - target) * log_no)
    return reduced(losses if weight is None else losses * weight, reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """log(1 + exp(x)) - x t, which neither overflows nor cancels; `pos_weight` multiplies the loss of positives."""
    if pos_weight is None:
        losses = p.call("Softplus", logits) - logits * target
    else:
        # softplus(-x) = softplus(x) - x
        factor = 1.0 + (pos_weight - 1.0) * target
        losses = (1.0 - target) * logits + factor * p.call("Softplus", -logits)
    return reduced(losses if weight is None else losses * weight, reduction)


def sigmoid_focal_loss(
    logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross entropy that counts easy elements less; a negative `alpha` leaves the classes unweighted.

    Source: Lin et al. 2017, eq. 5.
    """
    losses = binary_cross_entropy_with_logits(logits, target, reduction="none")
    chance = p.sigmoid(logits)
    wrong = chance + target - chance * target * 2.0  # 1 - p_t
    losses = losses * (wrong * wrong if gamma == 2.0 else wrong**gamma)
    if alpha >= 0:
        losses = losses * (target * (2.0 * alpha - 1.0) + (1.0 - alpha))
    return reduced(losses, reduction)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
) -> Tensor:
    """The focal loss of one class of several: (1 - p)^gamma times the cross entropy.

    Shape: logits (n, classes, ...), target (n, ...) of integers.

    Source: Lin et al. 2017, eq. 4.
    """
    losses = cross_entropy(logits, target, reduction="none", ignore_index=ignore_index)
    wrong = 1.0 - p.exp(-losses)
    losses = losses * (wrong * wrong if gamma == 2.0 else wrong**gamma)
    counted = _counted(target, logits, ignore_index)
    safe = target if counted is None else p.where(counted, target, p.full_like(target, 0))
    return _weighted(losses, _target_weights(safe, weight, counted), reduction)


def kl_div(
    log_probabilities: Tensor, target: Tensor, reduction: KLReduction = "mean", log_target: bool = False
) -> Tensor:
    """The sum of target (log target - log_probabilities); the target holds probabilities, or their logarithms."""
    if log_target:
        losses = p.exp(target) * (target - log_probabilities)
    else:
        safe = p.where(target > 0.0, target, p.full_like(target, 1.0))
        losses = target * (safe.log() - log_probabilities)
    if reduction == "batchmean":
        return losses.sum() / float(losses.shape[0])
    return reduced(losses, reduction)


# --- similarity and overlap ---


def cosine_embedding_loss(
    x: Tensor, y: Tensor, target: Tensor, margin: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """1 - cos for pairs with target 1, cos above the margin for target -1. Shape: x, y (n, d), target (n)."""
    # As PyTorch: epsilon under the root, not a floor of the norms.
    squares = [(part * part).sum(-1) + 1e-12 for part in (x, y)]
    cosine = (x * y).sum(-1) / (squares[0] * squares[1]).sqrt()
    losses = p.where(p.equal(target, p.full_like(target, 1)), 1.0 - cosine, p.call("Relu", cosine - margin))
    return reduced(losses, reduction)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """The positive must be nearer to the anchor than the negative, by `margin`. Shape: (n, d) each.

    Source: Schroff et al. 2015, eq. 3, with distances instead of their squares, as PyTorch has it.
    """
    near, far = (p.reduce("ReduceL2", anchor - other + 1e-6, [-1]) for other in (positive, negative))
    return reduced(p.call("Relu", near - far + margin), reduction)


def dice_loss(probabilities: Tensor, target: Tensor, eps: float = 1.0) -> Tensor:
    """One minus the overlap 2 |a b| / (|a| + |b|), over everything but the batch. Source: Milletari et al. 2016."""
    axes = list(range(1, probabilities.ndim))
    overlap = (probabilities * target).sum(axes)
    total = probabilities.sum(axes) + target.sum(axes)
    return 1.0 - ((overlap * 2.0 + eps) / (total + eps)).mean()
