"""The cases of test_lowering: operator type -> nodes with their operands."""

from __future__ import annotations

import numpy as np

from tests.targets.case_table import CASES, RNG, Case, Constant, Image, c, case, f32, flags, half, i64

__all__ = ["CASES", "Case", "Constant", "Image"]

PADDED, ALIGNED, WIDE = Image((1, 20, 5, 7)), Image((2, 16, 5, 7)), Image((1, 16, 11, 9))
POSITIVE, LINE = Image((1, 20, 3, 5), positive=True), Image((1, 12, 9))


# -- functions of one tensor
for op in (
    *("Relu", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Gelu", "Mish", "Sigmoid", "Tanh", "Softplus"),
    *("Softsign", "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Erf", "Exp", "Identity", "Dropout"),
):
    case(op, f32(3, 7, low=-12, high=12))
    case(op, PADDED)
    case(op, ALIGNED)
    case(op, LINE)
for op in ("Sqrt", "Reciprocal", "Log"):
    case(op, f32(3, 7, low=1e-3, high=40))
    case(op, POSITIVE)
    case(op, Image((1, 16, 3, 5), positive=True))
case("LeakyRelu", f32(2, 3), alpha=0.3)
case("Elu", f32(2, 30, low=-1, high=0.1), alpha=0.7)
case("Selu", f32(2, 3), alpha=1.1, gamma=0.6)
case("HardSigmoid", PADDED, alpha=0.3, beta=0.4)
case("Gelu", f32(4, 9, low=-6, high=6), approximate="tanh")
case("Exp", f32(64, low=-80, high=80))
case("Tanh", f32(64, low=-1e-3, high=1e-3))
case("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.2], np.float32))
case("Neg", i64(5))
case("Abs", i64(5))
case("Not", flags(3, 4))
for bounds in ((half(0.0), half(6.0)), (half(-0.5), None), (None, half(0.25)), ()):
    scalars = [None if b is None else Constant(b.array.reshape(())) for b in bounds]
    case("Clip", f32(3, 5), *scalars)
    case("Clip", PADDED, *scalars)
case("Clip", i64(7), c(-2), c(3))
for shape in ((20, 1, 1), (1,), (1, 1, 1)):
    case("PRelu", PADDED, Constant(f32(*shape)))
case("PRelu", f32(2, 3, 4), f32(4))
for to in (1, 6, 7, 9, 10, 3):
    case("Cast", f32(3, 5, low=-9, high=9), to=to)
    case("Cast", PADDED, to=to)
case("Cast", flags(4), to=1)
case("Cast", i64(4), to=1)
case("Cast", i64(4), to=9)
case("CastLike", i64(4), f32(1))

# -- functions of several tensors
for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean"):
    case(op, f32(3, 1, 5), f32(4, 1))
    case(op, f32(), f32(2, 3))
    case(op, f32(2, 3), Constant(f32()))
    case(op, PADDED, Constant(f32(20, 1, 1)))
    case(op, Constant(f32(1, 20, 1, 1)), PADDED)
    case(op, PADDED, Constant(f32(1, 1, 5, 7)))
    case(op, PADDED, Constant(f32(7)))
    case(op, PADDED, PADDED)
    case(op, ALIGNED, f32(2, 16, 5, 7, low=1))
    case(op, ALIGNED, f32(2, 16, 1, 1, low=1))
    case(op, ALIGNED, f32(2, 1, 5, 7, low=1))
    case(op, ALIGNED, f32(7, low=1))
    case(op, ALIGNED, Image((2, 1, 5, 7), positive=True))
    case(op, f32(2, 20, 5, 7), Image((2, 20, 1, 1), positive=True))
    case(op, LINE, Constant(f32(12, 1)))
    case(op, PADDED, Constant(f32(2, 1, 1, 1, 1)))
for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
    case(op, i64(3, 4), c(np.array([3, -2, 5, 1])))
for op in ("Max", "Min", "Sum", "Mean"):
    case(op, f32(3, 4), f32(4), f32(3, 1))
    case(op, PADDED, Constant(f32(20, 1, 1)), PADDED)
    case(op, f32(4))
for op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
    case(op, i64(3, 4), i64(4))
    case(op, np.round(f32(3, 4)), np.round(f32(3, 1)))
    case(op, PADDED, Constant(f32(20, 1, 1)))
for op in ("And", "Or", "Xor"):
    case(op, flags(3, 4), flags(4))
case("Equal", flags(3, 4), flags(4))
for exponent in (0.5, 1.0, 2.0, 3.0, 4.0, -1.0, -0.5, 1.7):
    case("Pow", f32(3, 4, low=0.1), half(exponent))
case("Pow", f32(3, 4, low=0.1), f32(4))
case("Pow", POSITIVE, half(1.5))
case("Pow", f32(3, low=-2, high=-1), c(2))
case("Mod", i64(20), c(np.array([3])))
case("Mod", i64(20), c(np.array([-3])), fmod=1)
case("Mod", f32(20), f32(20, low=0.3), fmod=1)
case("Where", flags(3, 1), f32(3, 4), f32(4))
case("Where", flags(1, 20, 5, 7), PADDED, half(0.5))
case("Where", flags(1, 20, 1, 1), PADDED, PADDED)

# -- matrix products
case("MatMul", f32(5, 7), f32(7, 3))
case("MatMul", f32(5, 7), Constant(f32(7, 19)))
case("MatMul", f32(2, 3, 5, 7), Constant(f32(7, 16)))
case("MatMul", f32(20, 1, 7), Constant(f32(7, 19)))
case("MatMul", f32(3, 20, 1, 7), f32(3, 1, 7, 19))
case("MatMul", f32(20, 1, 7), f32(20, 7, 19))
case("MatMul", f32(7), Constant(f32(7, 9)))
case("MatMul", f32(5, 7), Constant(f32(7)))
case("MatMul", f32(7), f32(7))
case("MatMul", f32(2, 1, 5, 7), f32(3, 7, 4))
case("MatMul", f32(3, 5, 7), Constant(f32(3, 7, 4)))
case("MatMul", f32(2, 5, 7), f32(7))
case("MatMul", Constant(f32(5, 7)), f32(7, 9))
case("MatMul", PADDED, Constant(f32(7, 4)))
for left, right, flip in ((f32(5, 7), f32(7, 19), {}), (f32(7, 1), f32(11, 7), {"transA": 1, "transB": 1})):
    case("Gemm", left, Constant(right), **flip)
    case("Gemm", left, right, alpha=0.5, **flip)
    case("Gemm", left, Constant(right), Constant(f32(right.shape[0] if flip else 19)), alpha=0.5, beta=2.0, **flip)
    case("Gemm", left, right, f32(1), beta=0.3, **flip)

# -- convolutions
for x in (f32(1, 20, 9, 8), Image((1, 20, 9, 8)), Image((2, 16, 9, 8))):
    channels = x.shape[1]
    case("Conv", x, Constant(f32(13, channels, 3, 3)), Constant(f32(13)), pads=[0, 1, 2, 1], strides=[2, 1])
    case("Conv", x, Constant(f32(16, channels, 3, 2)), auto_pad="SAME_UPPER")
    case("Conv", x, Constant(f32(16, channels, 3, 2)), auto_pad="VALID", dilations=[2, 2])
    case("Conv", x, Constant(f32(5, channels, 2, 2)), f32(5), auto_pad="SAME_LOWER", strides=[2, 2])
    case("Conv", x, Constant(f32(channels, 1, 3, 3)), Constant(f32(channels)), group=channels, pads=[1, 1, 1, 1])
    case("Conv", x, Constant(f32(2 * channels, 1, 3, 3)), group=channels)
    case("Conv", x, Constant(f32(24, channels // 4, 3, 3)), Constant(f32(24)), group=4, pads=[1, 0, 0, 1])
case("Conv", Image((1, 32, 5, 5)), Constant(f32(32, 4, 3, 3)), group=8)
case("Conv", Image((1, 32, 5, 5)), Constant(f32(48, 16, 3, 3)), group=2)
case("Conv", f32(1, 3, 9, 8), Constant(f32(13, 3, 3, 3)), Constant(f32(13)), pads=[1, 1, 1, 1])
case("Conv", f32(1, 20, 11), Constant(f32(9, 20, 3)), Constant(f32(9)), pads=[2, 1], strides=[2], dilations=[2])
case("Conv", f32(1, 3, 11), Constant(f32(9, 3, 3)), auto_pad="SAME_UPPER")
case("Conv", LINE, Constant(f32(12, 1, 3)), group=12)
for x in (f32(1, 20, 4, 5), Image((1, 20, 4, 5)), Image((2, 16, 4, 5))):
    channels = x.shape[1]
    for kernel, options in (
        (2, {"strides": [2, 2]}),
        (3, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        (4, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (3, {"strides": [3, 1], "pads": [0, 1, 2, 0]}),
        (3, {"strides": [1, 1]}),
        (2, {"strides": [3, 3]}),
        (3, {"strides": [2, 2], "dilations": [2, 2]}),
        (3, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        (3, {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        (3, {"strides": [2, 2], "output_shape": [9, 10]}),
    ):
        case("ConvTranspose", x, Constant(f32(channels, 11, kernel, kernel)), Constant(f32(11)), **options)
    case("ConvTranspose", x, Constant(f32(channels, 1, 4, 4)), f32(channels), group=channels, strides=[2, 2])
    case("ConvTranspose", x, Constant(f32(channels, 3, 2, 2)), group=4, strides=[2, 2])
case("ConvTranspose", f32(1, 6, 7), Constant(f32(6, 5, 3)), strides=[2], pads=[1, 0])

# -- pools
for x in (f32(1, 5, 11, 9), WIDE, Image((1, 20, 11, 9))):
    for options in (
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 3], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 2], "dilations": [3, 2], "pads": [1, 1, 0, 0]},
    ):
        case("MaxPool", x, **options)
        case("AveragePool", x, **options)
        if "auto_pad" not in options:
            case("AveragePool", x, count_include_pad=1, **options)
    case("GlobalAveragePool", x)
    case("GlobalMaxPool", x)
case("MaxPool", LINE, kernel_shape=[3], strides=[2], pads=[1, 1])
case("AveragePool", f32(1, 4, 9), kernel_shape=[3], strides=[2], pads=[1, 1])
case("GlobalAveragePool", f32(1, 4, 9))

# -- normalizations
for x in (f32(2, 20, 5, 7), PADDED, ALIGNED):
    channels = x.shape[1]
    vectors = [Constant(f32(channels)) for _ in range(3)]
    case("BatchNormalization", x, *vectors, Constant(f32(channels, low=0.1)), epsilon=1e-3)
    case("InstanceNormalization", x, vectors[0], vectors[1])
case("BatchNormalization", f32(2, 6), *(Constant(f32(6)) for _ in range(3)), Constant(f32(6, low=0.1)))
case("InstanceNormalization", f32(2, 6, 9), Constant(f32(6)), Constant(f32(6)))
case("LayerNormalization", f32(2, 5, 12), Constant(f32(12)), Constant(f32(12)))
case("LayerNormalization", f32(2, 5, 12), f32(5, 12), axis=1, epsilon=1e-3)
case("LayerNormalization", PADDED, Constant(f32(5, 7)), Constant(f32(5, 7)), axis=2)

# -- reductions
for op in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare"):
    for x in (f32(2, 3, 4, 5), PADDED, ALIGNED):
        case(f"Reduce{op}", x, c([2, 3]))
        case(f"Reduce{op}", x, c([1, -1]), keepdims=0)
    case(f"Reduce{op}", f32(3, 4))
    case(f"Reduce{op}", f32(3, 4), keepdims=0)
    case(f"Reduce{op}", f32(3, 4), c(np.zeros(0, np.int64)), noop_with_empty_axes=1)
case("ReduceSum", i64(3, 4), c([0]))
case("ReduceMax", i64(3, 4), c([0]))
ties = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [-1, -5, -1, -5]], np.float32)
for op in ("ArgMax", "ArgMin"):
    case(op, ties, axis=1)
    case(op, ties, axis=-1, select_last_index=1, keepdims=0)
    case(op, PADDED, axis=1)
    case(op, f32(2, 3, 4))
for op in ("Softmax", "LogSoftmax"):
    case(op, f32(3, 11, low=-90, high=90))
    case(op, f32(2, 5, 3), axis=1)
    case(op, PADDED, axis=1)
    case(op, ALIGNED)
case("CumSum", f32(3, 7), c(1))
case("CumSum", f32(3, 7), c(0), exclusive=1)
case("CumSum", f32(3, 7), c(-1), reverse=1)
case("CumSum", i64(7), c(0), reverse=1, exclusive=1)

# -- moving elements
case("Reshape", f32(2, 3, 4), c([4, -1]))
case("Reshape", PADDED, c([0, 2, 10, -1]))
case("Reshape", Constant(f32(2, 6)), c([3, 4]))
case("Flatten", PADDED)
case("Flatten", Image((2, 16, 1, 1)))
case("Flatten", Image((2, 20, 1, 1)), axis=-2)
case("Squeeze", f32(1, 3, 1), c([0]))
case("Squeeze", Image((1, 20, 1, 1)))
case("Unsqueeze", f32(3, 4), c([0, -1]))
case("Transpose", f32(2, 3, 4))
case("Transpose", PADDED, perm=[0, 2, 3, 1])
case("Transpose", Image((1, 16, 1, 1)), perm=[0, 2, 3, 1])
case("Transpose", Constant(f32(3, 4)))
case("Concat", f32(2, 3), f32(2, 5), axis=1)
case("Concat", ALIGNED, ALIGNED, axis=1)
case("Concat", ALIGNED, f32(2, 8, 5, 7), axis=1)
case("Concat", PADDED, PADDED, axis=1)
case("Concat", PADDED, Image((1, 12, 5, 7)), Image((1, 3, 5, 7)), axis=1)
case("Concat", PADDED, f32(1, 3, 5, 7), axis=1)
case("Concat", PADDED, PADDED, axis=2)
case("Concat", PADDED, PADDED, axis=-1)
case("Concat", PADDED, PADDED, axis=0)
case("Concat", Constant(f32(2)), f32(3), axis=0)
case("Concat", Constant(f32(2)), Constant(f32(3)), axis=0)
case("Concat", f32(2), axis=0)
case("Split", f32(7, 4), c([3, 4]), outputs=2)
case("Split", f32(7, 4), outputs=3, num_outputs=3)
case("Split", Image((1, 32, 5, 7)), c([8, 24]), axis=1, outputs=2)
case("Split", PADDED, c([8, 12]), axis=1, outputs=2)
case("Split", PADDED, c([5, 15]), axis=1, outputs=2)
case("Split", PADDED, c([2, 3]), axis=2, outputs=2)
case("Slice", f32(7, 8), c([1]), c([5]))
case("Slice", f32(7, 8), c([-2, 1]), c([0, 2**40]), c([0, 1]), c([-2, 3]))
case("Slice", f32(7, 8), c([2**40]), c([-(2**40)]), c([1]), c([-1]))
case("Slice", f32(7, 8), c([-100]), c([100]), c([-1]))
case("Slice", f32(7, 8), c([3]), c([-100]), c([0]), c([-1]))
case("Slice", PADDED, c([8]), c([16]), c([1]))
case("Slice", PADDED, c([1]), c([20]), c([1]), c([3]))
case("Slice", PADDED, c([19]), c([-100]), c([1]), c([-2]))
case("Slice", PADDED, c([1, 1]), c([4, 2**40]), c([2, 3]), c([2, 1]))
case("Slice", PADDED, c([8, 1]), c([16, 4]), c([1, 3]))
case("Slice", PADDED, c([3, 1]), c([16, 4]), c([1, 3]))
case("Slice", ALIGNED, c([1]), c([2]), c([0]))
case("Slice", Constant(f32(7, 8)), c([1]), c([5]), c([1]), c([2]))
for mode in ("constant", "reflect", "edge", "wrap"):
    case("Pad", f32(4, 5), c([1, 2, 0, 3]), mode=mode)
    case("Pad", PADDED, c([0, 0, 2, 1, 0, 0, 0, 3]), mode=mode)
case("Pad", PADDED, c([0, 1, 2, 1, 0, 2, 0, 3]), Constant(f32()))
case("Pad", f32(4, 5), c([1, 2]), Constant(f32()), c([-1]))
case("Pad", f32(4, 5), c([-1, 2, 0, -1]))
case("Pad", f32(4, 5), c([0, 0, 0, 0]))
case("Expand", f32(3, 1), c([2, 1, 4]))
case("Expand", f32(3, 4), c([1, 1]))
case("Expand", PADDED, c([2, 1, 1, 1]))
case("Tile", f32(3, 4), c([2, 3]))
case("Tile", f32(3, 4), c([1, 1]))
for mode in ("DCR", "CRD"):
    case("DepthToSpace", f32(1, 12, 3, 5), blocksize=2, mode=mode)
    case("DepthToSpace", Image((1, 20, 3, 5)), blocksize=2, mode=mode)
case("SpaceToDepth", f32(1, 3, 4, 6), blocksize=2)
case("SpaceToDepth", Image((1, 20, 4, 6)), blocksize=2)
case("Shape", f32(2, 3, 4))
case("Shape", PADDED, start=1, end=-1)
case("Constant", value_ints=[1, 2])
case("Constant", value_float=1.5)
case("ConstantOfShape", c([2, 3]))

# -- indices
for indices in (c([2, 0, 1]), c([[0, 2], [-1, 1]]), c(1), c([0, 2]), i64(2, 2, low=-3, high=3)):
    for axis in (0, 1, -1):
        case("Gather", f32(3, 4, 5), indices, axis=axis)
case("Gather", PADDED, c(RNG.permutation(20)), axis=1)
case("Gather", PADDED, c(np.arange(0, 20, 2)), axis=1)
case("Gather", ALIGNED, c(np.arange(15, -1, -1)), axis=1)
case("Gather", Constant(f32(6, 3)), i64(4, low=-6, high=6))
case("Gather", Constant(f32(6, 3)), c([1, 2]))
case("GatherElements", f32(3, 4), i64(3, 2, low=-4, high=4), axis=1)
case("GatherElements", f32(3, 4), c(i64(2, 4, low=-3, high=3)))
case("OneHot", i64(2, 3, low=-4, high=5), c(5), Constant(f32(2)))
case("OneHot", i64(2, 3, low=0, high=5), c([5]), Constant(f32(2)), axis=0)
for upper in (0, 1):
    case("Trilu", f32(2, 4, 5), upper=upper)
    case("Trilu", f32(4, 5), c(-1), upper=upper)

# -- resize
no_roi = None
for x in (f32(1, 3, 5, 7), PADDED):
    for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"):
        for mode in ("nearest", "linear", "cubic"):
            options = {"mode": mode, "coordinate_transformation_mode": coordinates}
            case("Resize", x, no_roi, Constant(np.array([1, 1, 2, 1.7], np.float32)), **options)
            case("Resize", x, no_roi, None, c([1, x.shape[1], 3, 12]), **options)
    for rounding in ("floor", "ceil", "round_prefer_ceil"):
        options = {"nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
        case("Resize", x, no_roi, Constant(np.array([1, 1, 2, 3], np.float32)), **options)
    case("Resize", x, no_roi, Constant(np.array([1, 1, 1, 1], np.float32)))
    case("Resize", x, no_roi, Constant(np.array([1, 1, 0.6, 0.5], np.float32)), mode="linear", antialias=1)
    case("Resize", x, no_roi, Constant(np.array([1, 1, 0.6, 0.5], np.float32)), mode="cubic", antialias=1)
    case("Resize", x, no_roi, Constant(np.array([2, 0.8], np.float32)), mode="cubic", axes=[2, 3], exclude_outside=1)
case("Resize", f32(3, 6), no_roi, Constant(np.array([2, 2], np.float32)))

# -- recurrent networks: (steps, batch, features), hidden sizes that fill vectors and that do not
for op, gates, states in (("LSTM", 4, 2), ("GRU", 3, 1), ("RNN", 1, 1)):
    for hidden, direction, directions in ((16, "forward", 1), (5, "reverse", 1), (7, "bidirectional", 2)):
        weights = [Constant(f32(directions, gates * hidden, n, low=-0.5, high=0.5)) for n in (6, hidden)]
        bias = Constant(f32(directions, 2 * gates * hidden))
        initial = [f32(directions, 2, hidden), *(Constant(f32(directions, 2, hidden)) for _ in range(states - 1))]
        shared = {"outputs": 1 + states, "hidden_size": hidden, "direction": direction}
        case(op, f32(4, 2, 6), *weights, bias, None, *initial, **shared)
        case(op, f32(4, 2, 6), *weights, **shared)
    if op == "GRU":
        case(op, f32(4, 2, 6), *weights, bias, None, initial[0], linear_before_reset=1, **shared)

# -- what exporters write around masks of attention
_SPECIAL = np.array([[np.nan, 0, np.inf], [-np.inf, -1, np.nan]], np.float32)
case("IsNaN", _SPECIAL)
for options in ({}, {"detect_positive": 0}, {"detect_negative": 0}, {"detect_positive": 0, "detect_negative": 0}):
    case("IsInf", _SPECIAL, **options)
_TABLE, _PLACES = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([[[0], [-1]], [[1], [-2]]])
case("GatherND", _TABLE, c(np.stack(np.indices((2, 3)), -1).reshape(2, 1, 3, 2)))
case("GatherND", _TABLE, c([[0, 1], [1, -1], [0, 1]]))
case("GatherND", _TABLE, _PLACES)
case("GatherND", _TABLE, _PLACES, batch_dims=1)

# Last: all cases draw from one generator.
import tests.targets.integer_cases  # noqa: E402, F401
