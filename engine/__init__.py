"""Reverse-mode automatic differentiation on NumPy, one primitive per ONNX operator.

Example::

    import edgec.engine as engine

    w = engine.tensor([2.0], requires_grad=True)
    loss = (w * 3.0 - 10.0) ** 2
    loss.backward()
    w.grad.numpy()  # [-24.]

The names of PyTorch and of Paddle both work: ``requires_grad`` and its opposite ``stop_gradient``, ``tensor`` and
``to_tensor``, ``zero_grad`` and ``clear_grad``.
"""

from __future__ import annotations

from edgec.engine import (
    amp,
    autograd,
    creation,
    data,
    functional,
    functions,
    io,
    jit,
    metrics,
    nn,
    ops,  # noqa: F401
    optim,
    optimizer,
)
from edgec.engine.anomaly import detect_anomaly
from edgec.engine.check_grads import check_grads
from edgec.engine.control_flow import cond, scan, while_loop
from edgec.engine.creation import *  # noqa: F403
from edgec.engine.custom import Function, PyLayer
from edgec.engine.differential import hessian, hvp, jacobian, jvp, vhp, vjp
from edgec.engine.errors import AnomalyError, GradientError, StateDictError, TraceError
from edgec.engine.functions import *  # noqa: F403
from edgec.engine.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from edgec.engine.random import seed
from edgec.engine.recompute import checkpoint
from edgec.engine.recording import RecordedNode, Recording, record
from edgec.engine.registry import PRIMITIVES, Primitive, apply
from edgec.engine.static import StaticFunction, to_static
from edgec.engine.tape import backward, grad
from edgec.engine.tensor import Parameter, Tensor, tensor, to_tensor
from edgec.engine.training import Trainer, fit

__all__ = [
    "PRIMITIVES", "AnomalyError", "Function", "GradientError", "Parameter", "Primitive", "PyLayer", "RecordedNode",
    "Recording", "StateDictError", "StaticFunction", "Tensor", "TraceError", "Trainer", "amp", "apply", "autograd",
    "backward", "check_grads", "checkpoint", "cond", "data", "detect_anomaly", "enable_grad", "fit", "functional",
    "grad", "hessian", "hvp", "io", "is_grad_enabled", "jacobian", "jit", "jvp", "metrics", "nn", "no_grad", "optim",
    "optimizer", "record", "scan", "seed", "set_grad_enabled", "tensor", "to_static", "to_tensor", "vhp", "vjp",
    "while_loop", *creation.__all__, *functions.__all__,
]  # fmt: skip
