from __future__ import annotations

import subprocess
import sys


def test_the_frontend_and_the_passes_load_no_runtime():
    code = (
        "import sys, edgec.frontend, edgec.passes;"
        "print([name for name in ('onnxruntime', 'tvm', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
