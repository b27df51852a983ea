"""The search: what it takes, keeps, goes on with and refuses. Most of it runs against a device of made-up times."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tvm")

import edgec
from edgec import kernel_search
from edgec.devices import KernelTime
from edgec.kernel_search import TunedKernel
from edgec.targets.profile import load_profile
from edgec.targets.tuning import Records, cpu_key, read_records, user_file
from edgec.timed_kernels import plan_of_variants
from tests.edgec.conftest import Result
from tests.edgec.tiny import save_tiny

Edgec = Callable[..., Result]


class Device:
    """Runs nothing: every kernel takes 100 µs, except the candidates in ``fast``; all compute the same but ``wrong``.

    Candidates are known by their order: ``(batch, variant)``, both from 0, counted over the whole search.
    """

    description = "made-up device"

    def __init__(self) -> None:
        self.fast: dict[tuple[int, int], float] = {}
        self.wrong: set[tuple[int, int]] = set()
        self.interrupted_at = -1
        self.batches: list[int] = []

    def bundle(self, plan: edgec.targets.lowering.Plan, *_: object) -> edgec.targets.lowering.Plan:
        self.is_model = not plan.calls[0].kernel.startswith("v0")
        if not self.is_model:
            if len(self.batches) == self.interrupted_at:
                raise KeyboardInterrupt
            self.batches.append(len(plan.kernels) - 1)
        self.plan = plan
        return plan

    def run(self, samples: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        assert [array.shape for array in samples[0]] == [spec.shape for spec in self.plan.inputs]
        outputs = []
        for i, spec in enumerate(self.plan.outputs):
            array = np.ones(spec.shape, spec.dtype)
            if (len(self.batches) - 1, i - 1) in self.wrong:
                array.flat[-1] += 0.01
            outputs.append(array)
        return [outputs]

    def profile(self, runs: int) -> list[KernelTime]:
        assert runs >= 5
        times = []
        for i, call in enumerate(self.plan.calls):
            batch = len(self.batches) - 1
            us = 100.0 if self.is_model else self.fast.get((batch, int(call.kernel[1:]) - 1), 100.0)
            times.append(KernelTime(i, call.kernel, us, us))
        return times

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def two_kernels() -> onnx.ModelProto:
    """X -> 3x3 convolution, ReLU -> 1x1 convolution -> y: two kernels with something to choose."""
    rng = np.random.default_rng(3)
    shapes = {"w": (4, 3, 3, 3), "v": (4, 4, 1, 1)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))
    graph = helper.make_graph(nodes, "two", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(two_kernels(), str(tmp_path / "two.onnx"))
    return tmp_path / "two.onnx"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made_up = Device()
    monkeypatch.setattr(kernel_search, "runner_bundle", made_up.bundle)
    monkeypatch.setattr(kernel_search, "open_process", lambda *_, **__: made_up)
    return made_up


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records.json"


def test_the_fastest_choice_is_kept(device: Device, records: Path) -> None:
    device.fast = {(0, 1): 80.0, (0, 4): 70.0, (0, 6): 99.0, (2, 0): 70.0}
    found: list[TunedKernel] = []
    report = edgec.tune(two_kernels(), records=records, found=found.append)
    conv, last = report.kernels
    assert found == [conv, last]
    assert (conv.family, last.family) == ("conv2d", "pointwise")
    assert conv.tried == conv.candidates == sum(device.batches[:2]) + 1
    assert device.batches[2] == 2  # the two that were faster by more than the noise, once more
    assert conv.choice != conv.default
    assert (conv.default_us, conv.us) == (100.0, 70.0)
    assert last.choice == last.default
    assert report.gain == pytest.approx(1 / (1 - 0.3 * conv.share))
    kept = {record.workload: record for record in read_records(records)}
    assert kept[conv.workload].choice == conv.choice
    assert kept[conv.workload].cpu == cpu_key(load_profile("native"))
    assert kept[last.workload].choice == last.default
    assert report.wrong == ()


def test_a_second_search_goes_on(device: Device, records: Path) -> None:
    first = edgec.tune(two_kernels(), records=records)
    content, count = records.read_bytes(), len(device.batches)
    second = edgec.tune(two_kernels(), records=records)
    assert len(device.batches) == count
    assert [kernel.is_new for kernel in first.kernels] == [True, True]
    assert [kernel.is_new for kernel in second.kernels] == [False, False]
    assert records.read_bytes() == content
    edgec.tune(two_kernels(), records=records, again=True)
    assert len(device.batches) == 2 * count


def test_an_interrupted_search_keeps_what_it_found(device: Device, records: Path) -> None:
    whole = edgec.tune(two_kernels(), records=records.with_name("other.json"))
    sizes, device.batches = device.batches, []
    assert sizes[0] == kernel_search.BATCH
    device.fast = {(0, 3): 50.0}
    device.interrupted_at = 1
    report = edgec.tune(two_kernels(), records=records)
    assert report.is_interrupted
    (conv,) = report.kernels
    assert (conv.tried, conv.candidates) == (kernel_search.BATCH + 1, whole.kernels[0].candidates)
    assert conv.gain == 2
    assert report.untried == 1
    device.interrupted_at, device.fast = -1, {(2, 0): 50.0}
    device.batches = [0]
    report = edgec.tune(two_kernels(), records=records)
    assert not report.is_interrupted
    assert device.batches[1:] == [sizes[1], 1, *sizes[2:]]  # the rest, what was the best before, the other kernel
    assert report.kernels[0].choice == conv.choice
    assert report.kernels[0].tried == report.kernels[0].candidates


def test_a_wrong_candidate_is_caught(device: Device, records: Path, path: Path, run_edgec: Edgec) -> None:
    device.fast = {(0, 0): 10.0}
    device.wrong = {(0, 0)}
    result = run_edgec("tune", path, "-t", "native", "--records", records, "--json")
    assert result.code == 4
    assert "1 candidate(s) do not compute what the default computes" in result.stderr
    report = json.loads(result.stdout)
    (wrong,) = report["wrong"]
    assert wrong.startswith("conv2d ")
    assert "where the default gives 1" in wrong
    assert [row["choice"] == row["default"] for row in report["kernels"]] == [True, True]


def test_a_candidate_that_cannot_be_scheduled(device: Device, records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, broken = kernel_search._schedule, []

    def fail_once(function: object, profile: object, choice: dict[str, int] | None = None) -> object:
        if choice is not None and not broken:
            broken.append(choice)
            raise RuntimeError("no such loop")
        return schedule(function, profile, choice)

    monkeypatch.setattr(kernel_search, "_schedule", fail_once)
    report = edgec.tune(two_kernels(), records=records)
    assert len(report.wrong) == 1
    assert report.wrong[0].endswith("no such loop")
    assert device.batches[0] == kernel_search.BATCH - 1
    assert report.kernels[0].tried == report.kernels[0].candidates


def test_time_ends_the_search(device: Device, records: Path) -> None:
    report = edgec.tune(two_kernels(), records=records, time_s=1e-6)
    assert device.batches == []
    assert report.kernels == ()
    assert report.untried == 2
    assert len(read_records(records)) == 0


def test_interrupted_command(device: Device, records: Path, path: Path, run_edgec: Edgec) -> None:
    device.interrupted_at = 1
    result = run_edgec("tune", path, "-t", "native", "--records", records)
    assert result.code == 130
    assert "what was found is kept" in result.stderr
    assert f"records: {records}" in result.stdout
    assert len(read_records(records)) == 1


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["-t", "native", "--time", "soon"], 2, "cannot read the time 'soon'"),
        (["-t", "native", "--time", "0s"], 2, "cannot read the time '0s'"),
        (["-t", "native", "--device", "qemu"], 2, "--device ssh://[user@]host"),
        (["-t", "native", "--device", "inprocess"], 2, "timing needs a process of its own"),
        (["-t", "native", "--threads", "0"], 2, "cannot run on 0 threads"),
        (["-t", "rk3588x"], 3, "unknown target 'rk3588x'; did you mean 'rk3588'?"),
        ([], 2, "Missing option '--target'"),
    ],
)
def test_options_that_make_no_sense(
    options: list[str], code: int, said: str, records: Path, tmp_path: Path, run_edgec: Edgec
) -> None:
    result = run_edgec("tune", save_tiny(tmp_path / "tiny.onnx"), "--records", records, *options)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.stderr


def test_an_emulator_is_refused(records: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    foreign = "x86-64-v2" if load_profile("native").arch == "aarch64" else "rk3588"
    result = run_edgec("tune", save_tiny(tmp_path / "tiny.onnx"), "-t", foreign, "--records", records)
    assert result.code == 2
    assert "an emulator's times say nothing about the target" in result.stderr
    assert "--device ssh://[user@]host" in result.stderr
    assert not records.exists()


def test_records_that_cannot_be_read(records: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    records.write_text("{}")
    model = save_tiny(tmp_path / "tiny.onnx")
    for verb in ("tune", "compile"):
        result = run_edgec(verb, model, "-t", "native", "--records", records)
        assert result.code == 1
        assert "cannot read the tuning records" in result.stderr
    assert records.read_text() == "{}"


def test_variants_share_inputs_and_have_outputs_of_their_own() -> None:
    from tvm import te

    a = te.placeholder((3, 4), name="a")
    plan = plan_of_variants(te.create_prim_func([a, te.compute((3, 4), lambda i, j: a[i, j] + 1)]), 2)
    assert [spec.shape for spec in plan.inputs] == [(3, 4)]
    assert [spec.name for spec in plan.outputs] == ["v0_t1", "v1_t1"]
    assert [call.kernel for call in plan.calls] == ["v0", "v0", "v1"]


def test_search_on_this_machine(records: Path, tmp_path: Path, run_edgec: Edgec) -> None:
    """Every candidate is built, run and compared, and the compiler takes what was found."""
    model = save_tiny(tmp_path / "tiny.onnx")
    output = tmp_path / "tiny.edgec"
    result = run_edgec(
        "compile", model, "-t", "native", "--tune", "--tune-time", "10m", "--records", records, "-o", output
    )
    assert result.code == 0
    assert result.stderr.count("15 of 15 tried") == 1
    (record,) = read_records(records)
    assert record.us <= record.default_us
    bundle = edgec.load(output)
    assert len(bundle.manifest["tuning"]["kernels"]) == 1
    assert edgec.check(bundle)


@pytest.mark.parametrize("option", ["--quantize", "--precision"])
def test_a_quantized_model_is_tuned_as_such(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_edgec: Edgec
) -> None:
    tuned: list[list[str]] = []

    def tune(model: ir.Model, **_: object) -> SimpleNamespace:
        tuned.append([node.op_type for node in model.graph])
        return SimpleNamespace(wrong=(), is_interrupted=False)

    monkeypatch.setattr(edgec, "tune", tune)
    output = tmp_path / "tiny.edgec"
    result = run_edgec(
        "compile", save_tiny(tmp_path / "tiny.onnx"), "-t", "native", "--tune", option, "int8", "-o", output
    )
    assert result.code == 0 and "no calibration data" in result.stderr
    assert ["QuantizeLinear" in operators for operators in tuned] == [True]
    bundle = edgec.load(output)
    assert bundle.manifest["recipe"]["precision"] == "int8"


def test_what_is_not_decided_is_not_tuned(tmp_path: Path, run_edgec: Edgec) -> None:
    command = ("compile", save_tiny(tmp_path / "tiny.onnx"), "-t", "native", "--tune", "--quantize", "auto")
    result = run_edgec(*command, "--calibration", "x.npz", "-o", tmp_path / "tiny.edgec")
    assert result.code == 2 and "leave --tune out" in result.stderr
    assert not (tmp_path / "tiny.edgec").exists()


def test_a_tuned_bundle_computes_the_same(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the records say, also the user's own without an option, parity holds and the manifest tells."""
    monkeypatch.setenv("EDGEC_RECORDS", str(tmp_path))
    device.fast = {(batch, 5): 10.0 for batch in range(9)} | {(batch, 0): 20.0 for batch in range(9)}
    report = edgec.tune(two_kernels())
    assert report.records == str(user_file(load_profile("native")))
    assert any(kernel.choice != kernel.default for kernel in report.kernels)
    tuned = edgec.compile(two_kernels())
    assert sorted(tuned.manifest["tuning"]["kernels"]) == sorted(kernel.kernel for kernel in report.kernels)
    assert edgec.check(tuned)
    Records().save(user_file(load_profile("native")))
    plain = edgec.compile(two_kernels())
    assert plain.manifest["tuning"] == {"kernels": []} and plain.notes == ()
    assert plain.library.read_bytes() != tuned.library.read_bytes()
    x = {"x": np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    np.testing.assert_allclose(tuned.run(x)["y"], plain.run(x)["y"], rtol=1e-4, atol=1e-5)


def test_notes_reach_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_edgec: Edgec) -> None:
    monkeypatch.setenv("EDGEC_RECORDS", str(tmp_path))
    user_file(load_profile("native")).write_text("{}")
    output = tmp_path / "tiny.edgec"
    result = run_edgec("compile", save_tiny(tmp_path / "tiny.onnx"), "-t", "native", "-o", output)
    assert result.code == 0
    assert "edgec: note: cannot read the tuning records" in result.stderr
    assert len(edgec.load(output).notes) == 1
