"""Elementary functions of 16-lane float32 vectors, right for every finite argument.

Relative errors, measured against float64: tanh, erf, e^x and log below 5e-7. The coefficients are minimax
fits of our own. Where a limit is applied, the argument comes second: that way NaN passes through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from intaglio.kernels.tir import (
    LANES,
    Expression,
    constant,
    float32,
    fused_multiply_add,
    hold,
    intrinsic,
    reinterpret,
    round_even,
    spread,
    tirx,
    zeros,
)

# Numerators and denominators in x² of tanh(x) / x and erf(x) / x. At the limit they round to more than 1.
_TANH = (1.0, 0.13382697137522562, 0.003497467772844408, 2.0635924179832924e-05, 1.3384319855260441e-08)
_TANH_BELOW = (1.0, 0.4671601841763393, 0.025884403608860823, 0.00032885310344671977, 7.790284189229087e-07)
_TANH_LIMIT = 8.89
_ERF = (
    *(1.1283791670955126, 0.19098555263893, 0.0528000928474427, 0.0037834792107284067),
    *(0.00028405254753808776, 2.0293692809089226e-06),
)
_ERF_BELOW = (
    *(1.0, 0.5025894405781627, 0.11432539276067613, 0.015006143128071468),
    *(0.0011645670027303277, 3.783407011252893e-05),
)
_ERF_LIMIT = 3.91
_GELU_LIMIT = 5.567  # of x where erf is taken of x / √2
# 2^x on ±½, e^x on ±½ log 2, and (log(1 + x) - x + x²/2) / x³ on √½ - 1 … √2 - 1.
_EXP2 = (
    *(1.0, 0.6931469773487537, 0.24022241755792945, 0.05550734011558972),
    *(0.009671534133283723, 0.001326469662979275),
)
_EXP = (1.0, 1.0, 0.49999228796156253, 0.1666711630106894, 0.041890553065982654, 0.008312479707119525)
_LOG = (
    *(0.33333910769877795, -0.25001337015961317, 0.19963062290559752, -0.16577586009497178),
    *(0.14914787019706355, -0.14267476312345032, 0.08700359947332005),
)
_LOG2_HIGH, _LOG2_LOW = 0.693359375, -2.1219444005469057e-4  # whole multiples of the former are exact


def _all(value: float) -> Expression:
    return spread(float32(value))


def _integers(value: int) -> Expression:
    return spread(constant(value, "int32"))


def _polynomial(coefficients: Sequence[float], value: Expression) -> Expression:
    result = _all(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = fused_multiply_add(result, value, _all(coefficient))
    return result


def _limited(value: Expression, limit: float) -> Expression:
    return hold(tirx.Max(_all(-limit), tirx.Min(_all(limit), value)))


def _odd_quotient(
    value: Expression, above: Sequence[float], below: Sequence[float], limit: float
) -> Expression:
    """An odd function between ±1 as a quotient of polynomials, ±1 from ±`limit` on."""
    value = _limited(value, limit)
    square = hold(value * value)
    return _limited(value * _polynomial(above, square) / _polynomial(below, square), 1.0)


def hyperbolic_tangent(value: Expression) -> Expression:
    """tanh; ±1 exactly for large arguments."""
    return _odd_quotient(value, _TANH, _TANH_BELOW, _TANH_LIMIT)


def error_function(value: Expression) -> Expression:
    """erf; ±1 exactly for large arguments."""
    return _odd_quotient(value, _ERF, _ERF_BELOW, _ERF_LIMIT)


def full_exponential(value: Expression) -> Expression:
    """e^value over float32's whole range, denormal results, 0 and infinity included."""
    value = hold(tirx.Max(_all(-105.0), tirx.Min(_all(89.0), value)))
    whole = hold(round_even(value * _all(1.0 / math.log(2.0)), LANES))
    fraction = fused_multiply_add(whole, _all(-_LOG2_HIGH), value)
    fraction = hold(fused_multiply_add(whole, _all(-_LOG2_LOW), fraction))
    power = hold(whole.astype("int32x16"))
    half = hold(power >> _integers(1))  # 2^power itself may be no float32
    bits = reinterpret(hold(_polynomial(_EXP, fraction)), "int32x16") + (half << _integers(23))
    rest = (power - half + _integers(127)) << _integers(23)
    return hold(reinterpret(bits, "float32x16") * reinterpret(rest, "float32x16"))


