"""Reference networks and the data they train on."""

from __future__ import annotations

from edgec.models.digits import DigitsCNN

__all__ = ["DigitsCNN"]
