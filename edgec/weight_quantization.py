"""Quantization that needs no samples: dynamic, and of weights alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

import onnx_ir as ir

from edgec.errors import EdgecError, UsageError

if TYPE_CHECKING:
    from edgec.passes.report import CountedResult
    from edgec.quantization import Settings

__all__ = ["MODES", "DataFree", "Mode", "quantize_without_data", "refuse_static_options"]

Mode: TypeAlias = Literal["static", "dynamic", "weight-only"]

MODES: tuple[Mode, ...] = ("static", "dynamic", "weight-only")

_BLOCK_OF_4_BITS = 32


@dataclass(frozen=True)
class DataFree:
    """How a model is quantized without samples.

    Attributes:
        mode: ``dynamic`` or ``weight-only``.
        bits: Of a weight: 8 or 4; None for 8. Only ``weight-only`` has a choice.
        block_size: Weights along a column that share a scale; None for whole columns, with 4 bits for 32.
        keep_float: What stays in float; see :func:`edgec.quantize`.

    Raises:
        UsageError: The options contradict each other or make no sense.
    """

    mode: Mode
    bits: int | None = None
    block_size: int | None = None
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"there is no mode '{self.mode}'", fix=f"choose one of {', '.join(MODES)}")
        if self.mode != "weight-only" and (self.bits is not None or self.block_size is not None):
            option = "bits" if self.bits is not None else "a block size"
            raise UsageError(f"{option} cannot be chosen in mode {self.mode}", fix="use mode weight-only")
        if self.bits not in (None, 4, 8):
            raise UsageError(f"weights cannot have {self.bits} bits", fix="choose 8 or 4")
        if self.block_size is not None and self.block_size < 1:
            raise UsageError(f"a block of {self.block_size} weights is too small", fix="use 32, 64 or 128")


def refuse_static_options(mode: Mode, static: Settings, *others: tuple[str, object]) -> None:
    """Raise UsageError if something was given that only static quantization has.

    Args:
        mode: One of the others.
        static: Its settings, of which only `keep_float` may differ from what it is by default.
        others: What else belongs to it, by name; None where it was left out.
    """
    default = type(static)(keep_float=static.keep_float)
    given = [name for name, value in others if value is not None]
    given += [item.name for item in fields(static) if getattr(static, item.name) != getattr(default, item.name)]
    if given:
        raise UsageError(
            f"'{given[0]}' says nothing to mode {mode}, which finds no ranges beforehand",
            fix="leave it out, or use mode static",
        )


def quantize_without_data(imported: ir.Model, settings: DataFree) -> CountedResult:
    """The quantized model, what was quantized in it, and why other products were not.

    Raises:
        EdgecError: There is nothing to quantize, or an entry of `keep_float` fits nothing.
    """
    from edgec.passes import simplify
    from edgec.passes.quantization import QuantizeDynamically, QuantizeWeights, nodes_named
    from edgec.passes.report import CountedResult

    model, _ = simplify(imported)
    kept = frozenset(str(node.name) for node in nodes_named(settings.keep_float, model, imported))
    if settings.mode == "dynamic":
        result = QuantizeDynamically(kept)(model)
    else:
        bits = settings.bits or 8
        result = QuantizeWeights(bits, settings.block_size or (_BLOCK_OF_4_BITS if bits == 4 else None), kept)(model)
    assert isinstance(result, CountedResult)
    if not result.modified:
        raise EdgecError(
            f"there is no MatMul or Gemm to quantize in mode {settings.mode}",
            where="; ".join(result.refused[:3]) or None,
            fix="products need constant weights of two axes; for convolutions, use mode static",
        )
    return result
