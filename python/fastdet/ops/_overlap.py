# SPDX-License-Identifier: Apache-2.0
"""Similarity of boxes in NumPy with the bits of ``csrc/core/iou.h`` and ``rotated_iou.h``, for assigners.

``_iou.py`` states the same formulas with NumPy's own functions; an assignment compares the results with each other, so
here every function that is not exact in itself is that of ``csrc/core/numeric.h``, in the same order of operations.
"""

from __future__ import annotations

import numpy as np

from fastdet.ops._numeric import exp_exact

_ONE = np.float32(1)
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
    """log(x 2^-shift) of normal positive float32 x, as ``log_exact`` of csrc/core/numeric.h; 0 counts as 2^-127."""
    bits = np.ascontiguousarray(x).view(np.int32).reshape(x.shape)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    f = np.ascontiguousarray(bits - (exponent << np.int32(23))).view(np.float32).reshape(x.shape) - _ONE
    e = (exponent - np.int32(shift)).astype(np.float32)
    p = _polynomial(_LOG, f)
    f2 = f * f
    tail = (f * f2) * p + e * np.float32(-2.12194440e-4)
    return (f + (tail - np.float32(0.5) * f2)) + e * np.float32(0.693359375)


def atan_of_ratio(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The angle whose tangent is y / x for float32 y, x >= 0, as ``atan_of_ratio`` of csrc/core/numeric.h."""
    low, high = np.where(y < x, y, x), np.where(y < x, x, y)
    t = np.where(high > 0, low / high, np.float32(0))
    z = t * t
    angle = t + (t * z) * _polynomial(_ATAN, z)
    return np.where(y > x, np.float32(1.57079637) + (np.float32(-4.37113883e-8) - angle), angle)


def sin_cos_exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of float32 |x| <= 1e6, as ``sin_cos_exact`` of csrc/core/numeric.h."""
    x = x.astype(np.float64)
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
    return at_sine.astype(np.float32), at_cosine.astype(np.float32)


def overlap_exact(kind: str, a: np.ndarray, b: np.ndarray, eps: float) -> np.ndarray:
    """Similarity of broadcast float32 boxes [..., 4] xyxy (``"iou"``, ``"ciou"``) or [..., 5] rotated (``"probiou"``).

    eps is added to heights, to the union and to the enclosing squared diagonal; in probiou wherever it stands there.
    0 where a box or the similarity is not finite.
    """
    with np.errstate(all="ignore"):
        value = _gaussian(a, b, np.float32(eps)) if kind == "probiou" else _upright(kind, a, b, np.float32(eps))
        known = np.isfinite(value) & np.isfinite(a).all(-1) & np.isfinite(b).all(-1)
        if kind == "probiou":
            known &= (np.abs(a[..., 4]) <= 1e6) & (np.abs(b[..., 4]) <= 1e6)
        return np.where(known, value, np.float32(0))


def _upright(kind: str, a: np.ndarray, b: np.ndarray, eps: np.float32) -> np.ndarray:
    half = np.float32(0.5)
    ax1, ay1, ax2, ay2, area_a, angle_a = _sides(a, eps)
    bx1, by1, bx2, by2, area_b, angle_b = _sides(b, eps)
    inter = _positive(np.minimum(ax2, bx2) - np.maximum(ax1, bx1)) * _positive(
        np.minimum(ay2, by2) - np.maximum(ay1, by1)
    )
    iou = _divided(inter, np.maximum(area_a + area_b - inter + eps, np.float32(0)))
    if kind == "iou":
        return iou
    cw = _positive(np.maximum(ax2, bx2) - np.minimum(ax1, bx1))
    ch = _positive(np.maximum(ay2, by2) - np.minimum(ay1, by1))
    dx, dy = ((bx1 + bx2) - (ax1 + ax2)) * half, ((by1 + by2) - (ay1 + ay2)) * half
    value = iou - _divided(dx * dx + dy * dy, np.maximum(cw * cw + ch * ch + eps, np.float32(0)))
    turn = angle_b - angle_a
    aspect = np.float32(0.40528473456935109) * (turn * turn)
    return value - _divided(aspect, _ONE - iou + aspect + eps) * aspect


def _sides(v: np.ndarray, eps: np.float32) -> tuple[np.ndarray, ...]:
    """Corners, of which an inverted axis is its middle; area; angle of the diagonal."""
    x1, y1, x2, y2 = (v[..., i] for i in range(4))
    middle_x, middle_y = (x1 + x2) * np.float32(0.5), (y1 + y2) * np.float32(0.5)
    turned_x, turned_y = x2 < x1, y2 < y1
    x1, x2 = np.where(turned_x, middle_x, x1), np.where(turned_x, middle_x, x2)
    y1, y2 = np.where(turned_y, middle_y, y1), np.where(turned_y, middle_y, y2)
    w, h = _positive(x2 - x1), _positive(y2 - y1) + eps
    return x1, y1, x2, y2, w * h, atan_of_ratio(w, h)


def _gaussian(p: np.ndarray, q: np.ndarray, eps: np.float32) -> np.ndarray:
    quarter, half = np.float32(0.25), np.float32(0.5)
    (px, py, p_along, p_across, p_cos, p_sin, pa, pb, pc) = _covariance(p)
    (qx, qy, q_along, q_across, q_cos, q_sin, qa, qb, qc) = _covariance(q)
    dx, dy, a, b, c = px - qx, py - qy, pa + qa, pb + qb, pc + qc
    cosine, sine = p_cos * q_cos + p_sin * q_sin, p_sin * q_cos - p_cos * q_sin
    own_p, own_q = p_along * p_across, q_along * q_across
    det = (own_p + own_q) + (
        (cosine * cosine) * (p_along * q_across + q_along * p_across)
        + (sine * sine) * (p_along * q_along + p_across * q_across)
    )
    form = quarter * (a * (dy * dy) + b * (dx * dx)) - half * (c * (dx * dy))
    by_det = _ONE / (det + eps)
    root = np.sqrt(own_p * own_q)
    ratio = det / (np.float32(4) * root + eps)
    argument = np.minimum(np.maximum(ratio + eps, np.float32(1.17549435e-38)), np.float32(3.0e38))
    raw = form * by_det + half * log_exact(argument)
    distance = np.minimum(np.maximum(raw, eps), np.float32(100))
    hellinger = np.sqrt((_ONE - exp_exact(-distance)) + eps)
    return np.where(np.isfinite(raw), _ONE - hellinger, raw)


def _covariance(v: np.ndarray) -> tuple[np.ndarray, ...]:
    finite = np.isfinite(v).all(-1) & (np.abs(v[..., 4]) <= 1e6)
    sine, cosine = sin_cos_exact(np.where(finite, v[..., 4], np.float32(0)))
    w, h, twelfth = _positive(v[..., 2]), _positive(v[..., 3]), _ONE / np.float32(12)
    along, across = w * w * twelfth, h * h * twelfth
    cc, ss = cosine * cosine, sine * sine
    a, b, c = along * cc + across * ss, along * ss + across * cc, (along - across) * (cosine * sine)
    return v[..., 0], v[..., 1], along, across, cosine, sine, a, b, c


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's scheme in the dtype of x, highest degree first."""
    p = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + x.dtype.type(c)
    return p


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.float32(0))


def _divided(values: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    return values / np.where(divisors == 0, _ONE, divisors)
