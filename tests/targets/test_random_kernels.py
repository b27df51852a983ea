"""Convolutions and matrix products of random shapes, for every instruction set, against the engine and ONNX Runtime."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable

import onnx
import pytest

import edgec
from edgec.parity import POLICY, compare
from tests.targets.random_layers import random_model

SEEDS = {"native": 0, "x86-64-v2": 1, "x86-64-v3": 2, "rk3588": 3, "raspberry-pi-4": 4}

Built = tuple[edgec.Bundle, onnx.ModelProto, dict[str, str]]


@pytest.fixture(scope="module")
def built() -> Callable[[str], Built]:
    """The random layers of a target: as a bundle, as a model, and in words by output."""

    @functools.cache
    def build(target: str) -> Built:
        model, described = random_model(SEEDS[target])
        return edgec.compile(model, target=target), model, described

    return build


def assert_parity(built: Built, device: str | None, threads: int) -> edgec.ParityReport:
    bundle, _, described = built
    need_emulator(bundle, device)
    report = edgec.check(bundle, device=device, threads=threads, samples=1)  # the first is standard normal
    assert report, [(described[output.name], output.reason) for output in report.outputs if not output.passed]
    return report


@pytest.mark.parametrize("target", SEEDS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_engine_agrees(target: str, threads: int, built: Callable[[str], Built]) -> None:
    assert_parity(built(target), None, threads)


@pytest.mark.parametrize("target", ["native", "x86-64-v2", "x86-64-v3"])
def test_onnx_runtime_agrees(target: str, built: Callable[[str], Built]) -> None:
    """Engine and compiler could be wrong in the same way."""
    onnxruntime = pytest.importorskip("onnxruntime")
    bundle, model, described = built(target)
    need_emulator(bundle)
    sample = {name: array[0] for name, array in bundle.golden("inputs").items()}
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, sample)
    for (name, actual), reference in zip(bundle.run(sample).items(), expected, strict=True):
        result = compare(name, reference[None], actual[None], POLICY["float32"])
        assert result.passed, (described[name], result.reason)


@pytest.mark.parametrize(("target", "cpu"), [("x86-64-v2", "Nehalem"), ("x86-64-v3", "Haswell")])
def test_the_oldest_cpu_of_a_level(target: str, cpu: str, built: Callable[[str], Built]) -> None:
    """A Nehalem has no AVX, a Haswell no AVX-512: an instruction of these would end the emulated process."""
    assert assert_parity(built(target), "qemu", 2).device == f"QEMU {cpu}"


def need_emulator(bundle: edgec.Bundle, device: str | None = None) -> None:
    """Skip where it is to be emulated, or its CPU is foreign, and QEMU is missing; on CI that is a failure."""
    from edgec.devices.selection import host_arch

    if (device != "qemu" and bundle.arch == host_arch()) or shutil.which(f"qemu-{bundle.arch}"):
        return
    message = f"no qemu-{bundle.arch}: apt-get install qemu-user"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
