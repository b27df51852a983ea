"""Datasets and loaders under Paddle's path; see `edgec.engine.data`."""

from __future__ import annotations

from edgec.engine.data import *  # noqa: F403
from edgec.engine.data import __all__ as __all__
