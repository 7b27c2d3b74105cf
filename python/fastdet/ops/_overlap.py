# SPDX-License-Identifier: Apache-2.0
"""Similarity of boxes in NumPy with the bits of ``csrc/core/iou.h`` and ``rotated_iou.h``, for assigners.

``_iou.py`` states the same formulas with NumPy's own functions; an assignment compares the results with each other, so
here every function that is not exact in itself is that of ``csrc/core/numeric.h``, in the same order of operations.
"""

from __future__ import annotations

import numpy as np

from fastdet.ops._numeric import atan_of_ratio, exp_exact, log_exact, sin_cos_exact

_ONE = np.float32(1)


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


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.float32(0))


def _divided(values: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    return values / np.where(divisors == 0, _ONE, divisors)
