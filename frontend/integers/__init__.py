"""Quantized graphs in integer operators."""

from __future__ import annotations

from edgec.frontend.integers.form import RULES, integer_form

__all__ = ["RULES", "integer_form"]
