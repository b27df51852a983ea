"""Run a model on samples and learn how the values inside it are distributed, in constant memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgec.errors import EdgecError, UsageError
from edgec.files import atomic_write
from edgec.frontend import execute
from edgec.frontend.executor import Array
from edgec.golden import save_arrays
from edgec.passes.quantization import ChannelMoments, Histogram, InputProducts
from edgec.progress import Progress, silent
from edgec.samples import Samples

__all__ = ["Calibration", "calibrate", "collect_products"]

_SAVE_EVERY_S = 10.0
_EXAMPLES = 32
_ADVICE = "give samples of what the model will see, preprocessed as for its training"


@dataclass
class Calibration:
    """What the samples showed.

    Attributes:
        histograms: Of the values that were watched, by name.
        channels: Of those among them whose channels were asked for, by name.
        samples: How many samples were seen.
        source: Where they came from.
        first: SHA-256 of the first sample.
        is_varied: Whether any sample differs from the first one.
        examples: The first samples, 32 at most, to try the result on.
    """

    source: str
    histograms: dict[str, Histogram] = field(default_factory=dict)
    channels: dict[str, ChannelMoments] = field(default_factory=dict)
    samples: int = 0
    first: str = ""
    is_varied: bool = False
    examples: list[dict[str, Array]] = field(default_factory=list)


def calibrate(
    model: ir.Model,
    names: Collection[str],
    samples: Samples,
    *,
    channel_axes: Mapping[str, int] | None = None,
    limit: int | None = None,
    state: Path | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Execute `model` on samples, one at a time, and count the values of the tensors `names`.

    Args:
        model: With static shapes.
        names: Of inputs and inner values.
        channel_axes: Axes of the channels of those among them whose channels count, by name.
        samples: To be gone through.
        limit: The most samples that are used.
        state: A file that keeps what was counted when the work is interrupted, from which the next call with the same
            model and samples goes on. It is removed when all is done.
        progress: Called after every sample.

    Raises:
        EdgecError: There are no samples, they are all the same or constant, or the model computes NaN from them.
        UsageError: The state belongs to another model or other samples.
    """
    work = _Calibrating(model, names, channel_axes or {}, samples, state)
    total = min(limit or samples.count or 0, samples.count or limit or 0)
    try:
        for index, sample in enumerate(samples):
            if limit is not None and index >= limit:
                break
            work.see(index, sample)
            progress("calibrate", index + 1, total)
    except KeyboardInterrupt:
        work.save()
        raise
    work.check()
    if state is not None:
        state.unlink(missing_ok=True)
    return work.result


