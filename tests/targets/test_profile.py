"""Targets: every board file is complete, and wrong names are explained."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from edgec.errors import UnsupportedError
from edgec.targets.instruction_sets import INSTRUCTION_SETS
from edgec.targets.kernel_object import llvm_target
from edgec.targets.profile import PLANNED, list_profiles, load_profile

BOARDS = sorted(f.name for f in resources.files("edgec.targets.boards").iterdir() if f.name.endswith(".toml"))


@pytest.mark.parametrize("file", BOARDS)
def test_board_file(file: str) -> None:
    data = tomllib.loads((resources.files("edgec.targets.boards") / file).read_text())
    assert data["name"] == file.removesuffix(".toml")
    profile = load_profile(data["name"])
    assert profile.instruction_set is INSTRUCTION_SETS[data["instruction_set"]]
    assert profile.cpu.required_features and bool(profile.required_features) == (profile.gpu is None)
    assert str(llvm_target(profile).attrs["mcpu"]) == profile.llvm_cpu
    assert bool(profile.clusters) == bool(profile.sources), "figures of a board name their source"
    numbers = [cpu for cluster in profile.clusters for cpu in cluster.cpus]
    assert sorted(numbers) == list(range(len(numbers)))
    assert list(profile.clusters) == sorted(profile.clusters, key=lambda c: -c.max_mhz), "fastest cluster first"


def test_rk3588_has_dot_product() -> None:
    profile = load_profile("rk3588")
    assert profile.big_cpus == (4, 5, 6, 7)
    assert "asimddp" in profile.required_features
    assert profile.lanes("float32") == 4
    assert profile.lanes("int8") == 16


def test_native_names_its_widest_vectors() -> None:
    profile = load_profile("native")
    assert profile.instruction_set.name in INSTRUCTION_SETS
    assert set(profile.instruction_set.required) <= set(profile.required_features)


@pytest.mark.parametrize("name", PLANNED)
def test_planned_targets_say_so(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"target '{name}' is not supported yet") as info:
        load_profile(name)
    assert info.value.exit_code == 3
    assert name not in list_profiles()


def test_unknown_target_suggests_the_nearest() -> None:
    with pytest.raises(UnsupportedError, match="unknown target 'raspbery-pi4'; did you mean 'raspberry-pi-4'"):
        load_profile("raspbery-pi4")
    with pytest.raises(UnsupportedError, match="unknown target 'toaster'") as info:
        load_profile("toaster")
    assert "did you mean" not in str(info.value)
