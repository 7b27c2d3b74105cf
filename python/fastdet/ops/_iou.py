# SPDX-License-Identifier: Apache-2.0
"""The IoU family in NumPy: what ``core/iou.h`` and ``core/rotated_iou.h`` compute, in the same order of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastdet.ops._numeric import exp_exact, log_exact, sin_cos_exact


class Rules(NamedTuple):
    """Which similarity, of what boxes, and where eps stands. The words are those of the operators' schemas."""

    kind: str = "iou"
    fmt: str = "xyxy"
    eps: float = 0.0
    eps_union: str = "none"
    eps_enclosing: str = "none"
    eps_sides: str = "none"
    variance_eps: float = 0.0
    detach_alpha: bool = True


RULES_SCHEMA = (
    "str kind, str fmt, float eps, str eps_union, str eps_enclosing, str eps_sides, float variance_eps, "
    "bool detach_alpha"
)


def arithmetic(*arrays: np.ndarray) -> list[np.ndarray]:
    """float64 stays, everything else is computed in float32."""
    double = any(a.dtype == np.float64 for a in arrays)
    return [a.astype(np.float64 if double else np.float32) for a in arrays]


def over_leading(op: str, call: Callable[[Any, Any], Any], boxes1: Any, boxes2: Any) -> Any:
    """``call`` on boxes (..., M, k), (..., N, k) as (B, M, k), (B, N, k); its result has their leading dimensions."""
    dims1, dims2 = len(getattr(boxes1, "shape", ())), len(getattr(boxes2, "shape", ()))
    if dims1 == dims2 == 3 or not (hasattr(boxes1, "shape") and hasattr(boxes2, "shape")):
        return call(boxes1, boxes2)  # nothing to flatten; the operator says what is wrong
    for name, boxes, letter in (("boxes1", boxes1, "M"), ("boxes2", boxes2, "N")):
        if len(boxes.shape) < 2:
            raise ValueError(f"{op}: {name} must be (..., {letter}, numbers of a box), got {tuple(boxes.shape)}")
    lead = tuple(boxes1.shape)[:-2]
    if tuple(boxes2.shape)[:-2] != lead:
        shapes = f"{tuple(boxes1.shape)} and {tuple(boxes2.shape)}"
        raise ValueError(f"{op}: boxes1 and boxes2 must have the same leading dimensions, got {shapes}")
    count = 1
    for size in lead:
        count = count * size
    found = call(*(b.reshape((count, *tuple(b.shape)[-2:])) for b in (boxes1, boxes2)))
    return found.reshape((*lead, *tuple(found.shape)[1:]))


def similarity(
    a: np.ndarray,
    b: np.ndarray,
    rules: Rules,
    *,
    gradients: bool = True,
    angles: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, ...]:
    """Similarity of broadcast pairs and its gradient for the numbers of both.

    Args:
        a, b: [..., 4] (5: rotated) of one dtype, float32 or float64, that broadcast against each other.
        angles: for rotated boxes, in float64, where the angles are not those of the boxes.

    Returns:
        [...] and, with ``gradients``, twice [..., 4 | 5].
    """
    with np.errstate(all="ignore"):
        a, b = np.broadcast_arrays(a, b)
        if rules.kind == "probiou":
            return _gaussian(a, b, rules, gradients, angles or (a[..., 4], b[..., 4]))
        return _overlap(a, b, rules, gradients)


