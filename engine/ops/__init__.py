"""The primitives, one file per family; importing this package fills `edgec.engine.registry.PRIMITIVES`."""

from __future__ import annotations

from edgec.engine.ops import (  # noqa: F401
    activations,
    arithmetic,
    attention,
    bits,
    casting,
    contraction,
    convolution,
    gates,
    group_normalization,
    indexing,
    integer_products,
    linear,
    logic,
    losses,
    lp_pooling,
    moving,
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