def collect_products(
    model: ir.Model,
    nodes: Mapping[str, str],
    samples: Samples,
    limit: int | None = None,
    progress: Progress = silent,
    *,
    is_centered: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """`InputProducts` of linear operators over samples, by node name.

    Args:
        model: With static shapes.
        nodes: Names of the operators, and of the values that they read.
        samples: To be gone through.
        limit: The most samples that are used.
        progress: Called after every sample.
        is_centered: Whether the mean of the inputs does not count, because biases are corrected.
    """
    linear = [node for node in model.graph if node.name in nodes and InputProducts.fits(node)]
    found = {node.name: InputProducts(node, is_centered) for node in linear}
    readers: dict[str, list[InputProducts]] = {}
    for name, value in nodes.items():
        if name in found:
            readers.setdefault(value, []).append(found[name])

    def watch(name: str, array: Array) -> None:
        for products in readers.get(name, ()):
            products.add(np.asarray(array, np.float32))

    for index, sample in enumerate(islice(samples, limit)):
        execute(model, sample, hook=watch)
        progress("weigh inputs", index + 1, limit or samples.count or 0)
    results = {str(name): inputs.products for name, inputs in found.items()}
    return {name: products for name, products in results.items() if products is not None}


class _Calibrating:
    """A calibration under way."""

    def __init__(
        self,
        model: ir.Model,
        names: Collection[str],
        channel_axes: Mapping[str, int],
        samples: Samples,
        state: Path | None,
    ) -> None:
        self._model, self._state = model, state
        self._key = _fingerprint(model, names)
        self._ranges: dict[str, tuple[float, float]] = {}
        moments = {name: ChannelMoments(axis) for name, axis in channel_axes.items()}
        self.result = Calibration(samples.source, {name: Histogram() for name in names}, moments)
        self._done = 0
        if state is not None and state.exists():
            self._load(state)
        self._saved = time.monotonic()

    def see(self, index: int, sample: dict[str, Array]) -> None:
        result = self.result
        if index == 0:
            digest = _digest(sample)
            if result.first and digest != result.first:
                raise UsageError(
                    "the unfinished calibration was made with other samples",
                    where=str(self._state),
                    fix="give the same samples, or remove the file",
                )
            result.first = digest
        elif not result.is_varied:
            result.is_varied = any(not np.array_equal(a, result.examples[0][n]) for n, a in sample.items())
        if index < _EXAMPLES:
            result.examples.append(sample)
        if index < self._done:
            return
        for name, array in sample.items():
            low, high = self._ranges.get(name, (np.inf, -np.inf))
            if array.size:
                self._ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))

        def watch(name: str, array: Array) -> None:
            if name in result.histograms:
                if not np.isfinite(array).all():
                    raise EdgecError(
                        f"the model computes NaN or infinite values in '{name}'",
                        where=f"{result.source}, sample {index}",
                        fix=_ADVICE,
                    )
                result.histograms[name].add(array)
                if name in result.channels:
                    result.channels[name].add(array)

        execute(self._model, sample, hook=watch, outputs=self._wanted())
        result.samples += 1
        if self._state is not None and time.monotonic() - self._saved > _SAVE_EVERY_S:
            self.save()

    def _wanted(self) -> list[str] | None:
        """Values that need everything that is watched; what comes after them is not run."""
        inputs = {value.name for value in self._model.graph.inputs}
        return [name for name in self.result.histograms if name not in inputs] or None

    def check(self) -> None:
        """Refuse data that cannot stand for what the model will see."""
        result = self.result
        if not result.samples:
            raise EdgecError("there are no samples to calibrate with", where=result.source, fix=_ADVICE)
        constant = [name for name, (low, high) in self._ranges.items() if low == high]
        floats = [v.name for v in self._model.graph.inputs if v.dtype is not None and v.dtype.is_floating_point()]
        if floats and set(floats) <= set(constant):
            name = floats[0]
            raise EdgecError(
                f"the data of input '{name}' are constant: all of them are {self._ranges[str(name)][0]:g}",
                where=f"{result.source}, {result.samples} samples",
                fix=_ADVICE,
            )
        if result.samples > 1 and not result.is_varied:
            raise EdgecError(
                f"all {result.samples} samples are the same", where=result.source, fix="give different samples"
            )

    def save(self) -> None:
        if self._state is None or not self.result.samples:
            return
        arrays: dict[str, np.ndarray] = {}
        for name, histogram in self.result.histograms.items():
            arrays.update({f"{name}/histogram/{key}": array for key, array in histogram.to_arrays().items()})
        for name, moments in self.result.channels.items():
            arrays.update({f"{name}/channels/{key}": array for key, array in moments.to_arrays().items()})
        described = {
            "key": self._key, "first": self.result.first, "samples": self.result.samples,
            "is_varied": self.result.is_varied, "ranges": self._ranges,
        }  # fmt: skip
        arrays["described"] = np.frombuffer(json.dumps(described).encode(), np.uint8)
        with atomic_write(self._state) as temporary:
            save_arrays(temporary, arrays)
        self._saved = time.monotonic()

    def _load(self, path: Path) -> None:
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            described = json.loads(arrays["described"].tobytes())
            is_ours = described["key"] == self._key
        except (OSError, ValueError, KeyError) as err:
            raise EdgecError(f"{path} is no unfinished calibration", where=str(err), fix="remove the file") from err
        if not is_ours:
            raise UsageError(
                "the unfinished calibration belongs to another model, or to other options",
                where=str(path),
                fix="remove the file, or give the same model and options",
            )
        for name in self.result.histograms:
            parts = {key: arrays[f"{name}/histogram/{key}"] for key in ("counts", "numbers")}
            self.result.histograms[name] = Histogram.from_arrays(parts)
        for name in self.result.channels:
            parts = {key: arrays[f"{name}/channels/{key}"] for key in ("table", "numbers")}
            self.result.channels[name] = ChannelMoments.from_arrays(parts)
        self._done = self.result.samples = described["samples"]
        self.result.first, self.result.is_varied = described["first"], described["is_varied"]
        self._ranges = {name: (low, high) for name, (low, high) in described["ranges"].items()}


def _fingerprint(model: ir.Model, names: Collection[str]) -> str:
    digest = hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True))
    digest.update("\n".join(sorted(names)).encode())
    return digest.hexdigest()


def _digest(sample: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(sample.items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()
