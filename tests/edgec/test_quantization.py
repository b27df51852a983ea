"""`edgec.quantize`, its calibration and its command line: data, options, memory, interruption."""

from __future__ import annotations

import json
import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgec
from edgec.calibration import calibrate
from edgec.errors import EdgecError, UsageError
from edgec.frontend import execute
from edgec.quantization import QuantizationWarning, Settings, input_infos, prepare
from edgec.samples import open_samples
from edgec.sources import read_model
from tests.edgec.tiny import FEATURES, tiny_model

SHAPES = {"image": (1, 3, 8, 8), "shift": FEATURES}


def samples(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((count, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def tiny() -> ir.Model:
    return read_model(tiny_model())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", **samples(12))
    return tmp_path / "data.npz"


def text_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_every_way_to_hand_in_samples_gives_the_same_model(tiny, data, tmp_path, monkeypatch):
    arrays = samples(12)
    folder = tmp_path / "folder"
    folder.mkdir()
    np.savez(folder / "a.npz", **{name: array[:5] for name, array in arrays.items()})
    np.savez_compressed(folder / "b.npz", **{name: array[5:] for name, array in arrays.items()})
    (tmp_path / "made_samples.py").write_text(
        "import numpy as np\ndef load():\n    with np.load('data.npz') as f:\n        return dict(f)\n"
        "def each():\n    arrays = load()\n    for image, shift in zip(arrays['image'], arrays['shift']):\n"
        "        yield [image[0], shift]\n"
    )
    monkeypatch.chdir(tmp_path)
    rows = [{name: array[i] for name, array in arrays.items()} for i in range(12)]
    expected = text_of(edgec.quantize(tiny, arrays))
    for source in (data, str(folder), "made_samples:load", "made_samples:each", rows, iter(rows), lambda: rows):
        assert text_of(edgec.quantize(tiny, source)) == expected


def test_the_result_runs_in_onnxruntime_as_in_the_engine(tiny, run_onnxruntime):
    arrays = samples(20)
    model = edgec.quantize(tiny, arrays)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    inputs = {name: array[0] for name, array in arrays.items()}
    ours, theirs, exact = execute(model, inputs), run_onnxruntime(model, inputs), execute(tiny, inputs)
    for name, array in exact.items():
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4 * np.abs(array).max())
        assert np.square(ours[name] - array).sum() < 1e-3 * np.square(array).sum()
        assert not np.array_equal(ours[name], array)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True, "activation_type": "int8"},
        {"per_channel": False},
        {"equalization": "weights"},
        {"equalization": "activations", "rounding": "adaptive"},
    ],
)
def test_options(tiny, run_onnxruntime, method, options):
    arrays = samples(20)
    model = edgec.quantize(tiny, arrays, method=method, **options)
    inputs = {name: array[3] for name, array in arrays.items()}
    actual, exact = run_onnxruntime(model, inputs)["logits"], execute(tiny, inputs)["logits"]
    assert np.square(actual - exact).sum() < 0.01 * np.square(exact).sum()


def test_adaptive_rounding_brings_the_outputs_nearer(tiny):
    arrays = samples(64)
    rows = [{name: array[i] for name, array in arrays.items()} for i in range(64)]

    def error(rounding: str) -> float:
        model = edgec.quantize(tiny, arrays, rounding=rounding)
        return sum(float(np.square(execute(model, r)["logits"] - execute(tiny, r)["logits"]).sum()) for r in rows)

    assert error("adaptive") < error("nearest")


def test_an_iterator_that_is_needed_twice_is_refused(tiny):
    rows = [{name: array[i] for name, array in samples(3).items()} for i in range(3)]
    with pytest.raises(EdgecError, match="an iterator gives them once"):
        edgec.quantize(tiny, iter(rows), rounding="adaptive")
    edgec.quantize(tiny, lambda: iter(rows), rounding="adaptive")


def test_bias_correction_brings_the_mean_output_nearer(tiny):
    rng = np.random.default_rng(3)
    arrays = {name: rng.uniform(0, 1, (64, *shape)).astype(np.float32) for name, shape in SHAPES.items()}

    def bias(corrected: bool) -> float:
        model = edgec.quantize(tiny, arrays, bias_correction=corrected, per_channel=False, method="minmax")
        rows = [{name: array[i] for name, array in arrays.items()} for i in range(64)]
        errors = [execute(model, row)["net/features"] - execute(tiny, row)["net/features"] for row in rows]
        return float(np.abs(np.mean(errors, axis=(0, 1, 3, 4))).max())

    assert bias(True) < 0.7 * bias(False)


