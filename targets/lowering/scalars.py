"""Functions of one number as expressions that LLVM turns into vector code.

TVM's ``exp`` and ``erf`` become one libm call per element, which keeps a loop scalar; these are polynomials and
rational functions in float32. Off by at most so many units in the last place, over their whole range
(``tests/targets/test_scalars.py``): exp 1.1, sigmoid 3, softplus 4, tanh, expm1 and erf 6. Other float types are
computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

__all__ = [
    "Scalar",
    "at_least",
    "at_most",
    "erf",
    "exp",
    "expm1",
    "in_float32",
    "log1p_unit",
    "multiply",
    "multiply_in_float32",
    "sigmoid",
    "softplus",
    "tanh",
]

Scalar = Callable[..., tirx.Expr]
"""A function of one or more scalar expressions."""


def multiply(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Their product in their own type."""
    return a * b


def multiply_in_float32(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """The product of a float16 and another, which is exact, or a float32."""
    return a.astype("float32") * b.astype("float32")


# exp on |r| <= ln(2) / 2. Source: Cephes, expf.c (S. Moshier), with ln(2) split in two for the range reduction.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
# Rational minimax approximations on |x| <= 9 and |x| <= 4. Source: Eigen, MathFunctionsImpl.h (ptanh) and
# SpecialFunctionsImpl.h (erf); highest power first, the numerator is multiplied by x.
_TANH = (
    (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    ),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)
_ERF = (
    (
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    ),
    (
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    ),
)


def in_float32(function: Scalar) -> Scalar:
    """The function computed in float32, whatever float type comes in."""

    def wrapped(x: tirx.Expr) -> tirx.Expr:
        return function(x) if str(x.ty.dtype) == "float32" else function(x.astype("float32")).astype(str(x.ty.dtype))

    return wrapped


def _f32(value: float) -> tirx.Expr:
    return tirx.const(value, "float32")


def _let(value: tirx.Expr, body: Scalar) -> tirx.Expr:
    """``body(value)`` with the value computed once."""
    var = tirx.Var("t", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def _horner(x: tirx.Expr, coefficients: Sequence[float]) -> tirx.Expr:
    result = _f32(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + _f32(coefficient)
    return result


def at_least(x: tirx.Expr, low: tirx.Expr) -> tirx.Expr:
    """The larger one; NaN stays NaN, as a comparison with it fails and the second operand is taken."""
    return tirx.max(low, x)


def at_most(x: tirx.Expr, high: tirx.Expr) -> tirx.Expr:
    """The smaller one; NaN stays NaN."""
    return tirx.min(high, x)


def _clamp(x: tirx.Expr, low: float, high: float) -> tirx.Expr:
    return at_least(at_most(x, _f32(high)), _f32(low))


@in_float32
def exp(x: tirx.Expr) -> tirx.Expr:
    """e**x; infinite from 88.38 on, 1.2e-38 below -87.34."""

    def reduced(clamped: tirx.Expr) -> tirx.Expr:
        return _let(tirx.floor(clamped * _f32(1.44269504088896341) + _f32(0.5)), lambda n: scaled(clamped, n))

    def scaled(clamped: tirx.Expr, n: tirx.Expr) -> tirx.Expr:
        power = tirx.reinterpret("float32", tirx.shift_left(n.astype("int32") + 127, tirx.const(23, "int32")))
        remainder = clamped - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW)
        return _let(remainder, lambda r: (_horner(r, _EXP) * r * r + r + _f32(1.0)) * power)

    return _let(_clamp(x, -87.336, 88.723), reduced)


def _rational(x: tirx.Expr, bound: float, tables: tuple[Sequence[float], Sequence[float]]) -> tirx.Expr:
    numerator, denominator = tables
    return _let(
        _clamp(x, -bound, bound),
        lambda c: _let(c * c, lambda square: c * _horner(square, numerator) / _horner(square, denominator)),
    )


@in_float32
def tanh(x: tirx.Expr) -> tirx.Expr:
    return _rational(x, 9.0, _TANH)


@in_float32
def erf(x: tirx.Expr) -> tirx.Expr:
    return _rational(x, 4.0, _ERF)


@in_float32
def sigmoid(x: tirx.Expr) -> tirx.Expr:
    return _f32(1.0) / (_f32(1.0) + exp(_f32(0.0) - x))


@in_float32
def expm1(x: tirx.Expr) -> tirx.Expr:
    """e**x - 1 without cancellation near 0, for x <= 0: tanh(x/2) * (e**x + 1)."""
    return tanh(x * _f32(0.5)) * (exp(x) + _f32(1.0))


@in_float32
def log1p_unit(e: tirx.Expr) -> tirx.Expr:
    """log(1 + e) for 0 <= e <= 1: 2 artanh(e / (2 + e)), whose series ends quickly as the argument is at most 1/3."""
    return _let(
        e / (_f32(2.0) + e),
        lambda s: _let(s * s, lambda q: _f32(2.0) * s * _horner(q, [1 / k for k in (15, 13, 11, 9, 7, 5, 3, 1)])),
    )


@in_float32
def softplus(x: tirx.Expr) -> tirx.Expr:
    """log(1 + e**x) = max(x, 0) + log(1 + e**-|x|)."""
    return at_least(x, _f32(0.0)) + _let(exp(_f32(0.0) - tirx.abs(x)), log1p_unit)
