"""`edgec.engine.functional` under the path that PyTorch and Paddle users type."""

from __future__ import annotations

from edgec.engine.functional import *  # noqa: F403
from edgec.engine.functional import __all__ as __all__
