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


# log(1 + f) = f - f^2 / 2 + f^3 P(f) for 1 + f in [sqrt(1/2), sqrt(2)); own minimax fit, lowest degree first.
_LOG = np.array(
    [0.333333313, -0.250008196, 0.200012267, -0.166233599, 0.142017722, -0.131601736, 0.127614811, -0.0763440207],
    np.float32,
)


def log_exact(x: np.ndarray, shift: int = 0) -> np.ndarray:
    """log(x 2^-shift) of normal positive float32, as ``log_exact`` of csrc/core/numeric.h, bit for bit.

    What is neither normal nor positive gives what its bits give there, too.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).reshape(x.shape)
    with np.errstate(all="ignore"):
        exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
        f = (bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
        e = (exponent - np.int32(shift)).astype(np.float32)
        p = np.full_like(f, _LOG[-1])
        for c in _LOG[-2::-1]:
            p = p * f + c
        f2 = f * f
        tail = (f * f2) * p + e * np.float32(-2.12194440e-4)
        return (f + (tail - np.float32(0.5) * f2)) + e * np.float32(0.693359375)
