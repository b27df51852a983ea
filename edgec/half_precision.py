"""What has to stay in float32 so that a model in float16 keeps to the parity policy: values out of range, products.

The engine executes the graph in float32, to see the range of all values, and in float16. Where an output is too far
from float32, the products whose rounded weights move it most are left alone. How far each of them moves it follows from
reverse passes: for v of random signs, the mean of (v . J d)^2 is the power of J d, the error of the output to first
order, if d are the rounding errors of the weights and J is the output's derivative (M. Hutchinson, "A stochastic
estimator of the trace", 1990).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgec.frontend import execute
from edgec.frontend.values import array_of
from edgec.golden import SEED, execute_samples, golden_samples, reference_model
from edgec.manifest import graph_inputs, tensor_infos
from edgec.parity import POLICY, Tolerance, compare
from edgec.passes import ConvertPrecision
from edgec.passes.convert_precision import KEPT_IN_FLOAT32, PRODUCTS, RECURRENT
from edgec.progress import Progress, silent

__all__ = ["keep_float32", "products_among"]

_SEEDS = (SEED, SEED + 1)
"""Of the inputs of `edgec check`, and of others: networks differ by some dB between samples of one kind."""
_MARGIN_DB, _MARGIN_OF_NARROW_SUMS_DB = 1.0, 6.0
"""How much better than the policy outputs have to be; the engine adds up in float32, see docs/precision.md."""
_DIRECTIONS = 4
_LARGEST = float(np.finfo(np.float16).max)

Samples = Mapping[str, np.ndarray]
Errors = Mapping[str, Mapping[str, np.ndarray]]
"""Rounding errors by product and initializer."""


def keep_float32(
    convert: ConvertPrecision, model: ir.Model, samples: Samples | None = None, progress: Progress = silent
) -> tuple[ConvertPrecision, str]:
    """The conversion to float16, with the nodes that it has to leave alone.

    Args:
        convert: The conversion.
        model: What it is for, with shapes. It is not changed.
        samples: Inputs to judge by, stacked by name; by default random ones, whose range may not be that of the user's:
            then what leaves the range of float16 is told, and not kept.
        progress: Called as the work goes on.

    Returns:
        The conversion, and what the user should know; empty if nothing.
    """
    reference = reference_model(model)
    outputs = tensor_infos(model.graph.outputs)
    inputs = tensor_infos(graph_inputs(model))
    seeds = _SEEDS if samples is None else _SEEDS[:1]
    groups = [golden_samples(reference, inputs, outputs, progress, seed, samples) for seed in seeds]
    beyond = {} if samples is None else _beyond_range(reference, [samples])
    first = frozenset(beyond)
    margin_db = _MARGIN_DB if convert.has_wide_sums else _MARGIN_OF_NARROW_SUMS_DB
    tolerance = replace(POLICY["float16"], min_sqnr_db=POLICY["float16"].min_sqnr_db + margin_db)

    def too_far(kept: frozenset[str]) -> dict[str, float]:
        """The signal to error ratio in dB of the outputs that miss the policy."""
        half = _converted(replace(convert, kept=kept), model)
        found: dict[str, float] = {}
        for samples, expected in groups:
            for name, ratio in _missed(expected, execute_samples(half, samples, progress), tolerance).items():
                found[name] = min(ratio, found.get(name, ratio))
        return found

    missed = too_far(first)
    if not missed:
        return replace(convert, kept=first), _said_of_range(beyond) if first else ""
    errors = _rounding_errors(reference, _converted(replace(convert, kept=first), model))
    still = too_far(first | frozenset(errors))
    if still and samples is None and (beyond := _beyond_range(reference, [given for given, _ in groups])):
        return convert, (
            f"{_said_of_range(beyond)} on random inputs up to 255: give inputs of your own (--calibration) to have in "
            "float32 what float16 does not hold of them, or use --precision fp32"
        )
    if still:
        name = min(still, key=still.__getitem__)
        kind = "random" if samples is None else "the given"
        return convert, (
            f"output '{name}' is {still[name]:.1f} dB from float32 on {kind} inputs even with all products in float32; "
            "use --precision fp32 if `edgec check` with inputs of your own fails"
        )
    ranked = _ranked(reference, [samples for samples, _ in groups], errors, list(missed))
    least, most = 0, len(ranked)  # the first so many are too few, and enough
    while most - least > 1:
        middle = (least + most) // 2
        if too_far(first | frozenset(ranked[:middle])):
            least = middle
        else:
            most = middle
    kept = frozenset(ranked[:most])
    names = [name for name in errors if name in kept]
    some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    note = f"{len(kept)} of {len(errors)} products stay in float32, or float16 would miss its policy: {some}"
    notes = [_said_of_range(beyond), note] if first else [note]
    return replace(convert, kept=first | kept), "; ".join(notes)


def products_among(names: Collection[str], model: ir.Model) -> list[str]:
    """Those of the nodes that multiply by weights, sorted."""
    return sorted(str(n.name) for n in model.graph if n.name in names and n.op_type in (*PRODUCTS, *RECURRENT))


def _beyond_range(reference: ir.Model, groups: Sequence[Samples]) -> dict[str, float]:
    """The nodes that read or compute numbers that float16 does not hold, and how large they are."""
    largest: dict[str, float] = defaultdict(float)

    def watch(name: str, array: np.ndarray) -> None:
        if array.dtype == np.float32 and array.size:
            sizes = np.abs(array[np.isfinite(array)])
            largest[name] = max(largest[name], float(sizes.max(initial=0)))

    for samples, index in ((group, index) for group in groups for index in range(len(next(iter(group.values()), ())))):
        execute(reference, {name: array[index] for name, array in samples.items()}, hook=watch, integers=False)
    sizes = {
        str(node.name): max(largest.get(str(v.name), 0.0) for v in (*node.inputs, *node.outputs) if v is not None)
        for node in reference.graph
        if node.op_type not in KEPT_IN_FLOAT32
    }
    return {name: size for name, size in sizes.items() if size > _LARGEST}


def _said_of_range(beyond: Mapping[str, float]) -> str:
    name, size = next(iter(beyond.items()))
    return (
        f"{len(beyond)} nodes, '{name}' the first with {size:.3g}, see numbers up to {max(beyond.values()):.3g}, which "
        "float16 does not hold"
    )


def _converted(convert: ConvertPrecision, model: ir.Model) -> ir.Model:
    half = model.clone()
    convert(half)
    return half


def _missed(expected: Samples, results: Sequence[Samples], tolerance: Tolerance) -> dict[str, float]:
    missed = {}
    for name, reference in expected.items():
        if reference.dtype.kind == "f" and reference.size:
            parity = compare(name, reference, np.stack([result[name] for result in results]), tolerance)
            if not parity.passed:
                missed[name] = parity.sqnr_db
    return missed


def _rounding_errors(reference: ir.Model, half: ir.Model) -> Errors:
    """What the conversion adds to the constants of each product and recurrent layer."""
    converted = {node.name: node for node in half.graph}
    errors: dict[str, dict[str, np.ndarray]] = {}
    for node in reference.graph:
        if node.op_type not in (*PRODUCTS, *RECURRENT) or node.name not in converted:
            continue
        for value, other in zip(node.inputs, converted[node.name].inputs, strict=True):
            array, rounded = array_of(value), array_of(other)
            if value is not None and value.is_initializer() and array is not None and rounded is not None:
                errors.setdefault(str(node.name), {})[str(value.name)] = np.subtract(rounded, array, dtype=np.float32)
    return errors


def _ranked(reference: ir.Model, groups: Sequence[Samples], errors: Errors, outputs: Sequence[str]) -> list[str]:
    """The products, first those whose constants' errors are the largest part of an output."""
    from edgec.engine import grad, to_tensor
    from edgec.frontend import execute_tensors, parameters_of

    rng = np.random.default_rng(SEED)
    moved: dict[str, dict[str, float]] = {output: defaultdict(float) for output in outputs}
    read = sorted({name for constants in errors.values() for name in constants})
    for samples, index in ((group, index) for group in groups for index in range(len(next(iter(group.values()))))):
        inputs = {name: to_tensor(array[index]) for name, array in samples.items()}
        parameters = parameters_of(reference)
        wanted = [parameters[name] for name in read]
        results = execute_tensors(reference, inputs, initializers=parameters, outputs=outputs)
        for output in outputs:
            for _ in range(0 if results[output].stop_gradient else _DIRECTIONS):
                signs = to_tensor(rng.choice([-1.0, 1.0], results[output].shape).astype(np.float32))
                found = grad([results[output]], wanted, [signs], allow_unused=True, retain_graph=True)
                gradients = dict(zip(read, found, strict=True))
                for product, constants in errors.items():
                    moves = [(gradients[name], error) for name, error in constants.items()]
                    step = sum(np.vdot(slope.numpy(), error) for slope, error in moves if slope is not None)
                    moved[output][product] += float(step) ** 2
    totals = [(powers, sum(powers.values()) or 1.0) for powers in moved.values()]
    return sorted(errors, key=lambda name: max(powers[name] / total for powers, total in totals), reverse=True)
