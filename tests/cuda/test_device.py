"""On a GPU: what bundles compute there, and what NVIDIA's compute-sanitizer says of them.

Bundles are those of the folder EDGEC_GPU_BUNDLES, which `device_bundles.py` and `benchmarks/cuda.py --prepare` fill on
any machine; to test them takes edgec without a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import edgec

FOLDER = os.environ.get("EDGEC_GPU_BUNDLES")
BUNDLES = sorted(Path(FOLDER).glob("*.edgec")) if FOLDER else []
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 9
"""The exit code that the sanitizer shall have where it finds something."""

pytestmark = pytest.mark.skipif(not BUNDLES, reason="EDGEC_GPU_BUNDLES names no folder of bundles for a GPU here")


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_parity(path: Path) -> None:
    bundle = edgec.load(path)
    for device in ("inprocess", "local"):
        report = edgec.check(bundle, device=device)
        assert report, str(report)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_compute_sanitizer_finds_nothing(path: Path, tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer")
    bundle = edgec.load(path)
    once = ["bench", "--warmup-ms", "0", "--min-time-ms", "0", "--min-runs", "1"]
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), bundle.runner, *once]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
