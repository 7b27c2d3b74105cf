# SPDX-License-Identifier: Apache-2.0
"""Pictures for the operators that suppress: boxes with scores, plain and rotated, and every fault they may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdet.ops._backend import Op
from fastdet.testing.ops import VARIANTS, Case

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


PICTURES = {
    "empty": {"n": 0},
    "one": {"n": 1},
    "two": {"n": 2},
    "prime": {"n": 127},
    "non-finite": {"n": 100, "kind": "bad"},
    "tiny": {"n": 100, "kind": "tiny"},
    "far": {"n": 150, "kind": "far"},
    "groups": {"n": 300, "groups": 4},
    "groups-int32": {"n": 150, "groups": 3, "dtype": np.int32, "ties": 3},
    "groups-many": {"n": 200, "groups": 150},
    "groups-empty": {"n": 0, "groups": 3},
}
"""What every operator on scored boxes meets; each adds its own."""
RESCORED = {
    **{f"edge-{n}": {"n": n, "seed": n, "threshold": 0.0} for n in (31, 33, 65, 255, 257)},
    "seven-prime": {"n": 7, "seed": 5, "threshold": 0.0},
    "lattice-groups": {"n": 90, "kind": "lattice", "groups": 3, "threshold": 0.0},
    "lattice-ties": {"n": 90, "kind": "lattice", "ties": 3, "threshold": 0.0},
    "non-finite-groups": {"n": 80, "kind": "bad", "groups": 2, "threshold": 0.0},
}
"""What those meet that lower scores instead of dropping boxes: no box leaves before the end."""
ESSENTIAL = ("numpy-plain", "torch-float16", "cuda-forward", "cuda-reverse", "cuda-shuffled")
LAYOUTS_TOO = tuple(f"-{name}" for name in ("prime", "empty", "ties", "groups", "degenerate"))


def cases_of(
    op: Op, problem: Callable[..., Any], settings: dict[str, dict[str, Any]], forms: list[tuple]
) -> list[Case]:
    """Every setting in every form: ``problem(*form, **setting)`` returns arguments, boxes and scores first."""
    return [
        Case(
            "-".join([*form, name]),
            op,
            lambda form=form, options=options: problem(*form, **options),
            floats=(0, 1),
        )
        for name, options in settings.items()
        for form in forms
    ]


def presented(cases: list[Case], thorough: tuple[str, ...] = LAYOUTS_TOO) -> list[tuple[Case, str]]:
    """Cases with the variants that decide, those that end as ``thorough`` says with all."""
    return [(c, v) for c in cases for v in VARIANTS if v in ESSENTIAL or c.name.endswith(thorough)]


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
