"""`edgec compile` given something it cannot compile: text, exit code, no traceback, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.edgec.conftest import Result
from tests.edgec.tiny import save_tiny, unary_model

pytestmark = pytest.mark.usefixtures("scratch")
Edgec = Callable[..., Result]


@pytest.fixture
def refused(run_edgec: Edgec, tmp_path: Path) -> Callable[..., str]:
    """Runs `edgec compile` and expects its refusal; returns the message."""

    def run(code: int, *arguments: object, target: str = "native") -> str:
        output = tmp_path / "out.edgec"
        result = run_edgec("compile", *arguments, "--target", target, "-o", output)
        assert (result.code, result.stdout) == (code, "")
        assert result.stderr.startswith("edgec: error: compile: ")
        assert not output.exists()
        return result.stderr.removeprefix("edgec: error: compile: ")

    return run


def test_missing_file(refused: Callable[..., str]) -> None:
    message = refused(1, "no/such/model.onnx")
    assert message == ("model file 'no/such/model.onnx' does not exist\n  fix:   check the path of the .onnx file\n")


def test_not_an_onnx_file(refused: Callable[..., str], tmp_path: Path) -> None:
    for name, data, said in (
        ("photo.onnx", b"\xff\xd8\xff\xe0 JFIF", "is a JPEG image, not an ONNX model"),
        ("notes.onnx", b"these are my notes\n" * 20, "is not an ONNX model"),
        ("empty.onnx", b"", "is empty"),
    ):
        (tmp_path / name).write_bytes(data)
        message = refused(1, tmp_path / name)
        assert said in message
        assert name in message
        assert "fix:" in message


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_truncated_file(share: float, refused: Callable[..., str], tiny_onnx: Path, tmp_path: Path) -> None:
    data = tiny_onnx.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    message = refused(1, path)
    assert "truncated or damaged" in message
    assert "copy or export the file again" in message


def test_unknown_target(refused: Callable[..., str], tiny_onnx: Path) -> None:
    message = refused(3, tiny_onnx, target="rk3558")
    assert message == "unknown target 'rk3558'; did you mean 'rk3588'?\n  fix:   `edgec targets` lists them\n"
    assert "did you mean" not in refused(3, tiny_onnx, target="qqqqqq")


@pytest.mark.parametrize("target", ["riscv64", "loongarch64"])
def test_planned_target(target: str, refused: Callable[..., str], tiny_onnx: Path) -> None:
    message = refused(3, tiny_onnx, target=target)
    assert message.startswith(f"target '{target}' is not supported yet\n")
    assert "see `edgec targets` for the targets that are" in message


def test_unsupported_operators_are_all_listed(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "exotic.onnx"
    onnx.save(unary_model("Relu", "Det2", "Det2", "Bernoulli2", domain="my.ops"), str(path))
    message = refused(3, path)
    assert "unsupported operators: " in message
    assert "my.ops.Det2 ×2 ('det2_1', 'det2_2')" in message
    assert "my.ops.Bernoulli2 ×1 ('bernoulli2_3')" in message
    assert "where: model 'exotic'" in message


def test_unbound_dimension(refused: Callable[..., str], tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "open.onnx", batch="N")
    message = refused(1, path)
    assert "input 'image' leaves dimension 0 ('N') open" in message
    assert "--input-shape image:1x3x8x8" in message


def test_an_unbound_dimension_can_be_bound(tmp_path: Path, run_edgec: Edgec) -> None:
    path = save_tiny(tmp_path / "open.onnx", batch="N")
    output = tmp_path / "open.edgec"
    result = run_edgec("compile", path, "-t", "native", "-o", output, "--input-shape", "image:2x3x8x8")
    assert (result.code, result.stderr) == (0, "")
    assert run_edgec("check", output).code == 0
    assert "image: float32 2x3x8x8" in run_edgec("inspect", output).stdout


@pytest.mark.parametrize(
    "spec", ["image", "image:", ":1x3", "image:1x3x", "image:axb", "image:1x0x8x8", "image:-1x3x8x8", "image:1,3,8,8"]
)
def test_malformed_shape(spec: str, refused: Callable[..., str], tiny_onnx: Path) -> None:
    message = refused(2, tiny_onnx, "--input-shape", spec)
    assert message == f"cannot read the shape '{spec}'\n  fix:   write it as NAME:1x3x224x224\n"


def test_shape_of_an_input_that_is_not_there(refused: Callable[..., str], tiny_onnx: Path) -> None:
    message = refused(1, tiny_onnx, "--input-shape", "imagee:1x3x8x8")
    assert "the model has no input 'imagee'; did you mean 'image'?" in message
    assert "image:1x3x8x8" in message


def test_shape_that_contradicts_the_model(refused: Callable[..., str], tiny_onnx: Path) -> None:
    message = refused(1, tiny_onnx, "--input-shape", "image:1x3x9x8")
    assert "dimension 2 is fixed to 8, the given shape 1x3x9x8 has 9" in message


def test_shapes_that_do_not_fit_together(refused: Callable[..., str], tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "open.onnx", batch="N")
    message = refused(1, path, "--input-shape", "image:2x3x8x8", "--input-shape", "shift:3x4x8x8")
    assert "('N') was already bound to 2" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compyle"], "No such command 'compyle'"),
        (["compile"], "Missing argument 'MODEL'"),
        (["compile", "m.onnx"], "Missing option '--target'"),
        (["compile", "m.onnx", "--tarjet", "native"], "--tarjet"),
        (["bench", "b.edgec", "--threads", "many"], "'many' is not a valid integer"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_usage_errors(arguments: list[str], said: str, run_edgec: Edgec) -> None:
    result = run_edgec(*arguments)
    assert (result.code, result.stdout) == (2, "")
    assert said in result.stderr


def test_no_arguments_show_the_help(run_edgec: Edgec) -> None:
    result = run_edgec()
    assert result.code == 2
    assert "compile" in result.stdout + result.stderr
