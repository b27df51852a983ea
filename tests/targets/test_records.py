"""Tuning records: the file, which of several wins, and those that do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from tvm import te, tirx
from tvm_ffi import structural_equal

from edgec.errors import EdgecError
from edgec.targets import tuning
from edgec.targets.profile import load_profile
from edgec.targets.schedules import schedule_kernel
from edgec.targets.schedules.choice import Choice, Site
from edgec.targets.tuning import FORMAT, Record, Recorded, Records, cpu_key, find_records, read_records, user_file

CPU = "x86-64-v3/avx2"
PROFILE = load_profile("x86-64-v3")


def record(workload: str = "b=1", **changes: object) -> Record:
    row = Record(CPU, "conv2d", workload, {"columns": 4}, 8.0, 10.5, 9, 9, 1, "some CPU", "0.1.0")
    return dataclasses.replace(row, **changes)


def product(rows: int = 24, relu: bool = True) -> tirx.PrimFunc:
    """A matrix product (rows, 40) x (40, 64) as the lowering marks it, with an epilogue."""
    a, b = te.placeholder((rows, 40), name="a"), te.placeholder((40, 64), name="b")
    k = te.reduce_axis((0, 40), "k")
    c = te.compute((rows, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=[k]), attrs={"edgec.kernel": "matmul"})
    last = te.compute((rows, 64), lambda i, j: tirx.max(c[i, j], tirx.const(0, "float32"))) if relu else c
    return te.create_prim_func([a, b, last])


def site_of(function: tirx.PrimFunc) -> Site:
    sites: list[Site] = []

    def choose(site: Site) -> Choice:
        sites.append(site)
        return site.default

    schedule_kernel(function, PROFILE, choose)
    (site,) = sites
    return site


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = Records([record("b=2", us=3), record("b=1"), record("b=1", cpu="a/neon")])
    path = tmp_path / "new" / "folder" / "records.json"
    written.save(path)
    assert list(read_records(path)) == [record("b=1", cpu="a/neon"), record("b=1"), record("b=2", us=3)]
    first, *rows, last = path.read_text().splitlines()
    assert (first, last) == (f'{{"format": {FORMAT}, "records": [', "]}")
    assert [json.loads(row.rstrip(","))["workload"] for row in rows] == ["b=1", "b=1", "b=2"]
    assert [file.name for file in path.parent.iterdir()] == ["records.json"]


def test_order_of_adding_does_not_show(tmp_path: Path) -> None:
    rows = [record(f"b={i}") for i in range(5)]
    Records(rows).save(tmp_path / "forwards.json")
    Records(reversed(rows)).save(tmp_path / "backwards.json")
    assert (tmp_path / "forwards.json").read_bytes() == (tmp_path / "backwards.json").read_bytes()


def test_the_users_own_win_over_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_RECORDS", str(tmp_path / "own"))
    monkeypatch.setattr(tuning, "shipped_file", lambda _: tmp_path / "shipped.json")
    site = Site("conv2d", "b=1", {"columns": 1}, ({"columns": 1}, {"columns": 4}, {"columns": 5}, {"columns": 6}))

    def chosen(extra: Path | None = None) -> int:
        return Recorded(find_records(PROFILE, extra), CPU)(site)["columns"]

    assert chosen() == 1
    Records([record(choice={"columns": 4})]).save(tmp_path / "shipped.json")
    assert chosen() == 4
    Records([record(choice={"columns": 5})]).save(user_file(PROFILE))
    assert chosen() == 5
    Records([record(choice={"columns": 6})]).save(tmp_path / "extra.json")
    assert chosen(tmp_path / "extra.json") == 6
    assert Recorded(find_records(PROFILE), "znver4/avx512-vnni")(site) == {"columns": 1}


def test_where_the_users_own_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEC_RECORDS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_file(load_profile("rk3588")) == tmp_path / "edgec" / "records" / "cortex-a76-neon-dotprod.json"
    assert cpu_key(load_profile("rk3588")) == "cortex-a76/neon-dotprod"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"format": 99, "records": []}', "it has format 99, this edgec reads format 1"),
        ('{"format": 1}', "it has no list of records"),
        ("[]", "it has no list of records"),
        ("{", "Expecting property name"),
    ],
)
def test_files_of_another_kind(content: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_RECORDS", str(tmp_path))
    monkeypatch.setattr(tuning, "shipped_file", lambda _: tmp_path / "none.json")
    user_file(PROFILE).write_text(content)
    records = find_records(PROFILE)
    (note,) = records.notes
    assert why in note
    assert note.endswith("it is ignored")
    assert len(records) == 0
    with pytest.raises(EdgecError, match="cannot read the tuning records") as error:
        find_records(PROFILE, user_file(PROFILE))
    assert why in str(error.value.where)


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    good = dataclasses.asdict(record())
    bad = [
        3,
        {},
        {**good, "us": "fast"},
        {**good, "tried": True},
        {**good, "choice": {"columns": "4"}},
        {**good, "choice": {"columns": 1.5}},
        {key: value for key, value in good.items() if key != "machine"},
    ]
    path = tmp_path / "records.json"
    path.write_text(json.dumps({"format": FORMAT, "records": [*bad, good]}))
    records = read_records(path)
    assert list(records) == [record()]
    assert records.notes == [f"record {i} of {path} is damaged; it is ignored" for i in range(1, len(bad) + 1)]


def test_a_place_without_permission(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgecError, match="cannot write the tuning records"):
        Records().save(tmp_path / "file" / "records.json")


def test_a_workload_says_what_matters_and_nothing_else() -> None:
    site = site_of(product())
    assert (site.family, site.workload) == ("matmul", "i=24 j=64 | k=40 | float32 24x40 | float32 40x64 | max")
    renamed = product().with_attr("global_symbol", "another")
    assert site_of(renamed) == site
    assert site_of(product(rows=25)).workload != site.workload
    assert site_of(product(relu=False)).workload == "i=24 j=64 | k=40 | float32 24x40 | float32 40x64"


def test_a_record_decides_the_schedule() -> None:
    site = site_of(product())
    assert site.default in site.candidates
    choice = {"rows": 3, "vectors": 2}
    assert choice in site.candidates
    assert choice != site.default
    recorded = Recorded(Records([record(site.workload, family="matmul", choice=choice)]), CPU)
    scheduled = schedule_kernel(product(), PROFILE, recorded)
    assert recorded.record is not None
    assert recorded.note == ""
    assert structural_equal(scheduled, schedule_kernel(product(), PROFILE, lambda _: choice))
    assert not structural_equal(scheduled, schedule_kernel(product(), PROFILE))
    for extent in choice.values():
        assert f"in T.unroll({extent}):" in scheduled.script()


@pytest.mark.parametrize("choice", [{"rows": 1000, "vectors": 2}, {"columns": 3, "blocks": 2}, {}])
def test_a_record_that_does_not_fit_changes_nothing(choice: Choice) -> None:
    site = site_of(product())
    recorded = Recorded(Records([record(site.workload, family="matmul", choice=choice)]), CPU)
    scheduled = schedule_kernel(product(), PROFILE, recorded)
    assert structural_equal(scheduled, schedule_kernel(product(), PROFILE))
    assert recorded.record is None
    assert "does not fit" in recorded.note
    assert site.workload in recorded.note
