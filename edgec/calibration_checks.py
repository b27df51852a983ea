"""Signs that calibration data are scaled in another way than the training data were.

A model does not say what numbers it expects. What gives it away is the state it was trained into: the statistics that
its first normalization recorded, the bounds of its first activation, and whether its answers depend on the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgec.frontend import execute
from edgec.frontend.executor import Array
from edgec.frontend.values import array_of, is_default_op
from edgec.passes.rewiring import scalar_of

__all__ = ["scale_warnings"]

_TOO_LARGE, _TOO_SMALL = 6.0, 0.1
"""In standard deviations of the training data. Wrong scales are off by 58 (deviations for 0 to 255) or 255."""
_SATURATED_SHARE = 0.75
_SAME_ANSWER = 1e-2


def scale_warnings(imported: ir.Model, examples: Sequence[dict[str, Array]]) -> list[str]:
    """What the user should know about the scale of some samples; nothing where all seems well.

    Args:
        imported: The model before batch norms were folded.
        examples: Samples by input name.
    """
    found = [*_normalization(imported, examples), *_saturation(imported, examples)]
    return found or [*_same_answers(imported, examples)]


def _ranges_of(examples: Sequence[dict[str, Array]]) -> str:
    spans = []
    for name in examples[0]:
        values = [sample[name] for sample in examples]
        spans.append(f"'{name}' is from {min(v.min() for v in values):.4g} to {max(v.max() for v in values):.4g}")
    return ", ".join(spans)


_ADVICE = "check that the samples are preprocessed (scaled, normalized, ordered) as for training"


def _normalization(imported: ir.Model, examples: Sequence[dict[str, Array]]) -> Iterator[str]:
    """The first batch norm has seen the training data: its input should be spread as it was then."""
    node = next((node for node in imported.graph if is_default_op(node, "BatchNormalization")), None)
    if node is None or node.inputs[0] is None:
        return
    mean, variance = (array_of(value) for value in node.inputs[3:5])
    if mean is None or variance is None:
        return
    name = str(node.inputs[0].name)
    values = np.stack([execute(imported, sample, outputs=[name])[name] for sample in examples], dtype=np.float64)
    values = np.moveaxis(values, 2, 0).reshape(len(mean), -1)
    means = np.asarray(mean, np.float64).reshape(-1, 1)
    deviation = np.sqrt(variance.astype(np.float64) + 1e-12)
    distance = float(np.median(np.sqrt(np.square(values - means).mean(axis=1)) / deviation))
    spread = float(np.median(values.std(axis=1) / deviation))
    if distance > _TOO_LARGE or spread < _TOO_SMALL:
        factor = distance if distance > _TOO_LARGE else spread
        yield (
            f"the data seem wrongly scaled: before '{node.name}' values are {factor:.2g} times what they were in "
            f"training; {_ranges_of(examples)}; {_ADVICE}"
        )


def _saturation(imported: ir.Model, examples: Sequence[dict[str, Array]]) -> Iterator[str]:
    """After the first activation with an upper bound, few values should lie at it."""
    node = next((node for node in imported.graph if is_default_op(node, "Clip")), None)
    high = scalar_of(node.inputs[2]) if node is not None and len(node.inputs) > 2 else None
    if node is None or high is None:
        return
    name = str(node.outputs[0].name)
    values = np.concatenate([execute(imported, sample, outputs=[name])[name].reshape(-1) for sample in examples])
    active = values[values > values.min()]
    share = float(np.mean(active >= high)) if active.size else 0.0
    if share > _SATURATED_SHARE:
        yield (
            f"the data seem wrongly scaled: {share:.0%} of what '{node.name}' lets through lies at its upper bound "
            f"{high:g}; {_ranges_of(examples)}; {_ADVICE}"
        )


def _same_answers(imported: ir.Model, examples: Sequence[dict[str, Array]]) -> Iterator[str]:
    """Data that are too small leave nothing but the biases."""
    if len(examples) < 2:
        return
    outputs = [execute(imported, sample) for sample in examples]
    for name, first in outputs[0].items():
        if first.dtype.kind != "f" or not first.size:
            return
        stacked = np.stack([result[name] for result in outputs]).astype(np.float64)
        if stacked.std(axis=0).max() > _SAME_ANSWER * np.abs(stacked).max():
            return
    yield f"the model gives nearly the same outputs for all samples; {_ranges_of(examples)}; {_ADVICE}"
