"""Friendly functions over the primitives, with the names and arguments of PyTorch; channels come first."""

from __future__ import annotations

from edgec.engine import losses
from edgec.engine.functional import activations, attention, convolution, dense, normalization, pooling
from edgec.engine.functional.activations import *  # noqa: F403
from edgec.engine.functional.attention import *  # noqa: F403
from edgec.engine.functional.convolution import *  # noqa: F403
from edgec.engine.functional.dense import *  # noqa: F403
from edgec.engine.functional.normalization import *  # noqa: F403
from edgec.engine.functional.pooling import *  # noqa: F403
from edgec.engine.losses import *  # noqa: F403

__all__ = [
    *activations.__all__, *attention.__all__, *convolution.__all__, *dense.__all__, *losses.__all__,
    *normalization.__all__, *pooling.__all__,
]  # fmt: skip