def _overlap(a: np.ndarray, b: np.ndarray, rules: Rules, gradients: bool) -> tuple[np.ndarray, ...]:
    one = a.dtype.type
    add = {use: one(rules.eps if use == "add" else 0) for use in ("none", "add", "clamp")}
    low = {use: one(rules.eps if use == "clamp" else 0) for use in ("none", "add", "clamp")}
    p, q = _Box(a, rules), _Box(b, rules)

    iw = _positive(np.minimum(p.x2, q.x2) - np.maximum(p.x1, q.x1))
    ih = _positive(np.minimum(p.y2, q.y2) - np.maximum(p.y1, q.y1))
    inter = iw * ih
    whole = np.maximum(p.area + q.area - inter + add[rules.eps_union], low[rules.eps_union])
    iou = _divided(inter, whole)
    value = iou
    cw = _positive(np.maximum(p.x2, q.x2) - np.minimum(p.x1, q.x1))
    ch = _positive(np.maximum(p.y2, q.y2) - np.minimum(p.y1, q.y1))
    extent = cw * ch if rules.kind == "giou" else cw * cw + ch * ch
    outer = np.maximum(extent + add[rules.eps_enclosing], low[rules.eps_enclosing])
    dx = ((q.x1 + q.x2) - (p.x1 + p.x2)) * one(0.5)
    dy = ((q.y1 + q.y2) - (p.y1 + p.y2)) * one(0.5)
    apart = _divided(outer - whole if rules.kind == "giou" else dx * dx + dy * dy, outer)
    turn = q.aspect - p.aspect
    aspect = one(0.40528473456935109) * (turn * turn)
    alpha = _divided(aspect, 1 - iou + aspect + one(rules.eps))
    if rules.kind != "iou":
        value = value - apart
    if rules.kind == "ciou":
        value = value - alpha * aspect
    known = np.isfinite(value)
    result = np.where(known, value, 0).astype(one)
    if not gradients:
        return (result,)

    whole_passes = (whole > low[rules.eps_union]) | (low[rules.eps_union] == 0)
    outer_passes = (outer > low[rules.eps_enclosing]) | (low[rules.eps_enclosing] == 0)
    through_alpha = 1 - alpha * alpha if rules.kind == "ciou" and not rules.detach_alpha else 1
    by_area = -(iou * whole_passes) * (through_alpha / whole)
    by_inter = through_alpha / whole - by_area
    by_cw, by_ch, by_dx, by_dy, by_turn = (np.zeros_like(iou) for _ in range(5))
    if rules.kind == "giou":  # iou - 1 + whole / outer
        by_inter, by_area = by_inter - whole_passes / outer, by_area + whole_passes / outer
        per_outer = -whole / outer / outer * outer_passes
        by_cw, by_ch = per_outer * ch, per_outer * cw
    elif rules.kind != "iou":
        per_outer = 2 * apart / outer * outer_passes
        by_cw, by_ch, by_dx, by_dy = per_outer * cw, per_outer * ch, -2 * dx / outer, -2 * dy / outer
    if rules.kind == "ciou":
        by_turn = -one(0.81056946913870217) * turn * (alpha if rules.detach_alpha else alpha * (2 - alpha))
    by_iw, by_ih = by_inter * ih * (inter > 0), by_inter * iw * (inter > 0)

    grads = []
    for box, other, sign in ((p, q, -1), (q, p, 1)):
        by_w = by_area * box.h + sign * by_turn * box.h / (box.w * box.w + box.h * box.h)
        by_h = by_area * box.w - sign * by_turn * box.w / (box.w * box.w + box.h * box.h)
        mx, my = sign * by_dx / 2, sign * by_dy / 2
        left, top = _share(box.x1, other.x1), _share(box.y1, other.y1)
        right, bottom = _share(other.x2, box.x2), _share(other.y2, box.y2)
        x1 = mx - by_w - by_iw * left - by_cw * (1 - left)
        y1 = my - by_h - by_ih * top - by_ch * (1 - top)
        x2 = mx + by_w + by_iw * right + by_cw * (1 - right)
        y2 = my + by_h + by_ih * bottom + by_ch * (1 - bottom)
        grads.append(_in_format(x1, y1, x2, y2, rules.fmt))
    sound = known & p.has_area & q.has_area
    return (result, *_kept(grads, sound, one))


class _Box:
    """Corners, sides with their eps, area and angle of boxes; NaN where a box is not finite."""

    def __init__(self, numbers: np.ndarray, rules: Rules) -> None:
        one = numbers.dtype.type
        x1, y1, x2, y2 = _corners(numbers, rules.fmt)
        finite = np.isfinite(x1) & np.isfinite(y1) & np.isfinite(x2) & np.isfinite(y2)
        # An axis that is inverted counts as its middle, so that the enclosing box holds the centre.
        x1, x2 = (np.where(x2 < x1, (x1 + x2) * one(0.5), v) for v in (x1, x2))
        y1, y2 = (np.where(y2 < y1, (y1 + y2) * one(0.5), v) for v in (y1, y2))
        self.x1, self.y1, self.x2, self.y2 = (np.where(finite, v, one(np.nan)) for v in (x1, y1, x2, y2))
        self.has_area = (self.x2 > self.x1) & (self.y2 > self.y1)
        self.w = _positive(x2 - x1) + one(rules.eps if rules.eps_sides == "both" else 0)
        self.h = _positive(y2 - y1) + one(rules.eps if rules.eps_sides in ("height", "both") else 0)
        self.area = np.where(finite, self.w * self.h, one(np.nan))
        self.aspect = np.arctan2(self.w, self.h) if rules.kind == "ciou" else np.zeros_like(self.w)


def _corners(v: np.ndarray, fmt: str) -> tuple[np.ndarray, ...]:
    a, b, c, d = (v[..., i] for i in range(4))
    half = v.dtype.type(0.5)
    if fmt == "xywh":
        return a, b, a + c, b + d
    if fmt == "cxcywh":
        return a - c * half, b - d * half, a + c * half, b + d * half
    return a, b, c, d


def _in_format(x1: np.ndarray, y1: np.ndarray, x2: np.ndarray, y2: np.ndarray, fmt: str) -> np.ndarray:
    if fmt == "xywh":
        return np.stack([x1 + x2, y1 + y2, x2, y2], -1)
    if fmt == "cxcywh":
        return np.stack([x1 + x2, y1 + y2, (x2 - x1) / 2, (y2 - y1) / 2], -1)
    return np.stack([x1, y1, x2, y2], -1)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, values.dtype.type(0))


