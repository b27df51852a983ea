"""Optimizers, learning-rate schedules, and clipping of gradients."""

from __future__ import annotations

from edgec.engine.optim import algorithms, lr_scheduler
from edgec.engine.optim.algorithms import *  # noqa: F403
from edgec.engine.optim.algorithms import RMSprop
from edgec.engine.optim.clipping import clip_grad_norm_
from edgec.engine.optim.lr_scheduler import *  # noqa: F403
from edgec.engine.optim.optimizer import Optimizer, OptimizerState, ParameterGroup

RMSProp = RMSprop  # Paddle's spelling

__all__ = [
    "Optimizer", "OptimizerState", "ParameterGroup", "RMSProp", "clip_grad_norm_", "lr_scheduler",
    *algorithms.__all__, *lr_scheduler.__all__,
]  # fmt: skip
