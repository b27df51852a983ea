"""Fixtures that all tests share: where the real models and data are, and a session with ONNX Runtime."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from tests.exact_products import without_saturation

# Name -> path under models/ of the data folder, and the input shapes that the file leaves open.
REAL_MODELS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "efficientnet_lite0": ("efficientnet_lite0.onnx", {}),
    "fastestdet": ("fastestdet.onnx", {}),
    "mlperf_tiny_resnet8": ("mlperf_tiny_resnet8.onnx", {}),
    "mnist8": ("mnist8/mnist-8.onnx", {}),
    "squeezenet_fp16": ("squeezenet_fp16.onnx", {}),
    "superres10": ("superres10/super_resolution_10.onnx", {"input": (1, 1, 224, 224)}),
    "ultraface_rfb320": ("ultraface_rfb320.onnx", {}),
    "yunet_n_320": ("yunet_n_320.onnx", {}),
    "yunet_n_dynamic": ("yunet_n_dynamic.onnx", {"input": (1, 3, 160, 192)}),
}
# These take a minute or more each. They begin first, so that no worker is left with one of them at the end. The first
# one links nothing: meanwhile another worker has zig make the C libraries that all the others wait for.
LONG_FILES = (
    "test_recipes.py",
    "test_integer_networks.py",
    "test_scheduled_cases.py",
    "test_real_models.py",
    "test_weight_quantization.py",
    "test_intrinsics.py",
    "test_random_integers.py",
)
REPOSITORY = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """The folder of models and data sets: EDGEC_DATA, or ../shared/data beside the repository."""
    return Path(os.environ.get("EDGEC_DATA") or REPOSITORY.parent / "shared" / "data")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument ``model_name`` runs for every real model."""
    if "model_name" in metafunc.fixturenames:
        metafunc.parametrize("model_name", sorted(REAL_MODELS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others in their order."""
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _folders_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests share an empty cache of kernels, compile without the user's own tuning records, and leave both alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEC_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        patch.setenv("EDGEC_RECORDS", str(tmp_path_factory.mktemp("records")))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The data folder; without it the test is skipped, except on CI, where it must be there."""
    folder = data_folder()
    if folder.is_dir():
        return folder
    message = f"no models and data at {folder} (set EDGEC_DATA)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def real_model(data_dir: Path) -> Callable[[str], ir.Model]:
    """Imports one of `REAL_MODELS` by name, once per session; do not change what it returns."""
    from edgec.frontend import import_model

    @functools.cache
    def load(name: str) -> ir.Model:
        path, shapes = REAL_MODELS[name]
        return import_model(data_dir / "models" / path, input_shapes=shapes)

    return load


@pytest.fixture(scope="session")
def random_inputs() -> Callable[[ir.Model], dict[str, NDArray[np.generic]]]:
    """Pixels between 0 and 255 for the inputs of a model, always the same ones."""

    def make(model: ir.Model) -> dict[str, NDArray[np.generic]]:
        rng = np.random.default_rng(0)
        return {
            value.name: (rng.random(value.shape.numpy()) * 255).astype(value.dtype.numpy())
            for value in model.graph.inputs
        }

    return make


@pytest.fixture(scope="session")
def run_onnxruntime() -> Callable[[ir.Model, dict[str, NDArray[np.generic]]], dict[str, NDArray[np.generic]]]:
    """Runs a model in ONNX Runtime without its optimizer, on one thread; outputs by name."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(model: ir.Model, inputs: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            without_saturation(ir.to_proto(model)).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """|a - b| <= relative * |b| + relative / 10 * max|b|, with equal shapes and dtypes."""

    def check(actual: NDArray[np.generic], expected: NDArray[np.generic], *, relative: float = 1e-4) -> None:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        a, b = actual.astype(np.float64), expected.astype(np.float64)
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        np.testing.assert_allclose(a, b, rtol=relative, atol=relative / 10 * scale)

    return check
