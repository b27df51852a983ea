"""The cases of operators on integers that are quantized numbers; see lowering_cases."""

from __future__ import annotations

import numpy as np

from tests.targets.case_table import RNG, Array, Constant, Image, case, f32, i64

WHOLE = Image((1, 20, 5, 7), whole=True)


def u8(*shape: int, low: int = 0, high: int = 255) -> Array:
    return RNG.integers(low, high, shape, np.uint8, endpoint=True)


def s8(*shape: int, low: int = -128, high: int = 127) -> Array:
    return RNG.integers(low, high, shape, np.int8, endpoint=True)


def scales(*shape: int) -> Constant:
    return Constant(f32(*shape, low=0.1, high=1.0))


ties = np.array(
    [[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 127.5], [-1e9, 1e9, -3e38, 3e38, np.inf, -np.inf, 254.5]], np.float32
)
for dtype in (np.uint8, np.int8, np.uint16, np.int16):
    info = np.iinfo(dtype)
    for zero in (info.min, info.max, (info.max + info.min) // 2 + 3):
        case("QuantizeLinear", ties, Constant(np.ones((), np.float32)), Constant(np.asarray(zero, dtype)))
        case("QuantizeLinear", ties, Constant(np.float32(1e-30)), Constant(np.asarray(zero, dtype)))
    numbers = f32(3, 4, 5, low=-400, high=400)
    case("QuantizeLinear", numbers, Constant(np.float32(1.7)), Constant(np.array(3, dtype)))
    case("QuantizeLinear", numbers, np.array(1.7, np.float32), np.array(3, dtype))
    case("QuantizeLinear", numbers, f32(4, low=0.5), np.arange(4).astype(dtype))
    case("QuantizeLinear", numbers, scales(4), Constant(np.arange(4).astype(dtype)))
    case("QuantizeLinear", numbers, scales(5), Constant(np.arange(5).astype(dtype)), axis=-1)
    case("QuantizeLinear", numbers, scales(3), axis=0, output_dtype={1: 2, 2: 4}[dtype(0).itemsize] + (info.min < 0))
case("QuantizeLinear", f32(3, 4, low=-90, high=300), Constant(np.float32(0.9)))
for zero in (Constant(np.uint8(200)), Constant(np.int8(-128)), None):
    case("QuantizeLinear", WHOLE, Constant(np.float32(0.7)), zero)
    case("QuantizeLinear", Image((2, 16, 5, 7), whole=True), Constant(np.float32(3)), zero)
    case("QuantizeLinear", Image((1, 12, 9), whole=True), scales(12), zero and Constant(np.full(12, zero.array)))
    case("QuantizeLinear", WHOLE, scales(7), zero and Constant(np.full(7, zero.array)), axis=3)
for x in (
    *(u8(3, 4, 5), s8(3, 4, 5), i64(3, 4, 5).astype(np.int16), i64(3, 4, 5, low=0).astype(np.uint16)),
    *(Image((1, 20, 4, 5), whole=True, dtype=dtype) for dtype in ("uint8", "int8")),
):
    kind = np.dtype(x.dtype).type
    case("DequantizeLinear", x, Constant(np.float32(0.3)), Constant(kind(7)))
    case("DequantizeLinear", x, Constant(np.float32(1e30)))
    case("DequantizeLinear", x, np.array(0.3, np.float32), np.array(7, kind))
    case("DequantizeLinear", x, f32(x.shape[1], low=0.1), np.full(x.shape[1], 3, kind))
    case("DequantizeLinear", x, scales(x.shape[1]), Constant(np.arange(x.shape[1]).astype(kind)))
    case("DequantizeLinear", x, scales(5), axis=-1)
case("DequantizeLinear", RNG.integers(-(2**31), 2**31, (3, 4)).astype(np.int32), Constant(np.float32(1e-7)))
case("DequantizeLinear", RNG.integers(-(2**31), 2**31, (3, 4)).astype(np.int32), scales(4))
for x in (
    *(u8(1, 20, 9, 8), Image((1, 20, 9, 8), whole=True, dtype="uint8")),
    *(Image((2, 16, 9, 8), whole=True, dtype="uint8"), u8(1, 3, 9, 8)),
):
    channels, zero = x.shape[1], Constant(np.uint8(131))
    for weights, options in (
        ((13, channels, 3, 3), {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
        ((16, channels, 3, 2), {"auto_pad": "SAME_UPPER"}),
        ((16, channels, 3, 2), {"auto_pad": "VALID", "dilations": [2, 2]}),
        ((channels, 1, 3, 3), {"group": channels, "pads": [1, 1, 1, 1]}),
        ((channels, 1, 3, 5), {"group": channels, "pads": [5, 6, 1, 7], "strides": [1, 3]}),
        ((channels, 1, 2, 2), {"group": channels, "dilations": [1, 3]}),
        ((2 * channels, 1, 3, 3), {"group": channels}),
    ):
        case("ConvInteger", x, Constant(s8(*weights)), zero, **options)
        case("ConvInteger", x, Constant(u8(*weights)), zero, Constant(np.uint8(7)), **options)
for channels, kernel, options in (  # few channels: words over the columns of a window
    (1, (5, 5), {"pads": [2, 2, 2, 2]}),
    (1, (10, 4), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    (1, (3, 6), {"strides": [1, 8], "dilations": [2, 3], "pads": [0, 1, 3, 2]}),
    (2, (1, 5), {"strides": [2, 3]}),
    (3, (7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    (3, (2, 8), {"strides": [1, 2], "dilations": [1, 2], "pads": [0, 7, 0, 0]}),
    (5, (3, 3), {"pads": [1, 0, 0, 1]}),
    (6, (2, 7), {"strides": [3, 1]}),
):
    case("ConvInteger", u8(2, channels, 13, 27), Constant(s8(9, channels, *kernel)), Constant(np.uint8(77)), **options)
case("ConvInteger", s8(1, 1, 40), Constant(s8(9, 1, 9)), Constant(np.int8(-5)), pads=[4, 4], strides=[2])
case("ConvInteger", u8(1, 20, 9, 8), Constant(s8(24, 5, 3, 3)), group=4)
case("ConvInteger", u8(1, 20, 11), Constant(s8(9, 20, 3)), pads=[2, 1], strides=[2], dilations=[2])
case("ConvInteger", u8(1, 12, 11), Constant(s8(12, 1, 3)), Constant(np.uint8(255)), group=12, pads=[1, 1])
for x in (u8, s8):
    own = np.dtype(x(1).dtype).type
    for w in (u8, s8):
        other, seven = np.dtype(w(1).dtype).type, Constant(np.dtype(w(1).dtype).type(7))
        case("MatMulInteger", x(5, 7), Constant(w(7, 19)))
        case("MatMulInteger", x(5, 7), Constant(w(7, 19)), Constant(own(100)), seven)
        case("MatMulInteger", x(2, 3, 5, 8), Constant(w(8, 16)), Constant(own(9)), Constant(w(16)))
        case("MatMulInteger", x(1, 301), Constant(w(301, 33)), np.array(17, own), seven)
        case("MatMulInteger", x(5, 7), w(7, 19), Constant(own(100)), np.array(5, other))
        case("MatMulInteger", x(2, 1, 5, 300), w(3, 300, 4), Constant(own(100)), seven)
        case("MatMulInteger", x(3, 5, 7), Constant(w(3, 7, 4)), Constant(own(1)), seven)
        case("MatMulInteger", Constant(x(5, 7)), w(7, 9), Constant(own(1)), seven)
case("MatMulInteger", Image((1, 20, 4, 7), whole=True, dtype="uint8"), Constant(s8(7, 5)), Constant(np.uint8(3)))
for numbers in (f32(3, 17), f32(2, 3, 9, 8), f32(1, 5, low=0.5), f32(1, 5, low=-2.0, high=-0.5)):
    case("DynamicQuantizeLinear", numbers, outputs=3)