def _divided(values: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Quotients; where a divisor is 0, so is what it divides, and the quotient is 0."""
    return values / np.where(divisors == 0, divisors.dtype.type(1), divisors)


def _share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of ``a`` in the maximum of both: 1, 0, or 1/2 where they are equal."""
    return ((a > b) + 0.5 * (a == b)).astype(a.dtype)


def _kept(grads: list[np.ndarray], sound: np.ndarray, one: type) -> list[np.ndarray]:
    """Gradients of both boxes, 0 where ``sound`` is false or any number of either is not finite."""
    for g in grads:
        sound = sound & np.isfinite(g).all(-1)
    return [np.where(sound[..., None], g, 0).astype(one) for g in grads]


def _gaussian(
    p: np.ndarray, q: np.ndarray, rules: Rules, gradients: bool, angles: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, ...]:
    one = p.dtype.type
    eps = one(rules.eps)
    g, k = _Gaussian(p, angles[0], rules), _Gaussian(q, angles[1], rules)
    dx, dy = g.x - k.x, g.y - k.y
    a, b, c = g.a + k.a, g.b + k.b, g.c + k.c
    cosine, sine = g.cos * k.cos + g.sin * k.sin, g.sin * k.cos - g.cos * k.sin
    mixed, equal = g.along * k.across + k.along * g.across, g.along * k.along + g.across * k.across
    det = (g.along * g.across + k.along * k.across) + (cosine * cosine * mixed + sine * sine * equal)
    form = one(0.25) * (a * (dy * dy) + b * (dx * dx)) - one(0.5) * (c * (dx * dy))
    root = np.sqrt(g.along * g.across * (k.along * k.across))
    normal = 4 * root + eps
    ratio = det / normal
    argument = np.clip(ratio + eps, one(2.0**-126), one(3.0e38))
    raw = form * (1 / (det + eps)) + one(0.5) * log_exact(argument)
    distance = np.clip(raw, eps, one(100))
    hellinger = np.sqrt((1 - exp_exact(-distance)) + eps)
    known = np.isfinite(raw) & np.isfinite(hellinger)
    value = np.where(known, 1 - hellinger, 0).astype(one)
    if not gradients:
        return (value,)

    slope = np.where((raw >= eps) & (raw <= 100), -0.5 * np.exp(-distance) / np.sqrt(-np.expm1(-distance) + eps), 0)
    by_log = 1 / ((ratio + eps) * normal)
    by_det = 0.5 * by_log - form / (det + eps) ** 2
    grads = []
    for box, other, sign in ((g, k, 1), (k, g, -1)):

        def by_form(da: np.ndarray, db: np.ndarray, dc: np.ndarray) -> np.ndarray:
            return (0.25 * (da * dy * dy + db * dx * dx) - 0.5 * dc * dx * dy) / (det + eps)

        cc, ss, cs = box.cos * box.cos, box.sin * box.sin, box.cos * box.sin
        det_along = box.across + cosine * cosine * other.across + sine * sine * other.along
        det_across = box.along + cosine * cosine * other.along + sine * sine * other.across
        det_angle = sign * 2 * cosine * sine * (box.along - box.across) * (other.along - other.across)
        along = by_form(cc, ss, cs) + det_along * by_det - ratio * root * by_log / box.along
        across = by_form(ss, cc, -cs) + det_across * by_det - ratio * root * by_log / box.across
        angle = by_form(-2 * box.c, 2 * box.c, box.a - box.b) + det_angle * by_det
        x, y = sign * 0.5 * (b * dx - c * dy) / (det + eps), sign * 0.5 * (a * dy - c * dx) / (det + eps)
        grads.append(slope[..., None] * np.stack([x, y, along * box.w / 6, across * box.h / 6, angle], -1))
    sound = known & (g.w > 0) & (g.h > 0) & (k.w > 0) & (k.h > 0)
    return (value, *_kept(grads, sound, one))


class _Gaussian:
    """Centre and covariance [[a, c], [c, b]] of rotated boxes, and the variances along their axes."""

    def __init__(self, numbers: np.ndarray, angle: np.ndarray, rules: Rules) -> None:
        one = numbers.dtype.type
        finite = np.isfinite(numbers).all(-1) & (np.abs(numbers[..., 4]) <= 1e6)
        x, y, w, h = (numbers[..., i] for i in range(4))
        self.x, self.y = (np.where(finite, v, one(np.nan)) for v in (x, y))
        self.w, self.h = _positive(w), _positive(h)
        self.along = self.w * self.w * one(1 / 12) + one(rules.variance_eps)
        self.across = self.h * self.h * one(1 / 12) + one(rules.variance_eps)
        sine, cosine = sin_cos_exact(np.where(finite, angle, 0))
        self.cos, self.sin = cosine.astype(one), sine.astype(one)  # rounded once
        cc, ss = self.cos * self.cos, self.sin * self.sin
        self.a, self.b = self.along * cc + self.across * ss, self.along * ss + self.across * cc
        self.c = (self.along - self.across) * (self.cos * self.sin)
