"""Every candidate of a schedule gives right code: random layers, each by a random candidate, against the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

import edgec
from edgec.compiler import plan_model
from edgec.targets.schedules import schedule_kernel
from edgec.targets.schedules.choice import Choice, Site
from edgec.targets.tuning import Record, Records, cpu_key
from tests.targets.random_layers import random_model
from tests.targets.test_random_kernels import need_emulator


@pytest.mark.parametrize(("target", "seed"), [("native", 10), ("x86-64-v3", 11), ("rk3588", 12)])
def test_any_candidate_gives_right_code(target: str, seed: int, tmp_path: Path) -> None:
    model, _ = random_model(seed)
    rng = np.random.default_rng(seed)
    plan, profile = plan_model(model, target, None, "layers")
    records = Records()

    def choose(site: Site) -> Choice:
        choice = site.candidates[int(rng.integers(len(site.candidates)))]
        row = Record(cpu_key(profile), site.family, site.workload, choice, 1.0, 1.0, 1, 1, 1, "", "")
        records.add(row)
        return choice

    for kernel in {call.kernel for call in plan.calls}:
        if kernel in plan.kernels:
            schedule_kernel(plan.kernels[kernel], profile, choose)
    assert len(records) >= 10
    records.save(tmp_path / "random.json")
    bundle = edgec.compile(model, target=target, records=tmp_path / "random.json")
    assert bundle.notes == ()
    assert len(bundle.manifest["tuning"]["kernels"]) >= len(records)
    need_emulator(bundle)
    report = edgec.check(bundle, threads=2, samples=1)  # the first is standard normal
    assert report, str(report)
