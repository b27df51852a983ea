"""What the reference networks have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edgec.engine import nn

__all__ = ["Network"]


class Network(nn.Module):
    """A module that knows the shapes it is deployed with: it can be made, traced and compiled by its name alone."""

    input_shapes: ClassVar[Mapping[str, tuple[int, ...]]]
