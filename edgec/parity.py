"""Does the artifact compute what the engine computes? The policy, the comparison and the report."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import SupportsInt

import numpy as np

from edgec.bundle import Bundle
from edgec.devices import open_runner
from edgec.devices.samples import split_samples
from edgec.errors import EdgecError
from edgec.golden import reference_model

__all__ = ["POLICY", "OutputParity", "ParityReport", "Tolerance", "check", "compare", "policy_of"]


@dataclass(frozen=True)
class Tolerance:
    """What two float arrays may differ by: ``|a - b| <= rtol * |b| + atol_of_max * max|b|``.

    Attributes:
        rtol: Share of the reference's own element.
        atol_of_max: Share of the reference's largest element.
        min_sqnr_db: Least ratio of the reference's power to the error's, in dB.
        min_cosine: Least cosine of the angle between the two.
        integer_steps: What two integers may differ by.
    """

    rtol: float
    atol_of_max: float
    min_sqnr_db: float
    min_cosine: float
    integer_steps: int = 0


_FLOAT32 = Tolerance(rtol=1e-4, atol_of_max=1e-5, min_sqnr_db=80.0, min_cosine=0.999999)

POLICY = {
    "float32": _FLOAT32,
    "int8": _FLOAT32,
    "int8 with float islands": Tolerance(
        rtol=0.05, atol_of_max=0.05, min_sqnr_db=35.0, min_cosine=0.9995, integer_steps=1
    ),
    # Cosine and SQNR decide; single elements may be off by some of the eleven bits of the largest one.
    "float16": Tolerance(rtol=0.05, atol_of_max=0.05, min_sqnr_db=45.0, min_cosine=0.9999),
    # Products are of eleven bits as those of float16 are, but what lies between two layers is not rounded to them.
    "tf32": Tolerance(rtol=0.05, atol_of_max=0.05, min_sqnr_db=48.0, min_cosine=0.9999),
}
"""The tolerance of each precision against the engine; that of float16 against the engine in float32.

Integers are equal, bit for bit, and floats that are computed of them agree as floats do. Only where a float function
(a softmax, say) feeds a quantizer, its last digit may make one step of an integer, and what follows differs by as much.
"""


def policy_of(bundle: Bundle) -> Tolerance:
    """The tolerance for a bundle."""
    return POLICY["int8 with float islands" if bundle.float_islands else bundle.precision]


@dataclass(frozen=True)
class OutputParity:
    """The comparison of one output over all samples.

    Attributes:
        reason: Why it failed; empty where it passed.
        elements: How many elements were compared.
        max_abs_error: Largest absolute difference.
        smallest_rtol: The smallest ``rtol`` that the elements would have passed with, ``atol_of_max`` in the policy's
            ratio to it; infinite where none would do.
        sqnr_db: Signal to error ratio in dB; infinite for equal arrays.
        worst_index: Sample and element of the largest violation.
    """

    name: str
    passed: bool
    reason: str
    elements: int
    max_abs_error: float
    smallest_rtol: float
    sqnr_db: float
    cosine: float
    worst_index: tuple[int, ...]


@dataclass(frozen=True)
class ParityReport:
    """The comparison of an artifact with the engine. True when every output passed."""

    bundle: str
    target: str
    precision: str
    device: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...]
    seconds: float

    def __bool__(self) -> bool:
        return all(output.passed for output in self.outputs)

    @property
    def failures(self) -> tuple[OutputParity, ...]:
        return tuple(output for output in self.outputs if not output.passed)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready values; infinite figures become null."""
        outputs = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(o).items()}
            for o in self.outputs
        ]
        return {**asdict(self), "passed": bool(self), "outputs": outputs}

    def __str__(self) -> str:
        verdict = "parity holds" if self else "parity FAILED"
        lines = [f"{verdict}: {self.bundle} ({self.target}) on {self.device}, {self.samples} samples"]
        for o in self.outputs:
            figures = (
                f"smallest rtol {o.smallest_rtol:.1e} (allowed {self.tolerance.rtol:.0e}), "
                f"max error {o.max_abs_error:.2e}, SQNR {o.sqnr_db:.1f} dB, {o.elements} elements"
            )
            lines.append(f"  {'ok  ' if o.passed else 'FAIL'} {o.name}: {figures}")
            if not o.passed:
                lines.append(f"       {o.reason}")
        return "\n".join(lines)


def check(
    bundle: Bundle,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    device: str | None = None,
    threads: int = 1,
    samples: int | None = None,
) -> ParityReport:
    """Run the artifact and the engine on the same inputs and compare every output.

    Args:
        bundle: The compiled model.
        inputs: Arrays by input name with a leading sample axis; the bundle's golden inputs by default.
        device: Where to run the artifact; see :meth:`Bundle.run`.
        threads: Threads of the artifact.
        samples: Use only so many of the samples.

    Returns:
        The report; it is true when parity holds.

    Raises:
        EdgecError: The inputs do not fit, or there is nothing to compare.
    """
    from edgec.frontend import execute, import_model

    if samples is not None and samples < 1:
        raise EdgecError("nothing was compared: no samples", fix="--samples takes a number of at least 1")
    start = time.perf_counter()
    given = split_samples(bundle, inputs if inputs is not None else bundle.golden("inputs"))[:samples]
    names = [info.name for info in bundle.inputs]
    model = reference_model(import_model(bundle.graph))
    reference = [execute(model, dict(zip(names, sample, strict=True)), integers=False) for sample in given]
    with open_runner(bundle, device, threads=threads) as runner:
        actual = runner.run(given)
        description = runner.description
    tolerance = policy_of(bundle)
    outputs = tuple(
        compare(
            info.name,
            np.stack([result[info.name] for result in reference]),
            np.stack([result[i] for result in actual]),
            tolerance,
        )
        for i, info in enumerate(bundle.outputs)
    )
    if not outputs:
        raise EdgecError("nothing was compared: the model has no outputs")
    return ParityReport(
        bundle=bundle.name,
        target=bundle.target,
        precision=bundle.precision,
        device=description,
        samples=len(given),
        tolerance=tolerance,
        outputs=outputs,
        seconds=time.perf_counter() - start,
    )


