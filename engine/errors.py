"""The engine's errors.

::

    EdgecError
    ├── AnomalyError      NaN or Inf appeared while `detect_anomaly` was on
    ├── GradientError     a gradient was asked for that does not exist any more, or never did
    ├── StateDictError    saved values do not fit the module or optimizer they are loaded into
    └── TraceError        Python looked at the value of a traced tensor
"""

from __future__ import annotations

from edgec.errors import EdgecError

__all__ = ["AnomalyError", "GradientError", "StateDictError", "TraceError"]


class AnomalyError(EdgecError):
    """An operator, or the gradient of one, produced NaN or Inf while `detect_anomaly` was on."""


class GradientError(EdgecError):
    """A gradient was asked for that does not exist any more, or never did."""


class StateDictError(EdgecError):
    """Saved values do not fit the module or the optimizer they are loaded into."""


class TraceError(EdgecError):
    """Python looked at the value of a traced tensor, so the trace would hold for this one input only."""
