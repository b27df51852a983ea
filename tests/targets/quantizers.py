"""How different tools write quantized models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["QUANTIZERS", "Quantizer"]


@dataclass(frozen=True)
class Quantizer:
    """The choices of one tool.

    Attributes:
        activations: Types of activations.
        weights: Types of weights.
        is_symmetric: Whether activations have no zero point.
        has_integer_bias: Whether the bias is int32 in steps of the sum, and not a float.
    """

    name: str
    activations: tuple[type[np.integer[Any]], ...]
    weights: tuple[type[np.integer[Any]], ...]
    is_symmetric: bool
    has_integer_bias: bool


QUANTIZERS = (
    Quantizer("onnxruntime", (np.uint8, np.int8), (np.int8, np.uint8), is_symmetric=False, has_integer_bias=True),
    Quantizer("edgec", (np.uint8,), (np.int8,), is_symmetric=False, has_integer_bias=True),
    Quantizer("tensorrt", (np.int8,), (np.int8,), is_symmetric=True, has_integer_bias=False),
)
