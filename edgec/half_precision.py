"""What has to stay in float32 so that a model in float16 keeps to the parity policy: values out of range, products.

The engine executes the graph in float32, to see the range of all values, and in float16. Where an output is too far
from float32, the products whose rounded factors move it most are left alone, and what lies before them up to the next
products. How far each of them moves it follows from reverse passes: for v of random signs, the mean of (v . J d)^2 is
the power of J d, the error of the output to first order, if d are the rounding errors of the factors and J is the
output's derivative (M. Hutchinson, "A stochastic estimator of the trace", 1990).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from edgec.engine import Tensor

__all__ = ["keep_float32", "products_among"]

_SEEDS = (SEED, SEED + 1)
"""Of the inputs of `edgec check`, and of others: networks differ by some dB between samples of one kind."""
_MARGIN_DB, _MARGIN_OF_NARROW_SUMS_DB = 2.0, 6.0
"""How much better than the policy outputs have to be: where few large numbers make an output, sums in another order
moved it by 1.8 dB; and the engine adds up in float32, see docs/precision.md."""
_DIRECTIONS = 4
_RANKED = (*PRODUCTS, *RECURRENT)
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
    judge = _Judge.of(convert, model, samples, progress)
    beyond = {} if samples is None else judge.beyond_range()
    first, notes = frozenset(beyond), [f"{_said_of_range(beyond)}: they stay in float32"] if beyond else []
    missed = judge.too_far(first)
    if missed and samples is None and (beyond := judge.beyond_range()):
        notes.append(
            f"{_said_of_range(beyond)} on random inputs up to 255: give inputs of your own (--calibration) to have in "
            "float32 what float16 does not hold of them, or use --precision fp32"
        )
        judge = judge.within_range()
        missed = judge.too_far(first)
    if not missed:
        return replace(convert, kept=first), "; ".join(notes)
    errors = _rounding_errors(judge.reference, _converted(replace(convert, kept=first), model))
    still = judge.too_far(first | _with_neighbours(errors, model))
    if still:
        name = min(still, key=still.__getitem__)
        notes.append(
            f"output '{name}' is {still[name]:.1f} dB from float32 even with all products in float32; use "
            "--precision fp32 if `edgec check` with inputs of your own fails"
        )
        return replace(convert, kept=first), "; ".join(notes)
    ranked = _ranked(judge.reference, [given for given, _ in judge.groups], errors, list(missed))
    least, most = 0, len(ranked)  # the first so many are too few, and enough
    while most - least > 1:
        middle = (least + most) // 2
        if judge.too_far(first | _with_neighbours(ranked[:middle], model)):
            least = middle
        else:
            most = middle
    names = [name for name in errors if name in ranked[:most]]
    some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    notes.append(f"{most} of {len(errors)} products stay in float32, or float16 would miss its policy: {some}")
    return replace(convert, kept=first | _with_neighbours(ranked[:most], model)), "; ".join(notes)


@dataclass(frozen=True)
class _Judge:
    """Tells whether a model in float16 keeps to the policy.

    Attributes:
        reference: The model in float32.
        groups: Inputs, and what the reference makes of them, stacked by name.
    """

    convert: ConvertPrecision
    model: ir.Model
    reference: ir.Model
    groups: Sequence[tuple[Samples, Samples]]
    progress: Progress

    @classmethod
    def of(cls, convert: ConvertPrecision, model: ir.Model, samples: Samples | None, progress: Progress) -> _Judge:
        reference = reference_model(model)
        inputs, outputs = tensor_infos(graph_inputs(model)), tensor_infos(model.graph.outputs)
        seeds = _SEEDS if samples is None else _SEEDS[:1]
        groups = [golden_samples(reference, inputs, outputs, progress, seed, samples) for seed in seeds]
        return cls(convert, model, reference, groups, progress)

    def too_far(self, kept: frozenset[str]) -> dict[str, float]:
        """The signal to error ratio in dB of the outputs that miss the policy."""
        margin_db = _MARGIN_DB if self.convert.has_wide_sums else _MARGIN_OF_NARROW_SUMS_DB
        tolerance = replace(POLICY["float16"], min_sqnr_db=POLICY["float16"].min_sqnr_db + margin_db)
        half = _converted(replace(self.convert, kept=kept), self.model)
        found: dict[str, float] = {}
        for samples, expected in self.groups:
            for name, ratio in _missed(expected, execute_samples(half, samples, self.progress), tolerance).items():
                found[name] = min(ratio, found.get(name, ratio))
        return found

    def beyond_range(self) -> dict[str, float]:
        """The nodes that read or compute numbers that float16 does not hold, and how large they are."""
        found: dict[str, float] = {}
        for given, _ in self.groups:
            for sample in _unstacked(given):
                for name, size in _beyond_range(self.reference, sample).items():
                    found[name] = max(size, found.get(name, 0.0))
        order = {str(node.name): place for place, node in enumerate(self.reference.graph)}
        return dict(sorted(found.items(), key=lambda row: order[row[0]]))

    def within_range(self) -> _Judge:
        """The same with those inputs only of which float16 holds everything."""
        groups: list[tuple[Samples, Samples]] = []
        for given, expected in self.groups:
            fitting = [i for i, sample in enumerate(_unstacked(given)) if not _beyond_range(self.reference, sample)]
            if fitting:
                groups.append((_only(given, fitting), _only(expected, fitting)))
        return replace(self, groups=groups)


def _with_neighbours(products: Collection[str], model: ir.Model) -> frozenset[str]:
    """Products, what computes their factors, up to other products, and what is computed from them but for products."""
    found = {str(name) for name in products}
    leading: set[ir.Node] = set()
    for node in reversed(list(model.graph)):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if any(reader.op_type in _RANKED or reader in leading for reader in readers):
            leading.add(node)
        if node.op_type not in _RANKED and any(reader.name in found for reader in readers):
            found.add(str(node.name))
    for node in model.graph:
        sources = [v.producer() for v in node.inputs if v is not None and v.producer() is not None]
        is_last = node.op_type not in _RANKED and node not in leading
        if is_last and all(source is None or source.name in found for source in sources):
            found.add(str(node.name))
    return frozenset(found)


def products_among(names: Collection[str], model: ir.Model) -> list[str]:
    """Those of the nodes that multiply by weights, sorted."""
    return sorted(str(n.name) for n in model.graph if n.name in names and n.op_type in _RANKED)


def _unstacked(samples: Samples) -> list[dict[str, np.ndarray]]:
    count = len(next(iter(samples.values()), ()))
    return [{name: array[index] for name, array in samples.items()} for index in range(count)]


def _only(samples: Samples, indices: Sequence[int]) -> Samples:
    return {name: array[indices] for name, array in samples.items()}


def _beyond_range(reference: ir.Model, sample: Samples) -> dict[str, float]:
    largest: dict[str, float] = {}

    def watch(name: str, array: np.ndarray) -> None:
        if array.dtype == np.float32:
            largest[name] = float(np.abs(array[np.isfinite(array)]).max(initial=0))

    execute(reference, sample, hook=watch, integers=False)
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
    """What the conversion adds to the constants of each product and recurrent layer; nothing where it has none."""
    converted = {node.name: node for node in half.graph}
    errors: dict[str, dict[str, np.ndarray]] = {}
    for node in reference.graph:
        if node.op_type not in _RANKED or node.name not in converted:
            continue
        of_node = errors.setdefault(str(node.name), {})
        for value, other in zip(node.inputs, converted[node.name].inputs, strict=True):
            array, rounded = array_of(value), array_of(other)
            if value is not None and value.is_initializer() and array is not None and rounded is not None:
                of_node[str(value.name)] = np.subtract(rounded, array, dtype=np.float32)
    return errors


def _ranked(reference: ir.Model, groups: Sequence[Samples], errors: Errors, outputs: Sequence[str]) -> list[str]:
    """The products, first those whose factors' errors are the largest part of an output."""
    rng = np.random.default_rng(SEED)
    moved: dict[str, dict[str, float]] = {output: defaultdict(float) for output in outputs}
    for sample in (sample for group in groups for sample in _unstacked(group)):
        for output, product, step in _steps(reference, sample, errors, outputs, rng):
            moved[output][product] += step**2
    totals = [(powers, sum(powers.values()) or 1.0) for powers in moved.values()]
    return sorted(errors, key=lambda name: max(powers[name] / total for powers, total in totals), reverse=True)


