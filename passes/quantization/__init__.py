"""From a float model to a quantized one: what is rounded, to which integers, and how it is written down."""

from __future__ import annotations

from edgec.passes.quantization.channel_moments import ChannelMoments
from edgec.passes.quantization.encoding import ActivationType, Encoding, Range, encode_range
from edgec.passes.quantization.encodings import share_encodings
from edgec.passes.quantization.histogram import Histogram
from edgec.passes.quantization.insert_pairs import InsertPairs
from edgec.passes.quantization.migrate_scales import MigrateScales
from edgec.passes.quantization.placement import Placement, Unit, place
from edgec.passes.quantization.quantize_dynamically import QuantizeDynamically
from edgec.passes.quantization.quantize_weights import QuantizeWeights
from edgec.passes.quantization.range_search import METHODS, Method, find_range
from edgec.passes.quantization.round_weights import InputProducts
from edgec.passes.quantization.selection import nodes_named

__all__ = [
    "METHODS",
    "ActivationType",
    "ChannelMoments",
    "Encoding",
    "Histogram",
    "InputProducts",
    "InsertPairs",
    "Method",
    "MigrateScales",
    "Placement",
    "QuantizeDynamically",
    "QuantizeWeights",
    "Range",
    "Unit",
    "encode_range",
    "find_range",
    "nodes_named",
    "place",
    "share_encodings",
]
