"""The checker itself under test: one weight changed in an artifact must not pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgec
from edgec.errors import EdgecError
from tests.edgec.conftest import Result
from tests.edgec.tiny import rewrite, tiny_inputs


def weights_of(path: Path) -> dict[str, np.ndarray]:
    bundle = edgec.load(path)
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(bundle.graph)).graph.initializer}


def params_of(path: Path) -> np.ndarray:
    bundle = edgec.load(path)
    return np.frombuffer(bundle.params.read_bytes(), np.float32).copy()


def mutate(path: Path, target: Path, value: float, factor: float) -> Path:
    """The bundle with the one float32 ``value`` of its parameters multiplied by ``factor``."""
    params = params_of(path)
    (index,) = np.flatnonzero(params == np.float32(value))
    params[index] *= factor
    return rewrite(path, target, {"params/params.bin": params.tobytes()})


@pytest.mark.parametrize("factor", [1.01, 0.0, -1.0])
def test_one_changed_weight_fails_the_check(
    factor: float, native: Path, tmp_path: Path, run_edgec: Callable[..., Result]
) -> None:
    """Even by a hundredth: the first convolution's largest weight feeds both outputs."""
    weights = weights_of(native)["conv.weight"]
    largest = weights.flat[np.abs(weights).argmax()]
    path = mutate(native, tmp_path / "mutant.edgec", largest, factor)
    result = run_edgec("check", path)
    assert result.code == 4
    assert "parity FAILED: tiny (native) on this process, 3 samples" in result.stdout
    assert "  FAIL logits: " in result.stdout
    assert "  FAIL net/features: " in result.stdout
    assert "mutant.edgec does not compute what the engine computes: output 'logits', 'net/features'" in result.stderr
    assert "where the engine gives" in result.stderr


def test_only_the_output_that_differs_is_named(native: Path, tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    """The last layer's weights have no part in the features."""
    weights = weights_of(native)["fc.weight"]
    median = weights.flat[np.argsort(np.abs(weights), axis=None)[weights.size // 2]]
    result = run_edgec("check", mutate(native, tmp_path / "mutant.edgec", median, 1.5))
    assert result.code == 4
    assert "  FAIL logits: " in result.stdout
    assert "  ok   net/features: " in result.stdout
    assert result.stderr.splitlines()[0].endswith("computes: output 'logits'")


def test_one_changed_weight_of_a_real_network(
    real_bundle: Callable[[str, str], Path], tmp_path: Path, run_edgec: Callable[..., Result]
) -> None:
    """A median weight of ResNet-8's middle, off by a tenth."""
    path = real_bundle("mlperf_tiny_resnet8", "native")
    params = params_of(path)
    middle = np.argsort(np.abs(params))[params.size // 2 :]
    chosen = middle[np.abs(middle - params.size // 2).argmin()]
    params[chosen] *= 1.1
    mutant = rewrite(path, tmp_path / "mutant.edgec", {"params/params.bin": params.tobytes()})
    result = run_edgec("check", mutant)
    assert result.code == 4
    assert "does not compute what the engine computes: output 'Identity'" in result.stderr


def test_one_changed_byte_of_an_int8_network(tiny_onnx: Path, tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    """One step of the largest weight of a convolution of bytes, whose integers must be equal bit for bit."""
    samples = [tiny_inputs(seed) for seed in range(8)]
    data = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    path = edgec.compile(tiny_onnx, quantize="int8", calibration=data).save(tmp_path / "int8.edgec")
    result = run_edgec("check", path)
    assert (result.code, "parity holds" in result.stdout) == (0, True)
    (weights,) = (array for array in weights_of(path).values() if array.dtype == np.int8 and array.ndim == 4)
    bundle = edgec.load(path)
    params = bundle.params.read_bytes()
    # A word of the packed weights holds the three input channels of one tap, and a zero.
    words = [tap.tobytes() + b"\0" for tap in weights.transpose(0, 2, 3, 1).reshape(-1, 3)]
    word = max(words, key=lambda word: abs(int(np.frombuffer(word, np.int8)[0])))
    assert params.count(word) == 1
    smaller = np.frombuffer(word, np.int8).copy()
    smaller[0] -= np.sign(smaller[0])
    changed = params.replace(word, smaller.tobytes())
    result = run_edgec("check", rewrite(path, tmp_path / "mutant.edgec", {"params/params.bin": changed}))
    assert result.code == 4
    assert "  FAIL net/features: " in result.stdout
    assert "mutant.edgec does not compute what the engine computes" in result.stderr


def test_a_changed_runner_fails_the_check_too(native: Path, tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    """The runner has parameters of its own, with their hash: it refuses to start."""
    bundle = edgec.load(native)
    weights = weights_of(native)["conv.weight"]
    code = bundle.runner.read_bytes()
    value = weights.flat[np.abs(weights).argmax()].tobytes()
    assert code.count(value) == 1
    changed = code.replace(value, np.float32(0.5).tobytes())
    path = rewrite(native, tmp_path / "mutant.edgec", {"lib/tiny_runner": changed})
    result = run_edgec("check", path, "--device", "local")
    assert result.code in (4, 6)
    assert result.stderr.startswith("edgec: error: check: ")


def test_the_check_reads_what_it_compares_with(native: Path, tmp_path: Path) -> None:
    """Not the golden outputs of the bundle, which may be as wrong as the artifact: the engine runs again."""
    bundle = edgec.load(native)
    golden = (bundle.folder / "golden" / "outputs.npz").read_bytes()
    other = edgec.load(rewrite(native, tmp_path / "other.edgec", {"golden/outputs.npz": golden[:-200]}))
    assert edgec.check(other)


def test_check_on_the_users_inputs(native: Path, tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    rng = np.random.default_rng(3)
    np.savez(
        tmp_path / "inputs.npz",
        image=rng.random((5, 1, 3, 8, 8), np.float32),
        shift=rng.random((5, 1, 4, 8, 8), np.float32),
    )
    result = run_edgec("check", native, "--inputs", tmp_path / "inputs.npz", "--device", "local")
    assert (result.code, result.stderr) == (0, "")
    assert "parity holds: tiny (native) on this machine, 5 samples" in result.stdout
    result = run_edgec("check", native, "--inputs", tmp_path / "inputs.npz", "--samples", 2)
    assert "2 samples" in result.stdout


def test_a_check_of_nothing_is_an_error(native: Path, run_edgec: Callable[..., Result]) -> None:
    bundle = edgec.load(native)
    for samples in (0, -1):
        with pytest.raises(EdgecError, match="nothing was compared: no samples"):
            edgec.check(bundle, samples=samples)
        assert run_edgec("check", native, "--samples", samples).code == 1
    empty = {"image": np.empty((0, 1, 3, 8, 8), np.float32), "shift": np.empty((0, 1, 4, 8, 8), np.float32)}
    with pytest.raises(EdgecError, match="no or different numbers of samples"):
        edgec.check(bundle, inputs=empty)
