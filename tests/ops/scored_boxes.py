# SPDX-License-Identifier: Apache-2.0
"""Pictures for the operators that suppress: boxes with scores, plain and rotated, and every fault they may have."""

from __future__ import annotations

import numpy as np

BAD = (np.nan, np.inf, -np.inf)


def rotated(n, seed=0, size=300.0, kind="plain", ties=0):
    """(n, 5) boxes in clusters, angles in (-4, 4), and (n,) scores; ``ties`` rounds scores to that many levels."""
    rng = np.random.default_rng(seed)
    clusters = max(1, n // 4)
    centre = rng.uniform(0, size, (clusters, 2))[rng.integers(0, clusters, n)] + rng.normal(0, 5, (n, 2))
    boxes = np.concatenate([centre, rng.uniform(4, 60, (n, 2)), rng.uniform(-4, 4, (n, 1))], 1)
    scores = rng.random(n)
    if kind == "same":
        boxes[:] = boxes[:1]
    elif kind == "lattice":  # equal sides, right angles, shared edges and corners
        boxes[:, :2] = rng.integers(0, 6, (n, 2)) * 10
        boxes[:, 2:4] = rng.integers(1, 4, (n, 2)) * 10
        boxes[:, 4] = rng.integers(-2, 3, n) * (np.pi / 2)
    elif kind == "thin":
        boxes[:, 3] = 10.0 ** rng.uniform(-4, 0, n)
    elif kind == "tiny":
        boxes[:, :4] /= 1000
    elif kind == "huge":
        boxes[:, :4] *= 10.0 ** rng.uniform(0, 17, (n, 1))
    elif kind == "far":
        boxes[:, :2] += 1e6
    elif kind == "degenerate":
        boxes[::4, 2] = 0
        boxes[1::4, 3] *= -1
        boxes[2::7, 2:4] = 0
    elif kind == "bad":
        for i, value in enumerate((*BAD, 2e6, *BAD)):
            if value == 2e6:
                boxes[(7 * i) % n, 4] = value
            else:
                (boxes if i % 2 else scores[:, None])[(7 * i) % n, i % 5 if i % 2 else 0] = value
    elif kind == "quarter":
        boxes[:, 4] = rng.choice([0, np.pi / 4, np.pi / 2, np.pi, -np.pi / 4], n)
    if ties:
        scores = np.round(scores * ties) / ties
    return boxes.astype(np.float32), scores.astype(np.float32)


def plain(n, seed=0, size=300.0, kind="plain", ties=0):
    """(n, 4) corners and (n,) scores; the kinds of ``rotated`` that make sense."""
    boxes, scores = rotated(n, seed, size, kind, ties)
    half = boxes[:, 2:4] / 2
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1), scores


def classes(n, count, seed=0, dtype=np.int64):
    """(n,) class ids that are no small numbers."""
    return ((np.random.default_rng(seed + 1).integers(0, count, n) - 1) * 10**6).astype(dtype)


def corners_of(box):
    x, y, w, h, angle = (float(v) for v in box)
    c, s = np.cos(angle), np.sin(angle)
    ends = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return [(x + (a * w * c - b * h * s) / 2, y + (a * w * s + b * h * c) / 2) for a, b in ends]


def clipped_overlap(a, b, over_first=False):
    """IoU, or the share of a that b covers, by clipping one polygon with the sides of the other, in float64.

    Sutherland and Hodgman.
    """
    polygon, window = corners_of(a), corners_of(b)
    for (ax, ay), (bx, by) in zip(window, window[1:] + window[:1]):
        side = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        clipped = []
        for i, (here, place) in enumerate(zip(polygon, side)):
            if place >= 0:
                clipped.append(here)
            j = (i + 1) % len(polygon)
            if (place >= 0) != (side[j] >= 0):
                t = place / (place - side[j])
                clipped.append(tuple(np.array(here) + t * (np.array(polygon[j]) - np.array(here))))
        polygon = clipped
        if not polygon:
            return 0.0
    x, y = np.array(polygon).T
    common = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    first, second = (float(box[2]) * float(box[3]) for box in (a, b))
    return common / (first if over_first else first + second - common)
