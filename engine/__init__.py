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

from edgec.engine import creation, data, functional, functions, metrics, nn, ops, optim  # noqa: F401
from edgec.engine.check_grads import check_grads
from edgec.engine.creation import *  # noqa: F403
from edgec.engine.errors import GradientError, StateDictError, TraceError
from edgec.engine.functions import *  # noqa: F403
from edgec.engine.modes import enable_grad, is_grad_enabled, no_grad
from edgec.engine.random import seed
from edgec.engine.recording import RecordedNode, Recording, record
from edgec.engine.registry import PRIMITIVES, Primitive, apply
from edgec.engine.tape import backward, grad
from edgec.engine.tensor import Parameter, Tensor, tensor, to_tensor
from edgec.engine.training import Trainer, fit

__all__ = [
    "PRIMITIVES", "GradientError", "Parameter", "Primitive", "RecordedNode", "Recording", "StateDictError", "Tensor",
    "TraceError", "Trainer", "apply", "backward", "check_grads", "data", "enable_grad", "fit", "functional", "grad",
    "is_grad_enabled", "metrics", "nn", "no_grad", "optim", "record", "seed", "tensor", "to_tensor",
    *creation.__all__, *functions.__all__,
]  # fmt: skip
