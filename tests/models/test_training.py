"""`edgec train` and what becomes of its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.cli import main
from edgec.engine.files import read_safetensors, write_safetensors
from edgec.engine.progress import Progress
from edgec.errors import EdgecError, UsageError
from edgec.models import NETWORKS, DigitsMLP
from edgec.sources import open_source, read_model
from edgec.training import find_network, find_recipe, load_checkpoint, state_path, train


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


class InterruptAt:
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, at: Progress) -> None:
        if at.phase == "train" and at.epoch == self.epoch and at.batch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["digits-mlp", "autoencoder", "digits-cnn"])
def test_resume_is_exact(name: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    straight = train(name, quick=True, epochs=3, output=whole)
    with pytest.raises(KeyboardInterrupt):
        train(name, quick=True, epochs=3, output=parts, progress=InterruptAt(2))
    assert state_path(parts).exists()
    assert not parts.exists()
    resumed = train(name, quick=True, epochs=3, output=parts, resume=True)
    assert resumed.history == straight.history
    one, other = read_safetensors(whole)[0], read_safetensors(parts)[0]
    assert one.keys() == other.keys()
    for key, array in one.items():
        np.testing.assert_array_equal(array, other[key])
    assert not state_path(parts).exists()


def test_unfinished_training_is_not_lost(tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train("digits-mlp", quick=True, output=output, progress=InterruptAt(2))
    with pytest.raises(UsageError, match="there is an unfinished training of digits-mlp") as raised:
        train("digits-mlp", quick=True, output=output)
    assert "--resume" in str(raised.value.fix)
    with pytest.raises(UsageError, match="the training was started with seed 0, not 1"):
        train("digits-mlp", quick=True, output=output, resume=True, seed=1)
    with pytest.raises(UsageError, match="with epochs 10, not 4"):
        train("digits-mlp", quick=True, output=output, resume=True, epochs=4)


def test_seeds(tmp_path: Path) -> None:
    figures = [
        train("digits-mlp", quick=True, epochs=2, seed=seed, output=tmp_path / "x.safetensors").history
        for seed in (0, 0, 1)
    ]
    assert figures[0] == figures[1]
    assert figures[0] != figures[2]


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net.safetensors"
    assert run("train", "Digits_MLP", "--quick", "--epochs", "2", "-o", str(output), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"] == "digits-mlp"
    assert report["is_reached"] is None
    assert len(report["history"]) == 2
    assert report["figure"] == report["history"][-1]["valid_accuracy"]
    assert run("train", "digits-mlp", "--quick", "--epochs", "2", "-o", str(output)) == 0
    shown = capsys.readouterr().out
    assert "test accuracy" in shown
    assert "a whole run of the recipe reaches 0.93" in shown


def test_verb_shows_some_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "digits-mlp", "--quick", "--epochs", "41", "-o", str(tmp_path / "net.safetensors")) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    epochs = [int(word) for word in rows if word.isdigit()]
    assert epochs == list(range(2, 42, 3))


def test_verb_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--list") == 0
    shown = capsys.readouterr().out
    assert "resnet8" in shown
    assert "CIFAR-10" in shown
    assert run("train", "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["crnn"]["mode"] == "min"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["digits-clm"], 2, "did you mean digits-mlp or digits-cnn"),
        (["zzz"], 2, "edgec train --list shows them"),
        ([], 2, "which recipe?"),
        (["digits-mlp", "--epochs", "0"], 2, "cannot train for 0 epochs"),
        (["digits-mlp", "-o", "no/such/folder/x.safetensors"], 1, "no such folder"),
        (["lenet", "--data", "/no/such/place"], 1, "the data set Fashion-MNIST is not there"),
    ],
)
def test_verb_refuses(
    arguments: list[str],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", *arguments) == code
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_verb_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        (tmp_path / "digits-mlp.unfinished").touch()
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgec.training.train", interrupted)
    assert run("train", "digits-mlp") == 130
    assert "go on with the same command and --resume" in capsys.readouterr().err


# --- what becomes of a checkpoint ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "net.safetensors"
    train("digits-mlp", quick=True, epochs=1, output=output)
    return output


def test_checkpoint_knows_its_network(checkpoint: Path) -> None:
    network = load_checkpoint(checkpoint)
    assert isinstance(network, DigitsMLP)
    arrays, _ = read_safetensors(checkpoint)
    for name, parameter in network.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), arrays[name])


@pytest.mark.parametrize("source", ["models.DigitsMLP", "models.digits-mlp", "edgec.models.digits_mlp"])
def test_network_by_name_with_checkpoint(checkpoint: Path, source: str) -> None:
    network = open_source(source, checkpoint)
    assert isinstance(network, DigitsMLP)
    model = read_model(network)
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert model.graph.inputs[0].shape == (1, 1, 8, 8)


def test_input_shapes_can_be_given(checkpoint: Path) -> None:
    model = read_model(str(checkpoint), {"pixels": (5, 1, 8, 8)})
    assert model.graph.inputs[0].name == "pixels"
    assert model.graph.outputs[0].shape == (5, 10)


def test_checkpoints_that_do_not_fit(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match="the state does not fit DigitsCNN"):
        open_source("models.DigitsCNN", checkpoint)
    with pytest.raises(EdgecError, match="no such file"):
        open_source("models.DigitsCNN", tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="takes no checkpoint"):
        open_source("model.onnx", checkpoint)
    anonymous = tmp_path / "anonymous.safetensors"
    write_safetensors(anonymous, {"x": np.zeros(1, np.float32)})
    with pytest.raises(UsageError, match="does not say which network it is of") as raised:
        read_model(str(anonymous))
    assert f"models.NAME --checkpoint {anonymous}" in str(raised.value.fix)


@pytest.mark.parametrize("source", ["checkpoint", "models.digits-mlp"])
def test_compiles_what_was_trained(
    source: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tvm", reason="no compiler here: pip install 'edgec[compile]'")
    bundle = tmp_path / "m.edgec"
    named = [str(checkpoint)] if source == "checkpoint" else [source, "--checkpoint", str(checkpoint)]
    assert run("compile", *named, "-t", "native", "-o", str(bundle), "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == ("net" if source == "checkpoint" else "digits_mlp")
    image = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    (logits,) = edgec.load(bundle).run({"image": image}).values()
    network = load_checkpoint(checkpoint).eval()
    np.testing.assert_allclose(logits, network(edgec.engine.tensor(image)).numpy(), rtol=1e-4, atol=1e-5)


def test_compile_says_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compile", "models.ResNet9", "-t", "native") == 2
    error = capsys.readouterr().err
    assert "there is no network 'ResNet9'" in error
    assert "did you mean" in error
    assert "ResNet8" in error


def test_names() -> None:
    assert find_network("RESNET8") is find_network("res-net_8") is NETWORKS["ResNet8"]
    assert find_network("ds-cnn").__name__ == "DSCNN"
    assert find_recipe("DS_CNN")[0] == "ds-cnn"
