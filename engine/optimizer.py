"""The optimizers with Paddle's arguments: ``engine.optimizer.Adam(learning_rate=0.001, parameters=net.parameters())``.

They are those of `edgec.engine.optim`; ``grad_clip`` takes a ClipGradByValue, ClipGradByNorm or ClipGradByGlobalNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edgec.engine import optim
from edgec.engine.optim import lr_scheduler as lr
from edgec.engine.tensor import Tensor

__all__ = ["SGD", "Adam", "AdamW", "Lamb", "Momentum", "RMSProp", "lr"]

# Paddle's argument -> ours.
_NAMES = {"epsilon": "eps", "lamb_weight_decay": "weight_decay", "use_nesterov": "nesterov", "rho": "alpha"}


def _with_paddle_arguments(
    kind: Callable[..., optim.Optimizer], rate: float, **fixed: Any
) -> Callable[..., optim.Optimizer]:
    def make(
        learning_rate: float = rate,
        parameters: Iterable[Tensor] = (),
        weight_decay: float | None = None,
        grad_clip: Callable[[Iterable[Tensor]], None] | None = None,
        **settings: Any,
    ) -> optim.Optimizer:
        given = {**fixed, **{_NAMES.get(name, name): value for name, value in settings.items()}}
        if "beta1" in given or "beta2" in given:
            given["betas"] = (given.pop("beta1", 0.9), given.pop("beta2", 0.999))
        if weight_decay is not None:
            given["weight_decay"] = weight_decay
        made = kind(parameters, lr=learning_rate, **given)
        made.grad_clip = grad_clip
        return made

    return make


SGD = _with_paddle_arguments(optim.SGD, 0.001)
Momentum = _with_paddle_arguments(optim.SGD, 0.001, momentum=0.9)
Adam = _with_paddle_arguments(optim.Adam, 0.001)
AdamW = _with_paddle_arguments(optim.AdamW, 0.001, weight_decay=0.01)
Lamb = _with_paddle_arguments(optim.Lamb, 0.001, weight_decay=0.01)
RMSProp = _with_paddle_arguments(optim.RMSprop, 0.001, alpha=0.95, eps=1e-6)
