"""What a pass did: the result type that passes return, and the report the pipeline makes of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import PassResult

__all__ = ["CountedResult", "PassReport", "Tally"]


@dataclass
class Tally:
    """Counts what one run of a pass changed, and collects why it refused.

    Attributes:
        changes: What was done, and how often.
        refused: One line per refusal, naming the node and the reason.
    """

    changes: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        self.changes[what] += 1

    def refuse(self, node: ir.Node, why: str) -> None:
        self.refused.append(f"{node.op_type} '{node.name}': {why}")

    def result(self, model: ir.Model) -> CountedResult:
        return CountedResult(
            model, modified=bool(self.changes), changes=self.changes, refused=tuple(dict.fromkeys(self.refused))
        )


@dataclass
class CountedResult(PassResult):
    """A PassResult that says what changed, and why the rest did not."""

    changes: Counter[str] = field(default_factory=Counter)
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassReport:
    """One run of one phase of the pipeline.

    Attributes:
        name: The phase.
        changed: How many changes it made.
        details: The changes by kind, most frequent first.
        refused: Why it left alone what it could have been expected to change.
        nodes_before: Nodes of the model before it, subgraphs included.
        nodes_after: Nodes after it.
        seconds: Its run time.
    """

    name: str
    changed: int
    details: tuple[tuple[str, int], ...]
    refused: tuple[str, ...]
    nodes_before: int
    nodes_after: int
    seconds: float

    def __str__(self) -> str:
        what = ", ".join(f"{kind} ×{count}" for kind, count in self.details) or "nothing to do"
        return f"{self.name}: {self.nodes_before} → {self.nodes_after} nodes ({what})"
