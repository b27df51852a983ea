"""How long a compilation may take and how much memory it may need."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

MAX_SECONDS = 90
MAX_PEAK_GIB = 4


def test_compiling_efficientnet_from_cold(data_dir: Path, tmp_path: Path) -> None:
    """A new process, which loads everything anew.

    Zig builds the C libraries of a link target when it first needs them, and keeps them. That takes up to a minute of
    both cores, so only CI begins without them here; elsewhere they are there from other tests.

    RUSAGE_CHILDREN gives the largest process of all, not their sum; zig is a fraction of the compiler's size.
    """
    model, output = data_dir / "models" / "efficientnet_lite0.onnx", tmp_path / "m.edgec"
    is_ci = os.environ.get("CI") == "true"
    caches = {f"ZIG_{kind}_CACHE_DIR": str(tmp_path / kind) for kind in ("GLOBAL", "LOCAL")} if is_ci else {}
    command = [sys.executable, "-m", "edgec", "compile", str(model), "-t", "native", "-o", str(output), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **caches}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{seconds:.1f} s, {peak_gib:.2f} GiB, {json.loads(done.stdout)['phases_s']}")
    assert not is_ci or list((tmp_path / "GLOBAL").iterdir()), "zig did not use the empty cache"
    assert seconds < MAX_SECONDS
    assert peak_gib < MAX_PEAK_GIB
