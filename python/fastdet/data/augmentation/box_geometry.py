# SPDX-License-Identifier: Apache-2.0
"""Matrices, and what they make of boxes and polygons.

A matrix is 3 x 3 float64 and maps source to output in continuous pixel coordinates (pixel i covers [i, i + 1)).
"""

from __future__ import annotations

import functools

import numpy as np

EPS = 1e-16


def translation(x: float, y: float) -> np.ndarray:
    """Matrix that shifts by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def stretch_matrix(source: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Matrix that stretches a picture of ``source`` (height, width) to ``size`` (height, width)."""
    return np.diag([size[1] / source[1], size[0] / source[0], 1.0])


def pixel_matrix(matrix: np.ndarray) -> np.ndarray:
    """The same map between pixel indices, as ``compose`` and OpenCV take it: index 0 is the point 0.5."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    c, f, i = c + 0.5 * (a + b), f + 0.5 * (d + e), i + 0.5 * (g + h)
    half = (0.5 * g, 0.5 * h, 0.5 * i)
    rows = [x - y for row in ((a, b, c), (d, e, f)) for x, y in zip(row, half, strict=True)]
    return np.array([*rows, g, h, i]).reshape(3, 3)


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``points`` [..., 2] through ``matrix``, perspective included; float64."""
    moved = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Smallest upright boxes around the transformed corners of ``boxes`` [M, 4]; not clipped; float64."""
    (a, b, c), (d, e, f), last = matrix.tolist()
    if b == 0 == d and a > 0 < e and last == [0, 0, 1]:  # corners stay corners
        return boxes.astype(np.float64) * (a, e, a, e) + (c, f, c, f)
    corners = warp_points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def in_front(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[M] bool: all corners of ``boxes`` [M, 4] lie on the near side of the perspective's horizon."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    return (corners @ matrix[2, :2] + matrix[2, 2] > 1e-6).all(axis=1)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``boxes`` [M, 4] cut at a picture of ``size`` (height, width); float64."""
    cut = np.maximum(boxes, 0.0, dtype=np.float64)
    return np.minimum(cut, _corner(size), out=cut)


@functools.lru_cache(64)
def _corner(size: tuple[int, int]) -> np.ndarray:
    return np.array([size[1], size[0], size[1], size[0]], np.float64)


