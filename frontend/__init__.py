"""Into and out of the IR: trace, import, execute."""

from __future__ import annotations

from edgec.frontend.executor import execute, execute_tensors, parameters_of
from edgec.frontend.importer import import_model
from edgec.frontend.integers import integer_form
from edgec.frontend.support import check_operators
from edgec.frontend.tracer import trace

__all__ = ["check_operators", "execute", "execute_tensors", "import_model", "integer_form", "parameters_of", "trace"]
