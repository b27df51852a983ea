"""Search for the fastest choice of every kernel by measuring on the target; what is found is kept as records."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgec.compiler import artifact_name, plan_model
from edgec.devices.selection import host_arch
from edgec.errors import UsageError
from edgec.kernel_search import Place, Search, TunedKernel
from edgec.progress import Progress, silent
from edgec.sources import InputSpec, ModelSource

if TYPE_CHECKING:
    from edgec.targets.lowering import Plan
    from edgec.targets.profile import Profile
    from edgec.targets.tuning import Records

__all__ = ["TuneReport", "TunedKernel", "tune"]


@dataclass(frozen=True)
class TuneReport:
    """The result of :func:`tune`.

    Attributes:
        records: File that the records are in.
        kernels: One per workload, those that take most of the time first.
        untried: Workloads that the time did not suffice for.
        wrong: Candidates that compute something else than the default, or cannot be scheduled: errors of edgec.
        notes: Records of the file that could not be read and are gone from it.
        gain: How many times as fast the whole inference should be, by the times of its kernels.
    """

    model: str
    target: str
    cpu: str
    device: str
    threads: int
    records: str
    seconds: float
    is_interrupted: bool
    kernels: tuple[TunedKernel, ...]
    untried: int
    wrong: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def gain(self) -> float:
        return 1 / (1 - sum(k.share * (1 - 1 / k.gain) for k in self.kernels))

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready values."""
        return {**asdict(self), "gain": self.gain}

    def __str__(self) -> str:
        faster = sum(k.choice != k.default for k in self.kernels)
        lines = [
            f"{self.model} for {self.target} ({self.cpu}) on {self.device}, {self.threads} thread(s): "
            f"{faster} of {len(self.kernels) + self.untried} workloads have a faster choice, "
            f"{self.gain:.2f}x as fast by the sum of kernels; {self.untried} not tried yet",
            f"records: {self.records}",
            *(f"wrong: {text}" for text in self.wrong),
            *(f"note: {text}" for text in self.notes),
        ]
        return "\n".join(lines)


def tune(
    model: ModelSource,
    *,
    target: str = "native",
    inputs: InputSpec | None = None,
    precision: Literal["fp32", "tf32", "fp16"] | None = None,
    time_s: float = 600.0,
    device: str | None = None,
    threads: int = 1,
    cpus: Sequence[int] = (),
    records: str | os.PathLike[str] | None = None,
    again: bool = False,
    progress: Progress = silent,
    found: Callable[[TunedKernel], None] = lambda _: None,
) -> TuneReport:
    """Measure the choices of a model's kernels on the target and keep the best as records that ``compile`` uses.

    Kernels that take most of the time come first. A record is written as soon as its workload is done, so that an
    interrupted search (Ctrl-C ends it with a report) goes on where it was.

    Args:
        model: As for :func:`edgec.compile`.
        target: Name of a target.
        inputs: As for :func:`edgec.compile`.
        precision: As for :func:`edgec.compile`: kernels of another precision are others.
        time_s: End after this time, in s.
        device: ``local`` or ``ssh://[user@]host``; by default this machine where the target's CPU is of its kind.
        threads: Threads that share the work of a kernel while it is measured.
        cpus: Logical CPUs to pin the workers to.
        records: File to keep the records in; by default the user's own for the target's CPU.
        again: Also measure workloads that have a record.
        progress: Called as the work goes on.
        found: Called for each workload when it is done.

    Raises:
        UsageError: The time is no time, or the only device is an emulator, whose times mean nothing.
        EdgecError: The model cannot be compiled, or the records cannot be written.
        DeviceError: The device cannot be reached or fails.

    Example:
        >>> import edgec
        >>> print(edgec.tune("resnet8.onnx", target="native", time_s=60))  # doctest: +SKIP
    """
    start = time.monotonic()
    if not time_s > 0:
        raise UsageError(f"cannot tune for {time_s:g} s", fix="give a time above 0")
    name = artifact_name(model)
    from edgec.targets.profile import load_profile
    from edgec.targets.tuning import cpu_key, user_file

    profile = load_profile(target)
    _refuse_emulator(profile, device)
    path = Path(records) if records is not None else user_file(profile)
    known = _open_records(path)
    plan, profile = plan_model(model, target, inputs, name, progress, precision)
    place = Place(profile, device, threads, tuple(cpus))
    search = Search(place, known, path, start + time_s, again, progress, found)
    is_interrupted = _is_interrupted(search, plan)
    return TuneReport(
        model=name,
        target=target,
        cpu=cpu_key(profile),
        device=place.description,
        threads=threads,
        records=str(path),
        seconds=time.monotonic() - start,
        is_interrupted=is_interrupted,
        kernels=tuple(search.done),
        untried=search.untried,
        wrong=tuple(search.wrong),
        notes=tuple(known.notes),
    )


def _open_records(path: Path) -> Records:
    """What is known already, from a file that can be written: otherwise the time would be for nothing."""
    from edgec.targets.tuning import Records, read_records

    known = read_records(path) if path.exists() else Records()
    known.save(path)
    return known


def _is_interrupted(search: Search, plan: Plan) -> bool:
    """Search until the time is over or the user has enough."""
    try:
        search.run(plan)
    except KeyboardInterrupt:
        return True
    return False


def _refuse_emulator(profile: Profile, device: str | None) -> None:
    if device == "qemu" or (device is None and profile.arch != host_arch()):
        raise UsageError(
            "an emulator's times say nothing about the target",
            where=f"target {profile.name}, {profile.arch} CPUs; this machine is {host_arch()}",
            fix="measure on the target with --device ssh://[user@]host",
        )
