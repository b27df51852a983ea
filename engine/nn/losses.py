"""Losses as modules; see the functions of the same names in `edgec.engine.functional`."""

from __future__ import annotations

from edgec.engine import functional as F  # noqa: N812 - the field's name for it
from edgec.engine.losses import Reduction
from edgec.engine.nn.module import Module
from edgec.engine.tensor import Tensor

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "MSELoss", "NLLLoss", "SmoothL1Loss"]


class _Loss(Module):
    def __init__(self, reduction: Reduction = "mean") -> None:
        self.reduction: Reduction = reduction


class MSELoss(_Loss):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(x, target, self.reduction)


class L1Loss(_Loss):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(x, target, self.reduction)


class SmoothL1Loss(_Loss):
    def __init__(self, beta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(x, target, self.beta, self.reduction)


class NLLLoss(_Loss):
    def forward(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(log_probabilities, target, self.reduction)


class CrossEntropyLoss(_Loss):
    def __init__(self, label_smoothing: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, self.label_smoothing, self.reduction)


class BCELoss(_Loss):
    def forward(self, probabilities: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(probabilities, target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target, self.reduction)