def areas(boxes: np.ndarray) -> np.ndarray:
    """[M] areas of ``boxes`` [M, 4]; 0 for empty ones."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def shared_area(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[M, N] areas that ``boxes`` [M, 4] and ``others`` [N, 4] have in common."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(axis=2)


def candidates(
    before: np.ndarray,
    after: np.ndarray,
    *,
    scale: float,
    min_side: float = 2.0,
    min_area: float = 0.1,
    max_aspect: float = 100.0,
) -> np.ndarray:
    """Which boxes are still worth learning after a random affine map: the rule of the YOLO families.

    Args:
        before: [M, 4] as they were, cut at the canvas. after: [M, 4] what is left of them, cut at the output.
        scale: of the map; the area before is multiplied by its square.
        min_side: both sides must be longer, pixels. min_area: the share of the area that must be exceeded.
        max_aspect: the longer side must be less than this many times the shorter one.

    Returns:
        [M] bool.
    """
    sides = after[:, 2:] - after[:, :2]
    aspects = sides / (sides + EPS)[:, ::-1]
    share = areas(after) / (areas(before) * scale**2 + EPS)
    fits = (sides > min_side) & (aspects < max_aspect)
    return np.asarray(fits[:, 0] & fits[:, 1] & (share > min_area))


def clip_polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part [L, 2] of a polygon [K, 2] on a picture of ``size`` (height, width); L is 0 where there is none.

    Sutherland and Hodgman: side by side. Parts that fall asunder stay joined by edges along the border.
    """
    if len(points) and points.min() >= 0 and (points.max(axis=0) <= _corner(size)[:2]).all():
        return points
    for axis, limit in ((0, size[1]), (1, size[0])):
        for sign, bound in ((-1.0, 0.0), (1.0, float(limit))):  # sign * p <= bound is inside
            if not len(points):
                return points
            depth = bound - sign * points[:, axis]
            if (depth >= 0).all():
                continue
            following, ahead = _following(points), _following(depth)
            crosses = (depth >= 0) != (ahead >= 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(crosses, depth / (depth - ahead), 0.0)[:, None]
            ends = np.stack([points, points + share * (following - points)], axis=1)
            points = ends[np.stack([depth >= 0, crosses], axis=1)]
    return points


def polygon_hull(points: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray | None:
    """Exact upright box [4] of the part of a polygon [K, 2] inside ``window`` (x1, y1, x2, y2); None where none is.

    Its extreme points are ends of edges cut at the window, or corners of the window that lie in the polygon.
    """
    starts = np.asarray(points, np.float64)
    if not len(starts):
        return None
    x1, y1, x2, y2 = window
    (left, top), (right, bottom) = starts.min(axis=0).tolist(), starts.max(axis=0).tolist()
    if left > x2 + 1 or top > y2 + 1 or right < x1 - 1 or bottom < y1 - 1:
        return None
    steps = _following(starts) - starts
    if left >= x1 and top >= y1 and right <= x2 and bottom <= y2:  # nothing is cut
        ends = np.concatenate([starts, starts + steps])
        return np.concatenate([ends.min(axis=0), ends.max(axis=0)]).clip([x1, y1, x1, y1], [x2, y2, x2, y2])
    enter, leave = np.zeros(len(starts)), np.ones(len(starts))
    outside = np.zeros(len(starts), bool)
    for axis in (0, 1):
        for sign, limit in ((-1.0, window[axis]), (1.0, window[axis + 2])):  # sign * p <= sign * limit is inside
            rate, room = sign * steps[:, axis], sign * (limit - starts[:, axis])
            outside |= (rate == 0) & (room < 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                crossing = room / rate
            enter = np.where(rate < 0, np.fmax(enter, crossing), enter)
            leave = np.where(rate > 0, np.fmin(leave, crossing), leave)
    cut = (enter <= leave) & ~outside
    found = [starts[cut] + enter[cut, None] * steps[cut], starts[cut] + leave[cut, None] * steps[cut]]
    found.append(np.array([c for c in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)) if _inside(starts, c)]).reshape(-1, 2))
    ends = np.concatenate(found)
    if not len(ends):
        return None
    return np.concatenate([ends.min(axis=0), ends.max(axis=0)]).clip([x1, y1, x1, y1], [x2, y2, x2, y2])


def _following(points: np.ndarray) -> np.ndarray:
    """The points of a closed polygon, from its second on."""
    return np.concatenate([points[1:], points[:1]])


def _inside(points: np.ndarray, point: tuple[float, float]) -> bool:
    """Even-odd rule."""
    following = _following(points)
    crosses = (points[:, 1] <= point[1]) != (following[:, 1] <= point[1])
    a, b = points[crosses], following[crosses]
    x = a[:, 0] + (point[1] - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return bool((x > point[0]).sum() % 2)


def polygon_mask(points: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width]: 1 at the pixels whose centre lies in the polygon [K, 2] (even-odd rule).

    Args:
        corner: (x, y) of the mask's first pixel in the polygon's coordinates. size: (height, width) of the mask.
    """
    height, width = size
    starts = np.asarray(points, np.float64) - corner
    ends = _following(starts)
    rows = np.arange(height) + 0.5
    crosses = (starts[:, 1:] <= rows) != (ends[:, 1:] <= rows)  # [K, height]
    edge, row = np.nonzero(crosses)
    slope = (ends[edge, 0] - starts[edge, 0]) / (ends[edge, 1] - starts[edge, 1])
    x = starts[edge, 0] + (rows[row] - starts[edge, 1]) * slope
    place = row * (width + 1) + np.ceil(x - 0.5).clip(0, width).astype(np.int64)
    turns = np.bincount(place, minlength=height * (width + 1)).astype(np.uint8).reshape(height, width + 1)
    return np.bitwise_xor.accumulate(turns & 1, axis=1)[:, :width]