def test_biases_take_back_what_rounding_activations_adds(tiny):
    rng = np.random.default_rng(8)
    arrays = {name: 0.3 + 0.05 * rng.random((24, *shape), np.float32) for name, shape in SHAPES.items()}
    rows = [{name: array[i] for name, array in arrays.items()} for i in range(24)]

    def error(measured: bool) -> float:
        model = edgec.quantize(tiny, arrays, measure_bias=measured)
        differences = [execute(model, row)["net/features"] - execute(tiny, row)["net/features"] for row in rows]
        return float(np.abs(np.mean(differences, axis=(0, 1, 3, 4))).mean())

    assert error(True) < 0.7 * error(False)
    with pytest.raises(UsageError, match="cannot be measured"):
        edgec.quantize(tiny, arrays, measure_bias=True, bias_correction=False)


def test_without_data_there_is_a_warning_and_a_result(tiny):
    with pytest.warns(QuantizationWarning, match="no calibration data: ranges are those of synthetic noise"):
        model = edgec.quantize(tiny)
    assert any(node.op_type == "QuantizeLinear" for node in model.graph)


WRONG_DATA: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "empty": (lambda a: {n: x[:0] for n, x in a.items()}, "no or different numbers of samples"),
    "uneven": (lambda a: {**a, "image": a["image"][:3]}, "no or different numbers of samples"),
    "no samples": (lambda _: iter([]), "there are no samples to calibrate with"),
    "constant": (lambda a: {n: np.full_like(x, 0.5) for n, x in a.items()}, "are constant: all of them are 0.5"),
    "all the same": (lambda a: {n: np.repeat(x[:1], 5, 0) for n, x in a.items()}, "all 5 samples are the same"),
    "NaN": (lambda a: {**a, "image": np.where(a["image"] > 2, np.nan, a["image"])}, "hold NaN or infinite values"),
    "infinite": (lambda a: {**a, "shift": a["shift"] / np.float32(0)}, "hold NaN or infinite values"),
    "shape": (lambda a: {**a, "image": a["image"][..., :7]}, "'image' have the wrong shape"),
    "dtype": (lambda a: {**a, "image": (a["image"] * 9).astype(np.uint8)}, "'image' have the wrong dtype"),
    "unknown input": (lambda a: {**a, "imag": a["image"]}, "no input 'imag'; did you mean 'image'?"),
    "missing input": (lambda a: {"image": a["image"]}, "input 'shift' is missing"),
    "too few in a row": (lambda a: [[x] for x in a["image"]], "a sample has 1 arrays, the model 2 inputs"),
    "no samples at all": (lambda _: 3.0, "gives a float, not samples"),
    "overflow": (lambda a: {n: x * np.float32(9e37) for n, x in a.items()}, "computes NaN or infinite values in"),
    "user's code": (lambda _: (1 / 0 for _ in range(3)), "failed: division by zero"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("name", sorted(WRONG_DATA))
def test_wrong_data_are_refused(tiny, name):
    make, message = WRONG_DATA[name]
    with np.errstate(all="ignore"), pytest.raises(EdgecError, match=message.replace("?", r"\?")) as caught:
        edgec.quantize(tiny, make(samples(5)))
    assert caught.value.exit_code == 1


def test_wrong_files_are_refused(tiny, tmp_path):
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "objects.npz", image=np.array([None]), shift=np.zeros((1, *FEATURES), np.float32))
    for name, message in {
        "noise.npz": "is not an .npz file", "empty": "no .npz files", "none.npz": "no such file",
        "objects.npz": "is not an .npz file", "json:nothing": "cannot load the data",
    }.items():  # fmt: skip
        source = name if ":" in name else tmp_path / name
        with pytest.raises(EdgecError, match=message):
            edgec.quantize(tiny, source)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep_float": ["cnov"]}, EdgecError, "nothing in the model is called 'cnov'; did you mean 'conv'"),
        ({"keep_float": ["/head/*"]}, EdgecError, "nothing in the model is called '/head/\\*'"),
        ({"keep_float": ["Conv", "Gemm"]}, EdgecError, "nothing to quantize"),
        ({"percentile": 99.0}, UsageError, "a percentile says nothing to the method 'mse'"),
        ({"method": "percentile", "percentile": 0.99}, UsageError, "not between 50 and 100"),
        ({"method": "median"}, UsageError, "there is no method 'median'"),
        ({"equalization": "both"}, UsageError, "there is no equalization 'both'"),
        ({"rounding": "up"}, UsageError, "there is no rounding 'up'"),
        ({"activation_type": "int4"}, UsageError, "activations cannot be int4"),
        ({"samples": 0}, UsageError, "0 samples are too few"),
    ],
)
def test_wrong_options_are_refused(tiny, options, error, message):
    with pytest.raises(error, match=message):
        edgec.quantize(tiny, samples(2), **options)


