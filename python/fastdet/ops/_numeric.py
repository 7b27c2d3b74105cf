# SPDX-License-Identifier: Apache-2.0
"""Functions of ``csrc/core/numeric.h`` in NumPy, with the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np

# exp(r) = 1 + r + r^2 P(r) for |r| <= ln 2 / 2; own minimax fit, lowest degree first; Taylor's series in float64.
_EXP = np.array([0.5, 1.66666657e-1, 4.16662954e-2, 8.33349768e-3, 1.39447034e-3, 1.97902991e-4], np.float32)
_FACTORIALS = (
    2.0,
    6.0,
    24.0,
    120.0,
    720.0,
    5040.0,
    40320.0,
    362880.0,
    3628800.0,
    39916800.0,
    479001600.0,
    6227020800.0,
)
_EXP_DOUBLE = np.array([1.0 / f for f in _FACTORIALS])


def exp_exact(x: np.ndarray) -> np.ndarray:
    """exp of float32 or float64 within 1 ulp, as ``exp_exact`` of csrc/core/numeric.h, bit for bit."""
    real: Any = np.float64
    integer: Any = np.int64
    low, high, log2e = -746.0, 710.0, 1.4426950408889634
    ln2_high, ln2_low = 6.93147180369123816490e-01, 1.90821492927058770002e-10
    magic, magic_bits, mantissa, bias, coefficients = 6755399441055744.0, 0x4338000000000000, 52, 1023, _EXP_DOUBLE
    if x.dtype != np.float64:
        real, integer = np.float32, np.int32
        low, high, log2e, ln2_high, ln2_low = -104.0, 89.0, 1.44269504, 0.693359375, -2.12194440e-4
        magic, magic_bits, mantissa, bias, coefficients = 12582912.0, 0x4B400000, 23, 127, _EXP
    with np.errstate(all="ignore"):
        v = np.where(x < real(low), real(low), np.where(x > real(high), real(high), x))
        t = v * real(log2e) + real(magic)
        n = np.ascontiguousarray(t).view(integer).reshape(t.shape) - integer(magic_bits)
        k = t - real(magic)
        r = (v - k * real(ln2_high)) - k * real(ln2_low)
        p = np.full_like(r, coefficients[-1])
        for c in coefficients[-2::-1]:
            p = p * r + c
        y = real(1) + (r + (r * r) * p)
        half = n >> integer(1)
        for power in (half, n - half):
            y = y * ((power + integer(bias)) << integer(mantissa)).view(real)
    return y


def sigmoid_exact(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) of float32 or float64, as ``sigmoid_exact`` of csrc/core/numeric.h, bit for bit."""
    one = x.dtype.type(1)
    with np.errstate(all="ignore"):
        return one / (one + exp_exact(-x))


# log(1 + f) = f - f^2 / 2 + f^3 P(f) for 1 + f in [sqrt(1/2), sqrt(2)); own minimax fit, highest degree first.
_LOG = (
    -0.0763440207,
    0.127614811,
    -0.131601736,
    0.142017722,
    -0.166233599,
    0.200012267,
    -0.250008196,
    0.333333313,
)


def log_exact(x: np.ndarray, shift: int = 0) -> np.ndarray:
    """log(x 2^-shift) of normal positive float32, as ``log_exact`` of csrc/core/numeric.h, bit for bit.

    For float64 NumPy's own. What is neither normal nor positive gives what its bits give there, too.
    """
    if x.dtype == np.float64:
        return np.log(x) - shift * np.log(2.0)
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).reshape(x.shape)
    with np.errstate(all="ignore"):
        exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
        f = (bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
        e = (exponent - np.int32(shift)).astype(np.float32)
        p = _polynomial(_LOG, f)
        f2 = f * f
        tail = (f * f2) * p + e * np.float32(-2.12194440e-4)
        return (f + (tail - np.float32(0.5) * f2)) + e * np.float32(0.693359375)


# atan(t) = t + t^3 P(t^2) on [0, 1]; own minimax fit, highest degree first.
_ATAN = (
    -0.00179122353,
    0.0109034106,
    -0.0311559234,
    0.057934247,
    -0.0840198547,
    0.109516382,
    -0.142641246,
    0.199985355,
    -0.333332986,
)


def atan_of_ratio(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The angle whose tangent is y / x for float32 y, x >= 0, as ``atan_of_ratio`` of csrc/core/numeric.h."""
    low, high = np.where(y < x, y, x), np.where(y < x, x, y)
    t = np.where(high > 0, low / high, np.float32(0))
    z = t * t
    angle = t + (t * z) * _polynomial(_ATAN, z)
    return np.where(y > x, np.float32(1.57079637) + (np.float32(-4.37113883e-8) - angle), angle)


def sin_cos_exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of float32 or float64 |x| <= 1e6, as ``sin_cos_exact`` of csrc/core/numeric.h, bit for bit."""
    given, x = x.dtype.type, x.astype(np.float64)
    t = x * 0.63661977236758134 + 6755399441055744.0
    quarter = np.ascontiguousarray(t).view(np.uint64).reshape(t.shape)
    k = t - 6755399441055744.0
    r = (x - k * 1.57079632673412561417e00) - k * 6.07710050650619224932e-11
    z = r * r
    sine = (1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0, 1 / 362880.0, -1 / 5040.0)
    s = _polynomial((*sine, 1 / 120.0, -1 / 6.0), z)
    cosine = (1 / 20922789888000.0, -1 / 87178291200.0, 1 / 479001600.0, -1 / 3628800.0, 1 / 40320.0, -1 / 720.0)
    c = _polynomial((*cosine, 1 / 24.0, -0.5), z)
    sin_r, cos_r = r + (r * z) * s, 1.0 + z * c
    swapped = (quarter & np.uint64(1)) != 0
    at_sine, at_cosine = np.where(swapped, cos_r, sin_r), np.where(swapped, sin_r, cos_r)
    at_sine = np.where((quarter & np.uint64(2)) != 0, -at_sine, at_sine)
    at_cosine = np.where(((quarter + np.uint64(1)) & np.uint64(2)) != 0, -at_cosine, at_cosine)
    return at_sine.astype(given), at_cosine.astype(given)


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's scheme in the dtype of x, highest degree first."""
    p = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + x.dtype.type(c)
    return p
