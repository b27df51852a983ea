"""Every case of every lowering as users get it, simplified, scheduled, linked and run, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("tvm")

import edgec
from edgec.devices import open_runner
from edgec.devices.samples import ordered_inputs
from tests.targets.lowering_cases import CASES, Case
from tests.targets.test_lowering import build
from tests.targets.test_random_kernels import need_emulator


@pytest.mark.parametrize("target", ["native", "rk3588"])
def test_equals_onnxruntime(
    target: str, run_onnxruntime: Callable[..., Any], assert_close: Callable[..., None]
) -> None:
    cases: list[Case] = [case for op_type in sorted(CASES) for case in CASES[op_type]]
    if target == "rk3588":  # the same schedules with other widths: half of the cases will do
        cases = cases[::2]
    built = build(cases)
    expected = run_onnxruntime(built.model, built.inputs)
    bundle = edgec.compile(built.model, target=target)
    need_emulator(bundle)
    with open_runner(bundle, threads=2) as runner:
        (outputs,) = runner.run([ordered_inputs(bundle, built.inputs)])
    assert [info.name for info in bundle.outputs] == list(expected)
    failures = []
    for info, actual in zip(bundle.outputs, outputs, strict=True):
        try:
            assert_close(actual, expected[info.name])
        except AssertionError as err:
            failures.append(f"{cases[int(info.name[3:].split('_')[0])]}: {err}")
    assert not failures, "\n".join(failures)
