"""Differentiation under the path that PyTorch and Paddle users type: ``engine.autograd.grad``, ``.PyLayer`` ..."""

from __future__ import annotations

from edgec.engine import differential as functional
from edgec.engine.anomaly import detect_anomaly
from edgec.engine.custom import Function, PyLayer
from edgec.engine.differential import hessian, hvp, jacobian, jvp, vhp, vjp
from edgec.engine.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from edgec.engine.tape import backward, grad
from edgec.engine.tensor import Tensor as Variable

__all__ = [
    "Function", "PyLayer", "Variable", "backward", "detect_anomaly", "enable_grad", "functional", "grad", "hessian",
    "hvp", "is_grad_enabled", "jacobian", "jvp", "no_grad", "set_grad_enabled", "vhp", "vjp",
]  # fmt: skip
