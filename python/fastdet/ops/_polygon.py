# SPDX-License-Identifier: Apache-2.0
"""Rotated boxes as rectangles in NumPy: ``csrc/core/rotated_polygon.h`` in the same order of operations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet.ops._numeric import sin_cos_exact

RADIANS = 0.017453292519943295  # in a degree


def in_degrees(op: str, angle_unit: str) -> bool:
    """Whether a word for the unit of angles says degrees."""
    if angle_unit not in ("radians", "degrees"):
        raise ValueError(f"{op}: angle_unit must be radians or degrees, got {angle_unit!r}")
    return angle_unit == "degrees"


def angles_of(boxes: np.ndarray, degrees: bool) -> np.ndarray:
    """The angles of boxes (..., 5) in radians, float64."""
    angle = boxes[..., 4].astype(np.float64)
    return angle * RADIANS if degrees else angle


class Polygons(NamedTuple):
    """Centres, half sides, turns, areas and radii of the circumscribed circles; x is NaN of what is not finite."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    h: np.ndarray
    sin: np.ndarray
    cos: np.ndarray
    area: np.ndarray
    radius: np.ndarray

    def at(self, index: Any) -> Polygons:
        return Polygons(*(field[index] for field in self))


def polygons_of(boxes: np.ndarray, degrees: bool) -> Polygons:
    """Boxes (..., 5), float32 or float64; a side not above 0 counts as 0."""
    one = boxes.dtype.type
    with np.errstate(all="ignore"):
        finite = np.isfinite(boxes).all(-1) & (np.abs(boxes[..., 4]) <= 1e6)
        w, h = (one(0.5) * np.where(side > 0, side, one(0)) for side in (boxes[..., 2], boxes[..., 3]))
        sine, cosine = sin_cos_exact(np.where(finite, angles_of(boxes, degrees), 0))
        x = np.where(finite, boxes[..., 0], one(np.nan))
        area, radius = (2 * w) * (2 * h), np.sqrt(w * w + h * h)
        return Polygons(x, boxes[..., 1], w, h, sine.astype(one), cosine.astype(one), area, radius)


def circles_touch(a: Polygons, b: Polygons) -> np.ndarray:
    """Whether broadcast pairs are near."""
    with np.errstate(all="ignore"):
        dx, dy, reach = b.x - a.x, b.y - a.y, a.radius + b.radius
        return dx * dx + dy * dy <= reach * reach


def intersection(a: Polygons, b: Polygons) -> np.ndarray:
    """What broadcast pairs have in common: in the frame of a, the area under each edge of b inside it."""
    one = a.x.dtype.type
    with np.errstate(all="ignore"):
        cos, sin = a.cos * b.cos + a.sin * b.sin, a.cos * b.sin - a.sin * b.cos
        dx, dy = b.x - a.x, b.y - a.y
        u, v = dx * a.cos + dy * a.sin, dy * a.cos - dx * a.sin
        c, s, w, h, bw, bh = np.abs(cos), np.abs(sin), a.w, a.h, b.w, b.h
        meet = (np.abs(u) < w + (bw * c + bh * s)) & (np.abs(v) < h + (bw * s + bh * c))
        meet = meet & (np.abs(u * cos + v * sin) < bw + (w * c + h * s))
        meet = meet & (np.abs(v * cos - u * sin) < bh + (w * s + h * c))
        px, py, qx, qy = bw * cos, bw * sin, -(bh * sin), bh * cos
        corners = (
            (u + (px + qx), v + (py + qy)),
            (u - (px - qx), v - (py - qy)),
            (u - (px + qx), v - (py + qy)),
            (u + (px - qx), v + (py - qy)),
        )
        e, f = (-2 * px, -2 * py), (-2 * qx, -2 * qy)
        under = [
            _area_under_edge(*corners[i], *corners[(i + 1) % 4], *edge, w, h)
            for i, edge in enumerate((e, f, (-e[0], -e[1]), (-f[0], -f[1])))
        ]
        area = -((under[0] + under[2]) + (under[1] + under[3]))
        area = np.minimum(np.where(area > 0, area, one(0)), np.minimum(a.area, b.area))
        return np.where(meet, area, one(0))


def overlap(a: Polygons, b: Polygons, over_first: bool = False) -> np.ndarray:
    """IoU of broadcast pairs that are near, or their common area over that of the first; 0 where there is none."""
    common = intersection(a, b)
    with np.errstate(all="ignore"):
        quotient = common / (a.area + np.zeros_like(common) if over_first else a.area + b.area - common)
    return np.where((common > 0) & np.isfinite(quotient), quotient, common.dtype.type(0))


def _area_under_edge(
    x0: np.ndarray,
    y0: np.ndarray,
    x1: np.ndarray,
    y1: np.ndarray,
    ex: np.ndarray,
    ey: np.ndarray,
    w: np.ndarray,
    h: np.ndarray,
) -> np.ndarray:
    """The integral over x in [-w, w] of y clamped to [-h, h] along the edge from (x0, y0) to (x1, y1)."""
    real = x0.dtype.type
    zero, one = real(0), real(1)
    steep = np.where(ex == 0, zero, one / np.where(ex == 0, one, ex))

    def unit(value: np.ndarray) -> np.ndarray:
        return np.where(value > 0, np.where(value < 1, value, one), zero)

    left, right = np.clip(x0, -w, w), np.clip(x1, -w, w)
    first, last = y0 + unit((left - x0) * steep) * ey, y1 - unit((x1 - right) * steep) * ey
    low, high = np.clip(first, -h, h), np.clip(last, -h, h)
    parts = ((low - first) * low + (high - low) * (real(0.5) * (low + high))) + (last - high) * high
    level = low == high
    return (right - left) * np.where(level, low, parts / np.where(level, one, last - first))
