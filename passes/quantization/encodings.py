"""One encoding for every value that is rounded: shared where integers only move, joined where it costs little."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgec.passes.quantization.encoding import ActivationType, Encoding, Range, encode_range
from edgec.passes.quantization.placement import Placement, Unit

__all__ = ["share_encodings"]

_LOSS_OF_SHARING = 1.25
"""By how much the range of a concatenation's input may grow so that it needs no step of its own; 2 dB of noise."""


def share_encodings(
    placement: Placement, ranges: Mapping[str, Range], dtype: ActivationType = "uint8", *, symmetric: bool = False
) -> dict[str, Encoding]:
    """Encodings by name for all values of `placement.rounded`.

    1. What a moving unit gives out is encoded as what it takes in, by the range of the first such value: all others
       are parts of it.
    2. A concatenation's input has the output's range where nothing else reads it, or where it is at most a quarter
       wider; otherwise each keeps its own, and the concatenation takes the step between them.

    Args:
        placement: What is rounded.
        ranges: Of these values, by name.
        dtype: Of the integers.
        symmetric: See `encode_range`.
    """
    groups = _Groups(placement, ranges)
    for unit in placement.units:
        if unit.root.op_type == "Concat":
            groups.join_parts(unit)
    return {
        str(value.name): encode_range(groups.range_of(value), dtype, symmetric=symmetric) for value in placement.rounded
    }


class _Groups:
    """Values of one encoding; the first of a group, in the graph's order, stands for it."""

    def __init__(self, placement: Placement, ranges: Mapping[str, Range]) -> None:
        self._placement = placement
        self._first: dict[ir.Value, ir.Value] = {value: value for value in placement.rounded}
        self._ranges = {value: ranges[str(value.name)] for value in placement.rounded}
        for unit in placement.units:
            if unit.is_moving:
                for output in unit.outputs:
                    if output in self._first:
                        self._first[output] = self._first[unit.inputs[0]]

    def range_of(self, value: ir.Value) -> Range:
        return self._ranges[self._first[value]]

    def join_parts(self, unit: Unit) -> None:
        (output,) = unit.outputs
        whole = self.range_of(output)
        for value in unit.inputs:
            whole = whole.joined(self.range_of(value))
        root = self._first[output]
        for value in unit.inputs:
            own, first = self.range_of(value), self._first[value]
            if self._is_read_by_one(first) or whole.width <= _LOSS_OF_SHARING * own.width:
                for member, its_first in self._first.items():
                    if its_first is first:
                        self._first[member] = root
        self._ranges[root] = whole

    def _is_read_by_one(self, first: ir.Value) -> bool:
        """Whether each value of a group has one reader."""
        members = [value for value, its_first in self._first.items() if its_first is first]
        return all(len(value.uses()) <= 1 for value in members)