def test_a_name_that_simplifying_removed_is_explained():
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["i"], name="gone"),
        onnx.helper.make_node("MatMul", ["i", "w"], ["y"], name="product"),
    ]
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 2)) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(EdgecError, match="'gone' is not there any more"):
        edgec.quantize(
            model, {"x": np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)}, keep_float=["gone"]
        )


def test_an_interrupted_calibration_goes_on(tiny, tmp_path):
    rows = [{name: array[i] for name, array in samples(12).items()} for i in range(12)]
    state = tmp_path / "state"
    seen = []

    def until_seventh() -> Iterator[dict[str, np.ndarray]]:
        for index, row in enumerate(rows):
            if index == 7:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        edgec.quantize(tiny, until_seventh(), state=state)
    assert state.exists()
    other = [{name: array + 1 for name, array in row.items()} for row in rows]
    with pytest.raises(UsageError, match="made with other samples"):
        edgec.quantize(tiny, other, state=state)
    with pytest.raises(UsageError, match="belongs to another model"):
        edgec.quantize(tiny, rows, state=state, keep_float=["Gemm"])
    model = edgec.quantize(tiny, rows, state=state, progress=lambda _, done, total: seen.append((done, total)))
    assert text_of(model) == text_of(edgec.quantize(tiny, rows))
    assert not state.exists() and seen[-1] == (12, 12)
    state.write_bytes(b"nonsense")
    with pytest.raises(EdgecError, match="is no unfinished calibration"):
        edgec.quantize(tiny, rows, state=state)


def test_memory_does_not_grow_with_the_samples(tiny, tmp_path):
    """A file with ten times the samples, 27 MB, is never held as a whole."""
    peaks = []
    names = ["image", "conv"]
    for count in (400, 4000):
        path = tmp_path / f"{count}.npz"
        np.savez(path, **samples(count))
        tracemalloc.start()
        found = open_samples(path, input_infos(tiny))
        counted = calibrate(tiny, [str(tiny.graph.inputs[0].name), str(tiny.graph[0].outputs[0].name)], found)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert counted.samples == count and len(names) == len(counted.histograms)
    assert peaks[1] < 1.1 * peaks[0] + 100_000
    assert peaks[1] < (tmp_path / "4000.npz").stat().st_size / 4


@pytest.mark.parametrize("entry", ["conv", "fc"])
def test_equalization_beside_layers_in_float(tiny, entry):
    made = prepare(tiny, samples(3), Settings(keep_float=(entry,), equalization="activations")).quantize()
    assert made.placement.kept == {entry: "as you asked"}
    row = {name: array[0] for name, array in samples(3).items()}
    for name, exact in execute(tiny, row).items():
        assert np.abs(execute(made.model, row)[name] - exact).max() < 0.05 * np.abs(exact).max()


def test_the_notes_and_figures_of_a_run(tiny):
    made = prepare(tiny, samples(3), Settings(keep_float=("fc",)), limit=2).quantize()
    assert made.calibration.samples == 2 and not made.notes
    assert made.placement.kept == {"fc": "as you asked"}
    assert [unit.name for unit in made.placement.units if unit.is_linear] == ["conv"]


