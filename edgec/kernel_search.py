"""The search behind :func:`edgec.tune`: candidates of a kernel timed side by side with the default, batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import edgec
from edgec.benchmark import machine
from edgec.devices import KernelTime, open_process
from edgec.parity import POLICY, compare
from edgec.progress import Progress
from edgec.timed_kernels import plan_of_variants, random_inputs, runner_bundle

if TYPE_CHECKING:
    from tvm import tirx

    from edgec.targets.lowering import Plan
    from edgec.targets.profile import Profile
    from edgec.targets.schedules.choice import Choice, Site
    from edgec.targets.tuning import Record, Records

__all__ = ["Place", "Search", "TunedKernel"]

BATCH = 12
"""So many candidates are timed side by side with the default, in one artifact."""

REPEATS, FINAL_REPEATS = 3, 7
"""Processes in which a batch, and at the end the best of all batches, are timed."""

FINALISTS = 3

REPEAT_S = 0.25
"""Time of one repeat, in s."""

LEAST_GAIN = 0.02
"""A choice replaces the default if it was faster in every repeat, and by this share in the median."""


@dataclass(frozen=True)
class TunedKernel:
    """What the search found for one workload.

    Attributes:
        kernel: A kernel of the model with this workload.
        share: Share of the inference's time that all kernels with this workload take, by default.
        default_us: Time with the default, in µs, and ``us`` that with ``choice``, measured side by side.
        tried: How many of the ``candidates`` were measured, now or earlier.
        is_new: Something was measured now; otherwise a record says so.
    """

    kernel: str
    family: str
    workload: str
    share: float
    default: Choice
    choice: Choice
    default_us: float
    us: float
    candidates: int
    tried: int
    is_new: bool

    @property
    def gain(self) -> float:
        """How many times as fast as the default."""
        return self.default_us / self.us


@dataclass(frozen=True)
class Place:
    """Where kernels are timed."""

    profile: Profile
    device: str | None
    threads: int
    cpus: tuple[int, ...]

    @property
    def description(self) -> str:
        return self.device or "local"

    @property
    def machine(self) -> str:
        """The machine for a record; the name of a host would tell nobody anything."""
        return "a board over SSH" if self.description.startswith("ssh://") else machine()

    def profile_of(self, plan: Plan, kernels: dict[str, tirx.PrimFunc]) -> list[KernelTime]:
        """Time of every step of a model."""
        bundle = runner_bundle(plan, kernels, self.profile)
        with open_process(bundle, self.device, threads=self.threads, cpus=self.cpus) as runner:
            return runner.profile(10)


@dataclass
class Job:
    """A workload of the model: what it takes, and what was found."""

    site: Site
    kernel: str
    function: tirx.PrimFunc
    us: float = 0.0
    tried: int = 0
    default_us: float = 0.0

    def choices(self) -> list[Choice]:
        """All candidates but the default, those most like it first: where time ends early, they are the best bet."""
        others = [choice for choice in self.site.candidates if choice != self.site.default]
        return sorted(others, key=self._distance)

    def _distance(self, choice: Choice) -> float:
        default = self.site.default
        return sum(abs(math.log((1 + value) / (1 + default.get(key, 0)))) for key, value in choice.items())


@dataclass
class Search:
    """The state of a search; what ``done`` holds is also in the file."""

    place: Place
    records: Records
    path: Path
    deadline: float
    again: bool
    progress: Progress
    found: Callable[[TunedKernel], None]
    done: list[TunedKernel] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    untried: int = 0
    total_us: float = 1.0

    def run(self, plan: Plan) -> None:
        """Search the workloads of a plan, each for a part of the time that fits its share."""
        jobs = self._jobs(plan)
        open_jobs = []
        for job in jobs:
            record = None if self.again else self._fitting(job)
            if record is not None and record.tried >= record.candidates:
                self._finish(job, record, is_new=False)
            else:
                open_jobs.append((job, record))
        self.untried = len(open_jobs)
        for index, (job, record) in enumerate(open_jobs):
            remaining_us = sum(later.us for later, _ in open_jobs[index:])
            now = time.monotonic()
            if now >= self.deadline:
                return
            # Twice the share: those that come first matter most, and what they leave goes to the others.
            end = now + min(1.0, 2 * job.us / max(remaining_us, 1e-9)) * (self.deadline - now)
            self._search(job, record, end)

    def _jobs(self, plan: Plan) -> list[Job]:
        """The workloads that have a choice, with the time they take by default, longest first."""
        used = sorted({call.kernel for call in plan.calls if call.kernel in plan.kernels})
        sites: dict[str, Site] = {}
        scheduled = {}
        for number, kernel in enumerate(used):
            self.progress("look at kernels", number, len(used))
            scheduled[kernel], site = _schedule(plan.kernels[kernel], self.place.profile)
            if site is not None and len(site.candidates) > 1:
                sites[kernel] = site
        self.progress("time the model", 0, 0)
        times = self.place.profile_of(plan, scheduled)
        self.total_us = sum(row.median_us for row in times) or 1.0
        jobs: dict[tuple[str, str], Job] = {}
        for row in times:
            if row.name in sites:
                site = sites[row.name]
                job = jobs.setdefault((site.family, site.workload), Job(site, row.name, plan.kernels[row.name]))
                job.us += row.median_us
        return sorted(jobs.values(), key=lambda job: -job.us)

    def _fitting(self, job: Job) -> Record | None:
        from edgec.targets.tuning import cpu_key

        record = self.records.find(cpu_key(self.place.profile), job.site)
        fits = record is not None and record.choice in job.site.candidates
        return record if fits and record is not None and record.candidates == len(job.site.candidates) else None

    def _search(self, job: Job, record: Record | None, end: float) -> None:
        """Batch after batch until ``end``, then the best of all once more; also when it is interrupted."""
        choices = job.choices()
        job.tried = record.tried - 1 if record is not None else 0
        contenders: list[tuple[float, Choice]] = []
        if record is not None and record.choice != job.site.default:
            contenders.append((record.us / record.default_us, record.choice))
        job.default_us = record.default_us if record is not None else 0.0
        try:
            while job.tried < len(choices):
                begin = time.monotonic()
                self.progress(f"{job.site.family} {job.us / self.total_us:.0%}", job.tried, len(choices))
                batch = choices[job.tried : job.tried + BATCH]
                contenders += self._time(job, batch, REPEATS)
                job.tried += len(batch)
                if time.monotonic() + (time.monotonic() - begin) > end:
                    break
            finalists = [choice for _, choice in sorted(contenders, key=lambda pair: pair[0])[:FINALISTS]]
            contenders = self._time(job, finalists, FINAL_REPEATS) if finalists else []
        finally:
            if job.tried:
                self._keep(job, contenders)

    def _keep(self, job: Job, contenders: list[tuple[float, Choice]]) -> None:
        from edgec.targets.tuning import Record, cpu_key

        ratio, choice = min(contenders, key=lambda pair: pair[0], default=(1.0, job.site.default))
        record = Record(
            cpu=cpu_key(self.place.profile),
            family=job.site.family,
            workload=job.site.workload,
            choice=choice,
            us=max(round(job.default_us * ratio, 3), 0.001),
            default_us=max(round(job.default_us, 3), 0.001),
            candidates=len(job.site.candidates),
            tried=1 + job.tried,
            threads=self.place.threads,
            machine=self.place.machine,
            edgec=edgec.__version__,
        )
        self.records.add(record)
        self.records.save(self.path)
        self.untried -= 1
        self._finish(job, record, is_new=True)

    def _finish(self, job: Job, record: Record, is_new: bool) -> None:
        kernel = TunedKernel(
            kernel=job.kernel,
            family=job.site.family,
            workload=job.site.workload,
            share=job.us / self.total_us,
            default=job.site.default,
            choice=record.choice,
            default_us=record.default_us,
            us=record.us,
            candidates=record.candidates,
            tried=record.tried,
            is_new=is_new,
        )
        self.done.append(kernel)
        self.found(kernel)

    def _time(self, job: Job, choices: Sequence[Choice], repeats: int) -> list[tuple[float, Choice]]:
        """(time as a share of the default's, choice) of those that are faster by more than the noise.

        The default and all choices run in turn within one process, so that whatever disturbs the machine disturbs
        them alike; the processes are repeated.
        """
        default, _ = _schedule(job.function, self.place.profile)
        right: list[Choice] = []
        variants = [default]
        for choice in choices:
            try:
                variants.append(_schedule(job.function, self.place.profile, choice)[0])
                right.append(choice)
            except Exception as err:
                self._report_wrong(job, choice, str(err).strip().splitlines()[-1])
        plan = plan_of_variants(job.function, len(variants))
        outputs = len(plan.outputs) // len(variants)
        bundle = runner_bundle(plan, {f"v{i}": variant for i, variant in enumerate(variants)}, self.place.profile)
        runs = max(5, min(500, int(REPEAT_S * 1e6 / (max(job.default_us or job.us, 1.0) * len(variants)))))
        with open_process(bundle, self.place.device, threads=self.place.threads, cpus=self.place.cpus) as runner:
            results = runner.run([random_inputs(bundle)])[0]
            times = np.array([[row.median_us for row in runner.profile(runs)[1:]] for _ in range(repeats)])
        job.default_us = float(np.median(times[:, 0])) or 1e-3
        ratios = times[:, 1:] / np.maximum(times[:, :1], 1e-3)
        faster = []
        for i, choice in enumerate(right):
            if reason := _difference(results[:outputs], results[(i + 1) * outputs : (i + 2) * outputs]):
                self._report_wrong(job, choice, reason)
            elif ratios[:, i].max() < 1 and np.median(ratios[:, i]) < 1 - LEAST_GAIN:
                faster.append((float(np.median(ratios[:, i])), choice))
        return faster

    def _report_wrong(self, job: Job, choice: Choice, reason: str) -> None:
        described = ", ".join(f"{name} {value}" for name, value in choice.items())
        self.wrong.append(f"{job.site.family} {job.site.workload} with {described}: {reason}")


def _schedule(
    function: tirx.PrimFunc, profile: Profile, choice: Choice | None = None
) -> tuple[tirx.PrimFunc, Site | None]:
    """The kernel scheduled with a choice, or the default, and the place where it was made."""
    from edgec.targets import schedules
    from edgec.targets.cuda import schedules as cuda_schedules

    rules = schedules if profile.gpu is None else cuda_schedules
    sites: list[Site] = []

    def choose(site: Site) -> Choice:
        sites.append(site)
        return choice if choice is not None else site.default

    return rules.schedule_kernel(function, profile, choose), sites[-1] if sites else None


def _difference(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> str:
    """What a candidate computes otherwise than the default; empty where they agree."""
    for reference, result in zip(expected, actual, strict=True):
        policy = POLICY["float16" if reference.dtype == np.float16 else "float32"]
        parity = compare("result", reference[None], result[None], policy)
        if not parity.passed:
            return parity.reason.replace("the engine", "the default")
    return ""