def logarithm(value: Expression) -> Expression:
    """The natural logarithm; -∞ of 0, NaN below."""
    value = hold(value)
    denormal = value < _all(1.1754943508222875e-38)
    scaled = hold(tirx.Select(denormal, value * _all(2.0**23), value))
    shift = hold(tirx.Select(denormal, _all(-23.0), zeros()))
    bits = hold(reinterpret(scaled, "int32x16"))
    power = hold((bits - _integers(0x3F3504F3)) >> _integers(23))  # of 2, leaving √½ … √2
    x = hold(reinterpret(bits - (power << _integers(23)), "float32x16") - _all(1.0))
    whole = hold(power.astype("float32x16") + shift)
    square = hold(x * x)
    small = fused_multiply_add(whole, _all(_LOG2_LOW), x * square * _polynomial(_LOG, x))
    small = fused_multiply_add(square, _all(-0.5), small) + x
    result = hold(fused_multiply_add(whole, _all(_LOG2_HIGH), small))
    edge = tirx.Select(value.equal(zeros()), _all(-math.inf), _all(math.nan))
    result = hold(tirx.Select(value > zeros(), result, edge))
    return hold(tirx.Select(value.equal(_all(math.inf)), value, result))


def square_roots(value: Expression) -> Expression:
    """Of every lane; NaN below 0."""
    return intrinsic("llvm.sqrt", "float32x16", value)


def power(value: Expression, number: float) -> Expression:
    """value^number; of negative values only for whole numbers, NaN otherwise."""
    value = hold(value)
    if number < 0:
        return hold(_all(1.0) / power(value, -number))
    whole = math.floor(number)
    result = _whole_power(value, whole)
    if number - whole == 0.5:
        return hold(result * square_roots(value))
    if number != whole:
        return hold(result * full_exponential(logarithm(value) * _all(number - whole)))
    return result


def _whole_power(value: Expression, number: int) -> Expression:
    """By repeated squaring."""
    result = _all(1.0)
    while number:
        if number % 2:
            result = hold(result * value)
        number //= 2
        value = hold(value * value) if number else value
    return result


def gelu_erf(value: Expression) -> Expression:
    """value · ½ (1 + erf(value / √2))."""
    value = hold(value)
    above = [one * math.sqrt(0.5) * 0.5**i for i, one in enumerate(_ERF)]  # of value² instead of ½ value²
    below = [one * 0.5**i for i, one in enumerate(_ERF_BELOW)]
    half = hold(value * _all(0.5))
    return fused_multiply_add(half, _odd_quotient(value, above, below, _GELU_LIMIT), half)


def gelu_tanh(value: Expression) -> Expression:
    """value · ½ (1 + tanh(√(2/π) (value + 0.044715 value³))), as a logistic function: no cancellation."""
    value = hold(value)
    factor = -2.0 * math.sqrt(2.0 / math.pi) / math.log(2.0)
    power = value * fused_multiply_add(value * value, _all(0.044715 * factor), _all(factor))
    return _bounded(value) * _logistic_of_power(power)


def silu(value: Expression) -> Expression:
    """value · logistic(value)."""
    value = hold(value)
    return _bounded(value) * logistic_function(value)


def logistic_function(value: Expression) -> Expression:
    """1 / (1 + e^-value)."""
    return _logistic_of_power(value * _all(-1.0 / math.log(2.0)))


def _logistic_of_power(power: Expression) -> Expression:
    """1 / (1 + 2^power): between ±126, beyond which it is 0 or 1 to float32 precision."""
    power = _limited(power, 126.0)
    whole = hold(round_even(power, LANES))
    polynomial = hold(_polynomial(_EXP2, hold(power - whole)))
    bits = reinterpret(polynomial, "int32x16") + (whole.astype("int32x16") << _integers(23))
    return _all(1.0) / (_all(1.0) + reinterpret(bits, "float32x16"))


def _bounded(value: Expression) -> Expression:
    """`value`, from -100 on: the logistic function ends at 1e-38, which times a huge value is not 0."""
    return tirx.Max(_all(-100.0), value)


def relu(value: Expression) -> Expression:
    """max(value, 0)."""
    return tirx.Max(zeros(), value)
