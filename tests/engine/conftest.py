"""Fixtures of the engine's tests: PyTorch, the peer that layers, losses and optimizers are compared with."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch on one thread; without it the test is skipped, except on CI, which installs it."""
    try:
        peer = importlib.import_module("torch")
    except ImportError:
        message = "PyTorch is not installed (pip install 'edgec[torch]')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    peer.set_num_threads(1)
    return peer
