"""The primitives, one file per family; importing this package fills `edgec.engine.registry.PRIMITIVES`."""

from __future__ import annotations

from edgec.engine.ops import (  # noqa: F401
    activations,
    arithmetic,
    attention,
    bits,
    contraction,
    convolution,
    gates,
    group_normalization,
    indexing,
    linear,
    logic,
    losses,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    regions,
    resize,
    sampling,
    selection,
    shape,
    spectra,
    trigonometry,
)
