"""How the command line loads the compiler."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["load_tvm"]


def load_tvm() -> None:
    """Import TVM, if it is installed, without PyTorch.

    tvm_ffi 0.1.14 imports PyTorch where it finds it, to take its tensors, and edgec gives it none: two seconds of
    every compilation. It does without where the import fails. While this runs no other thread can import PyTorch,
    which is why the Python API leaves it alone.
    """
    if "tvm_ffi" in sys.modules or "torch" in sys.modules or find_spec("tvm") is None:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
    try:
        import tvm  # noqa: F401
    finally:
        del sys.modules["torch"]