def compare(name: str, reference: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> OutputParity:
    """Compare one output: NaN and Inf first, then shape and dtype, then elements, then cosine and SQNR.

    Booleans must be equal, and integers but for the tolerance's steps.

    Raises:
        EdgecError: There is nothing to compare.
    """
    if reference.size == 0:
        raise EdgecError(f"nothing was compared: output '{name}' has no elements")

    def failed(reason: str, index: Sequence[SupportsInt] = ()) -> OutputParity:
        where = tuple(int(i) for i in index)
        return OutputParity(name, False, reason, reference.size, math.inf, math.inf, -math.inf, 0.0, where)

    if reference.shape != actual.shape or reference.dtype != actual.dtype:
        return failed(f"is {actual.dtype} {actual.shape}, the engine gives {reference.dtype} {reference.shape}")
    if reference.dtype.kind != "f":
        return _compare_integers(name, reference, actual, tolerance.integer_steps)
    exact = reference.astype(np.float64)
    given = actual.astype(np.float64)
    # Infinities of the same sign agree; every other value that is not finite is a difference.
    same_infinity = np.isinf(exact) & (exact == given)
    bad = ~(np.isfinite(exact) & np.isfinite(given)) & ~same_infinity
    if bad.any():
        index = np.unravel_index(int(np.argmax(bad)), bad.shape)
        return failed(f"is {given[index]} where the engine gives {exact[index]}, at {_index(index)}", index)
    exact, given = np.where(same_infinity, 0.0, exact), np.where(same_infinity, 0.0, given)
    error = np.abs(given - exact)
    allowed = tolerance.rtol * np.abs(exact) + tolerance.atol_of_max * np.abs(exact).max()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / allowed)
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    sqnr_db, cosine = _sqnr_db(exact, error), _cosine(exact, given)
    reasons = []
    if ratio[worst] > 1:
        at = _index(worst)
        reasons.append(f"is {given[worst]:.9g} where the engine gives {exact[worst]:.9g}, at {at}")
    if sqnr_db < tolerance.min_sqnr_db:
        reasons.append(f"SQNR is {sqnr_db:.1f} dB, must be at least {tolerance.min_sqnr_db:.0f} dB")
    if cosine < tolerance.min_cosine:
        reasons.append(f"cosine is {cosine:.7f}, must be at least {tolerance.min_cosine}")
    return OutputParity(
        name=name,
        passed=not reasons,
        reason="; ".join(reasons),
        elements=reference.size,
        max_abs_error=float(error.max()),
        smallest_rtol=float(ratio[worst]) * tolerance.rtol,
        sqnr_db=sqnr_db,
        cosine=cosine,
        worst_index=tuple(int(i) for i in worst),
    )


def _compare_integers(name: str, reference: np.ndarray, actual: np.ndarray, steps: int) -> OutputParity:
    """Integers and booleans agree or do not; float64 would take 2**53 and 2**53 + 1 for the same."""
    differs = reference != actual
    if steps and reference.dtype.kind in "iu" and reference.dtype.itemsize < 8:
        differs = np.abs(actual.astype(np.int64) - reference.astype(np.int64)) > steps
    worst = np.unravel_index(int(np.argmax(differs)), differs.shape)
    passed = not differs.any()
    error = np.abs(actual.astype(np.float64) - reference.astype(np.float64))
    reason = f"is {actual[worst]} where the engine gives {reference[worst]}, at {_index(worst)}"
    return OutputParity(
        name=name,
        passed=passed,
        reason="" if passed else f"{reason}; {np.count_nonzero(differs)} of {differs.size} elements differ",
        elements=reference.size,
        max_abs_error=float(error.max()),
        smallest_rtol=0.0 if passed else math.inf,
        sqnr_db=_sqnr_db(reference.astype(np.float64), error) if not passed else math.inf,
        cosine=_cosine(reference.astype(np.float64), actual.astype(np.float64)),
        worst_index=tuple(int(i) for i in worst),
    )


def _index(index: Sequence[SupportsInt]) -> str:
    """The position for people: the first axis is the sample."""
    return f"sample {int(index[0])}, element [{', '.join(str(int(i)) for i in index[1:])}]"


def _sqnr_db(reference: np.ndarray, error: np.ndarray) -> float:
    largest = max(float(np.abs(reference).max()), float(error.max()))
    if largest > 0:  # squares of large doubles overflow, those of small ones vanish
        reference, error = reference / largest, error / largest
    noise, signal = float(np.sum(error**2)), float(np.sum(reference**2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (array / (float(np.abs(array).max()) or 1.0) for array in (a, b))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.sum(a * b) / norm)
