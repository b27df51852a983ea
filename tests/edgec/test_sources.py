"""What may be handed in as a model: engine modules, references to code, models in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgec
from edgec.engine import nn
from edgec.errors import EdgecError, UsageError
from edgec.sources import model_name, read_model
from tests.edgec.conftest import Result
from tests.edgec.tiny import tiny_inputs, tiny_model


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)).eval()


def not_a_model() -> int:
    return 7


MODULE_FILE = """
import numpy as np
from edgec.engine import nn

def network():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()

ready = network()

def number():
    return 7

def broken():
    return 1 / 0
"""


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module, which is the working directory."""
    (tmp_path / "my_nets_for_edgec.py").write_text(MODULE_FILE)
    (tmp_path / "broken_nets_for_edgec.py").write_text("def network(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    return tmp_path


def test_an_engine_module_compiles() -> None:
    network = small_network()
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    bundle = edgec.compile(network, inputs={"x": x}, name="small")
    assert [str(info) for info in bundle.inputs] == ["x: float32 1x3x8x8"]
    assert edgec.check(bundle)
    (output,) = bundle.run({"x": x}).values()
    np.testing.assert_allclose(output, network(edgec.engine.to_tensor(x)).numpy(), rtol=1e-4, atol=1e-5)


def test_a_shape_is_enough_for_an_engine_module() -> None:
    bundle = edgec.compile(small_network(), inputs={"pixels": (2, 3, 8, 8)})
    assert bundle.name == "sequential"
    assert [str(info) for info in bundle.inputs] == ["pixels: float32 2x3x8x8"]
    assert edgec.check(bundle)


def test_tracing_needs_inputs() -> None:
    with pytest.raises(UsageError, match="an engine module needs example inputs to be traced") as error:
        edgec.compile(small_network())
    assert "--input-shape x:1x3x224x224" in str(error.value.fix)


def test_models_in_memory(tmp_path: Path) -> None:
    proto = tiny_model()
    assert [value.name for value in read_model(proto).graph.inputs] == ["image", "shift"]
    model = ir.from_proto(proto)
    assert [value.name for value in read_model(model).graph.inputs] == ["image", "shift"]
    onnx.save(proto, str(tmp_path / "with:colon.onnx"))
    assert [value.name for value in read_model(str(tmp_path / "with:colon.onnx")).graph.inputs] == ["image", "shift"]
    bundle = edgec.compile(proto)
    assert bundle.name == "tiny"
    assert set(bundle.run(tiny_inputs())) == {"logits", "net/features"}


def test_names() -> None:
    assert model_name("nets/my-net.onnx") == "my-net"
    assert model_name(Path("my.net.onnx")) == "my.net"
    assert model_name("package.module:resnet") == "resnet"
    assert model_name(tiny_model()) == "tiny"
    assert model_name(small_network()) == "sequential"
    assert model_name(small_network) == "small_network"


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize("attribute", ["network", "ready"])
def test_a_reference_to_code(attribute: str, tmp_path: Path, run_edgec: Callable[..., Result]) -> None:
    output = tmp_path / "net.edgec"
    reference = f"my_nets_for_edgec:{attribute}"
    result = run_edgec("compile", reference, "-t", "native", "-o", output, "--input-shape", "x:1x6")
    assert (result.code, result.stderr) == (0, "")
    assert edgec.load(output).name == attribute
    assert run_edgec("check", output).code == 0


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("no_such_module:net", 1, "where: No module named 'no_such_module'"),
        ("my_nets_for_edgec:nett", 1, "where: module 'my_nets_for_edgec' has no attribute 'nett'"),
        ("my_nets_for_edgec:", 1, "cannot load the model 'my_nets_for_edgec:'"),
        ("my_nets_for_edgec:number", 1, "'my_nets_for_edgec:number' gives a int, not a model"),
        ("my_nets_for_edgec:broken", 1, "my_nets_for_edgec.py:14: ZeroDivisionError: division by zero"),
        ("broken_nets_for_edgec:network", 1, "SyntaxError"),
        ("my_nets_for_edgec:network", 2, "an engine module needs example inputs to be traced"),
        (":net", 1, "cannot load the model ':net'"),
    ],
)
def test_references_that_lead_nowhere(
    reference: str, code: int, said: str, tmp_path: Path, run_edgec: Callable[..., Result]
) -> None:
    result = run_edgec("compile", reference, "-t", "native", "-o", tmp_path / "net.edgec")
    assert (result.code, result.stdout) == (code, "")
    assert said in result.stderr
    assert "fix:" in result.stderr
    assert not (tmp_path / "net.edgec").exists()


def test_something_else_is_a_programmers_error() -> None:
    with pytest.raises(TypeError, match="a model is a path, an ONNX model, an engine module or a function"):
        read_model(7)  # type: ignore[arg-type]


def test_the_wrong_rank_for_a_module() -> None:
    with pytest.raises(EdgecError, match="tracing the model failed with ") as error:
        edgec.compile(small_network(), inputs={"x": (1, 3, 8)})
    assert "inputs x: float32 (1, 3, 8)" in str(error.value.where)