def _steps(
    reference: ir.Model, sample: Samples, errors: Errors, outputs: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[str, str, float]]:
    """(output, product, v . J d) for some v of random signs, where d are the errors of all factors of the product."""
    from edgec.engine import grad, to_tensor
    from edgec.frontend import execute_tensors, parameters_of

    parameters = parameters_of(reference)
    computed = {
        str(node.name): [str(v.name) for v in node.inputs if v is not None and v.producer() is not None]
        for node in reference.graph
        if node.name in errors
    }
    between = sorted({name for names in computed.values() for name in names})
    inputs = {name: to_tensor(array) for name, array in sample.items()}
    results = execute_tensors(reference, inputs, initializers=parameters, outputs=[*outputs, *between])
    factors: dict[str, Tensor] = {name: parameters[name] for constants in errors.values() for name in constants}
    factors |= {name: results[name] for name in between if not results[name].stop_gradient}
    of_product = {
        product: {
            **errors[product],
            **{name: _rounding_error(results[name].numpy()) for name in names if name in factors},
        }
        for product, names in computed.items()
    }
    for output in outputs:
        for _ in range(0 if results[output].stop_gradient else _DIRECTIONS):
            signs = to_tensor(rng.choice([-1.0, 1.0], results[output].shape).astype(np.float32))
            found = grad([results[output]], [*factors.values()], [signs], allow_unused=True, retain_graph=True)
            slopes = {name: slope.numpy() for name, slope in zip(factors, found, strict=True) if slope is not None}
            for product, constants in of_product.items():
                moves = (np.vdot(slopes[name], error) for name, error in constants.items() if name in slopes)
                yield output, product, float(sum(moves))


def _rounding_error(array: np.ndarray) -> np.ndarray:
    """Of numbers stored as float16; none of those that it does not hold, which no derivative tells about."""
    with np.errstate(over="ignore", under="ignore"):
        error = array.astype(np.float16).astype(np.float32) - array
    return np.where(np.isfinite(error), error, 0)
