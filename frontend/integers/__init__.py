"""Quantized graphs in integer operators."""

from __future__ import annotations

from edgec.frontend.integers.form import RULES, integer_form
from edgec.frontend.integers.islands import float_islands

__all__ = ["RULES", "float_islands", "integer_form"]
