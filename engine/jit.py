"""Static mode under Paddle's path: ``engine.jit.to_static``."""

from __future__ import annotations

from edgec.engine.static import StaticFunction, to_static

__all__ = ["StaticFunction", "to_static"]
