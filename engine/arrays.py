"""The array types of the engine and their ONNX type codes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "DTypeLike", "dtype_from_onnx", "has_onnx_type", "is_float", "onnx_from_dtype"]

Array: TypeAlias = npt.NDArray[Any]
DTypeLike: TypeAlias = npt.DTypeLike

_CODES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
# These need ml_dtypes, which is imported only when one of them is asked for.
_EXTENDED_CODES = {
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
}
_DTYPES = {code: np.dtype(name) for code, name in _CODES.items()}
_NUMBERS = {dtype: code for code, dtype in _DTYPES.items()}
_EXTENDED_NUMBERS = {name: code for code, name in _EXTENDED_CODES.items()}


def dtype_from_onnx(code: int) -> np.dtype[Any]:
    """The NumPy dtype of an ONNX ``TensorProto.DataType`` number."""
    if code in _DTYPES:
        return _DTYPES[code]
    if code in _EXTENDED_CODES:
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _EXTENDED_CODES[code]))
        return extended
    raise TypeError(f"ONNX data type {code} has no array type in the engine")


def onnx_from_dtype(dtype: DTypeLike) -> int:
    """The ONNX ``TensorProto.DataType`` number of a NumPy dtype."""
    resolved = np.dtype(dtype)
    code = _NUMBERS.get(resolved) or _EXTENDED_NUMBERS.get(resolved.name)
    if code is None:
        raise TypeError(f"dtype {resolved} has no ONNX data type")
    return code


def has_onnx_type(dtype: np.dtype[Any]) -> bool:
    """Whether arrays of this dtype can be values of a model."""
    return dtype in _NUMBERS or dtype.name in _EXTENDED_NUMBERS


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether values of this dtype can carry a gradient."""
    return dtype.kind == "f" or dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
