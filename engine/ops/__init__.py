"""The primitives, one file per family; importing this package fills `edgec.engine.registry.PRIMITIVES`."""

from __future__ import annotations

from edgec.engine.ops import (  # noqa: F401
    activations,
    arithmetic,
    convolution,
    indexing,
    linear,
    logic,
    normalization,
    pooling,
    quantization,
    reductions,
    resize,
    shape,
)
