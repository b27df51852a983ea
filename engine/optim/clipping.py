"""Clipping of gradients, under the path of the optimizers; see `edgec.engine.clip_grad`."""

from __future__ import annotations

from edgec.engine.clip_grad import clip_grad_norm_, clip_grad_value_

__all__ = ["clip_grad_norm_", "clip_grad_value_"]