def test_command_line(run_edgec, tiny_onnx, data, tmp_path):
    out = tmp_path / "out.onnx"
    result = run_edgec("quantize", tiny_onnx, "--calibration", data, "-o", out, "--json", "--samples", 5)
    assert result.code == 0 and not result.stderr
    figures = json.loads(result.stdout)
    assert figures["quantized"] == 2 and figures["kept_float"] == {} and figures["samples"] == 5
    assert figures["size_bytes"] == out.stat().st_size
    onnx.checker.check_model(onnx.load(str(out)), full_check=True)
    result = run_edgec("quantize", tiny_onnx, "-o", out)
    assert result.code == 0 and "warning: no calibration data" in result.stderr
    assert "2 of 2 convolutions and products in int8" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--keep-float", "Cov"), 1, "did you mean 'Conv'?"),
        (("--calibration", "missing.npz"), 1, "no such file: missing.npz"),
        (("--percentile", "99"), 2, "a percentile says nothing"),
        (("--method", "median"), 2, "'median'"),
    ],
)
def test_nothing_is_written_on_errors(run_edgec, tiny_onnx, tmp_path, arguments, code, message):
    result = run_edgec("quantize", tiny_onnx, "-o", tmp_path / "out.onnx", *arguments)
    assert result.code == code and message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_interrupted_command_line(run_edgec, tiny_onnx, data, tmp_path, monkeypatch):
    calls = []

    def execute_until(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return execute(*arguments, **keywords)

    monkeypatch.setattr("edgec.calibration.execute", execute_until)
    command = ("quantize", tiny_onnx, "--calibration", data, "-o", tmp_path / "out.onnx")
    result = run_edgec(*command)
    assert result.code == 130 and "--resume" in result.stderr
    assert (tmp_path / "out.unfinished").exists() and not (tmp_path / "out.onnx").exists()
    result = run_edgec(*command)
    assert result.code == 2 and "there is an unfinished calibration" in result.stderr
    result = run_edgec(*command, "--resume")
    assert result.code == 0 and len(calls) == 5 + 12 - 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "out.onnx"]


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_real_model_on_cifar10(data_dir, real_model):
    """ResNet-8 loses at most 0.7 points of accuracy. (More models: benchmarks/accuracy.py.)"""
    onnxruntime = pytest.importorskip("onnxruntime")
    with np.load(data_dir / "datasets" / "cifar10_test2000.npz") as file:
        images, labels = file["images"].transpose(0, 3, 1, 2).astype(np.float32)[:, None], file["labels"]
    model = real_model("mlperf_tiny_resnet8")
    made = edgec.quantize(model, {"input_1": images[:100]})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # no sums that saturate

    def accuracy(model: ir.Model) -> float:
        session = onnxruntime.InferenceSession(text_of(model), options, providers=["CPUExecutionProvider"])
        return float(np.mean([
            session.run(None, {"input_1": image})[0].argmax() == label
            for image, label in zip(images[100:], labels[100:], strict=True)
        ]))  # fmt: skip

    assert accuracy(made) >= accuracy(model) - 0.007
    size = len(text_of(made)) / len(text_of(model))
    assert size < 0.5, "weights are a quarter; names and scales weigh much in so small a model"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20


def test_a_quantized_model_is_left_alone(tiny):
    with pytest.raises(EdgecError, match="quantized already"):
        edgec.quantize(edgec.quantize(tiny, samples(2)), samples(2))


def test_compiling_quantizes(tiny_onnx, data):
    bundle = edgec.compile(tiny_onnx, quantize="int8", calibration=data)
    made = edgec.quantize(tiny_onnx, data)
    graph = read_model(bundle.folder / "graph" / "model.onnx")
    assert [node.op_type for node in graph.graph] == [node.op_type for node in made.graph]
    for name, value in made.graph.initializers.items():
        np.testing.assert_array_equal(graph.graph.initializers[name].const_value.numpy(), value.const_value.numpy())
    with pytest.raises(UsageError, match="cannot quantize to int4"):
        edgec.compile(tiny_onnx, quantize="int4")
    with pytest.raises(UsageError, match="calibration data say nothing to a model in float32"):
        edgec.compile(tiny_onnx, calibration=data)


def test_the_compile_command_quantizes(run_edgec, tiny_onnx, data, tmp_path):
    command = ("compile", tiny_onnx, "--target", "native", "-o", tmp_path / "q.edgec")
    result = run_edgec(*command, "--quantize", "int8")
    assert result.code == 0 and "edgec: warning: no calibration data" in result.stderr
    result = run_edgec(*command, "--quantize", "int8", "--calibration", data)
    assert result.code == 0 and not result.stderr
    assert run_edgec(*command, "--calibration", data).code == 2
