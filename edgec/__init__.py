"""edgec takes a neural network from training to a small device, and proves that the two compute the same.

Importing this package is cheap: the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

# In a checkout the packages lie beside this folder (engine/, frontend/ ...) and not inside it; an installed
# edgec has them inside. See docs/adr/0001-import-names.md.
if not (Path(__file__).parent / "engine").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))

__version__ = "0.1.0"

# Public name -> the module that defines it. ``frontend`` and ``engine`` are packages of their own.
_EXPORTS = {
    "BenchReport": "edgec.benchmark",
    "Bundle": "edgec.bundle",
    "EdgecError": "edgec.errors",
    "ParityReport": "edgec.parity",
    "TuneReport": "edgec.tuning",
    "bench": "edgec.benchmark",
    "check": "edgec.parity",
    "compile": "edgec.compiler",
    "load": "edgec.bundle",
    "quantize": "edgec.quantization",
    "trace": "edgec.frontend",
    "tune": "edgec.tuning",
}
_PACKAGES = ("engine", "frontend", "models", "passes", "targets")

__all__ = [
    "BenchReport",
    "Bundle",
    "EdgecError",
    "ParityReport",
    "TuneReport",
    "__version__",
    "bench",
    "check",
    "compile",
    "engine",
    "frontend",
    "load",
    "models",
    "passes",
    "quantize",
    "targets",
    "trace",
    "tune",
]

if TYPE_CHECKING:
    from edgec import engine, frontend, models, passes, targets
    from edgec.benchmark import BenchReport, bench
    from edgec.bundle import Bundle, load
    from edgec.compiler import compile
    from edgec.errors import EdgecError
    from edgec.frontend import trace
    from edgec.parity import ParityReport, check
    from edgec.quantization import quantize
    from edgec.tuning import TuneReport, tune


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        value: object = getattr(import_module(_EXPORTS[name]), name)
    elif name in _PACKAGES:
        value = import_module(f"edgec.{name}")
    else:
        raise AttributeError(f"module 'edgec' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
