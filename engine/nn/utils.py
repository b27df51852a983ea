"""Clipping of gradients under PyTorch's path ``nn.utils``."""

from __future__ import annotations

from edgec.engine.clip_grad import clip_grad_norm_, clip_grad_value_

__all__ = ["clip_grad_norm_", "clip_grad_value_"]
