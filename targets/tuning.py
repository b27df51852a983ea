"""Tuning records: which choice of a schedule was measured to be the fastest, by CPU, family and workload.

A file is JSON, sorted, one record per line, so that it can be read, compared and merged::

    {"format": 1, "records": [
    {"cpu": "znver4/avx512-vnni", "family": "conv2d", "workload": "b=1 o=4 ...", "choice": {"columns": 7, ...},
     "us": 81.2, "default_us": 95.0, "candidates": 48, "tried": 48, "threads": 1, "machine": "...", "edgec": "0.1.0"}
    ]}

Records that come with the package are in ``targets/records/``; the user's own win over them. A record that does not
fit is left out with a note: it can never make a compilation fail or its code wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from edgec.errors import EdgecError
from edgec.targets.profile import Profile
from edgec.targets.schedules.choice import Choice, Site

__all__ = ["FORMAT", "Record", "Recorded", "Records", "cpu_key", "find_records", "read_records", "user_file"]

FORMAT = 1
"""Version of the files; it grows when a choice or a workload of the same text comes to mean something else."""


@dataclass(frozen=True)
class Record:
    """The best choice for a workload on a CPU.

    Attributes:
        cpu: LLVM's name of the CPU and the instruction set, see :func:`cpu_key`.
        us: Median time of the kernel with ``choice``, in µs; ``default_us`` is the cost model's, measured beside it.
        candidates: How many choices there were.
        tried: How many of them were measured; fewer if the search was interrupted, which then goes on there.
        machine: What it was measured on.
        edgec: Version of edgec.
    """

    cpu: str
    family: str
    workload: str
    choice: Choice
    us: float
    default_us: float
    candidates: int
    tried: int
    threads: int
    machine: str
    edgec: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.cpu, self.family, self.workload


_TYPES = {"choice": dict, "us": float, "default_us": float, "candidates": int, "tried": int, "threads": int}


class Records:
    """Records by CPU, family and workload; one that is added later replaces an earlier one."""

    def __init__(self, records: Iterable[Record] = (), notes: Iterable[str] = ()) -> None:
        self._records = {record.key: record for record in records}
        self.notes = list(notes)

    def add(self, record: Record) -> None:
        self._records[record.key] = record

    def update(self, other: Records) -> None:
        """Take over all of ``other``."""
        self._records.update(other._records)
        self.notes += other.notes

    def find(self, cpu: str, site: Site) -> Record | None:
        """The record of a site on a CPU, whether its choice fits or not."""
        return self._records.get((cpu, site.family, site.workload))

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(sorted(self._records.values(), key=lambda record: record.key))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; its folder is made.

        Raises:
            EdgecError: The place is not writable or the disk is full.
        """
        rows = ",\n".join(json.dumps(asdict(record)) for record in self)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(f'{{"format": {FORMAT}, "records": [\n{rows}\n]}}\n')
            temporary.replace(path)
        except OSError as err:
            raise EdgecError(
                f"cannot write the tuning records: {err.strerror}",
                where=str(path),
                fix="name another file with --records, or another folder with EDGEC_RECORDS",
            ) from err
        finally:
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)


def cpu_key(profile: Profile) -> str:
    """LLVM's name of the CPU and the instruction set, e.g. ``cortex-a76/neon-dotprod``; or the GPU: ``sm_87``."""
    if profile.gpu is not None:
        return f"sm_{profile.gpu.capability}"
    return f"{profile.llvm_cpu}/{profile.instruction_set.name}"


def user_file(profile: Profile) -> Path:
    """The user's records for a CPU: in ``EDGEC_RECORDS``, else in ``edgec/records`` of ``XDG_DATA_HOME``."""
    folder = os.environ.get("EDGEC_RECORDS")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return (Path(folder) if folder else Path(data) / "edgec" / "records") / _file_name(profile)


def shipped_file(profile: Profile) -> Path:
    """The records for a CPU that come with the package; there may be none."""
    return Path(str(resources.files("edgec.targets.records"))) / _file_name(profile)


def _file_name(profile: Profile) -> str:
    return f"{cpu_key(profile).replace('/', '-')}.json"


def find_records(profile: Profile, extra: Path | None = None) -> Records:
    """Shipped records for the profile's CPU, under the user's own, under those of the file ``extra``.

    Files that cannot be read are left out with a note.

    Raises:
        EdgecError: ``extra`` is given and is no file of records.
    """
    records = Records()
    for path in (shipped_file(profile), user_file(profile)):
        if path.is_file():
            try:
                records.update(read_records(path))
            except EdgecError as err:
                records.notes.append(f"{err.what} ({err.where}); it is ignored")
    if extra is not None:
        records.update(read_records(extra))
    return records


def read_records(path: Path) -> Records:
    """Read a file of records; single ones that are damaged are left out with a note.

    Raises:
        EdgecError: The file is missing, is no file of records, or has another format version.
    """
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or not isinstance(data.get("records"), list):
            raise ValueError("it has no list of records")
        if data.get("format") != FORMAT:
            raise ValueError(f"it has format {data.get('format')}, this edgec reads format {FORMAT}")
    except (OSError, ValueError) as err:
        raise EdgecError(
            "cannot read the tuning records",
            where=f"{path}: {err.strerror if isinstance(err, OSError) else err}",
            fix="move the file away, or write it anew with `edgec tune`",
        ) from err
    records = Records()
    for number, row in enumerate(data["records"], 1):
        record = _record(row)
        if record is None:
            records.notes.append(f"record {number} of {path} is damaged; it is ignored")
        else:
            records.add(record)
    return records


def _record(row: object) -> Record | None:
    """The record of a row of a file; None if something is missing or of another type."""
    if not isinstance(row, dict):
        return None
    values: dict[str, Any] = {field.name: row.get(field.name) for field in fields(Record)}
    for name, value in values.items():
        kind = _TYPES.get(name, str)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            return None
    if not all(isinstance(v, int) and isinstance(k, str) for k, v in row["choice"].items()):
        return None
    return Record(**values)


class Recorded:
    """Chooses for one kernel: what the records say, else the default.

    Attributes:
        record: The record that was used.
        note: Why one was not.
    """

    def __init__(self, records: Records, cpu: str) -> None:
        self._records = records
        self._cpu = cpu
        self.record: Record | None = None
        self.note = ""

    def __call__(self, site: Site) -> Choice:
        record = self._records.find(self._cpu, site)
        if record is None:
            return site.default
        # A choice that is none of the candidates is of another edgec, or was written by hand.
        if record.choice not in site.candidates:
            described = ", ".join(f"{name} {value}" for name, value in record.choice.items())
            self.note = f"the record of {site.family} {site.workload} does not fit ({described}); it is ignored"
            return site.default
        self.record = record
        return record.choice
