# SPDX-License-Identifier: Apache-2.0
"""Problems for the Hungarian tests and benchmark, and the published cost in float64."""

from __future__ import annotations

import numpy as np

DEFAULTS = (2.0, 5.0, 2.0, 0.25, 2.0)  # class_weight, l1_weight, giou_weight, alpha, gamma
ARGUMENTS = ("logits", "boxes", "gt_boxes", "gt_labels", "gt_count")


def problem(seed=0, images=2, queries=20, classes=5, rows=6, counts=None, kind="plain", labels=np.int64):
    """Arguments of the operator without attributes; ``kind`` names what is odd about it.

    About half of the queries lie near an object, as in training; rows past the count hold rubbish.
    """
    rng = np.random.default_rng(seed)
    centres, sides = rng.uniform(0.1, 0.9, (images, rows, 2)), rng.uniform(0.02, 0.4, (images, rows, 2))
    gt = np.concatenate([centres, sides], 2)
    gt_labels = rng.integers(0, max(classes, 1), (images, rows))
    counts = rng.integers(0, rows + 1, images) if counts is None else np.asarray(counts).reshape(images)
    boxes = np.concatenate([rng.random((images, queries, 2)), rng.uniform(0.02, 0.5, (images, queries, 2))], 2)
    if rows:
        near = gt[np.arange(images)[:, None], rng.integers(0, rows, (images, queries))]
        near = near * rng.uniform(0.9, 1.1, near.shape)
        boxes = np.where(rng.random((images, queries, 1)) < 0.5, near, boxes)
    logits = rng.normal(-3, 2, (images, queries, classes))
    arrays = dict(zip(ARGUMENTS, (logits, boxes, gt)))
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    arrays["gt_labels"], arrays["gt_count"] = gt_labels.astype(labels), counts.astype(labels)
    ODD.get(kind, lambda *_: None)(arrays, rng)
    for image, count in enumerate(counts.astype(int)):  # padding is never looked at
        arrays["gt_boxes"][image, count:] = np.nan if seed % 2 else 1e9
        arrays["gt_labels"][image, count:] = -7
    return tuple(arrays[key] for key in ARGUMENTS)


def _ties(arrays, rng):
    """Few distinct queries and objects, so that many costs are equal."""
    arrays["logits"][:] = np.round(arrays["logits"] / 4) * 4
    arrays["boxes"][:] = arrays["boxes"][:, :1]
    arrays["gt_boxes"][:, ::2] = arrays["gt_boxes"][:, :1]


def _equal(arrays, rng):
    """All costs are equal."""
    arrays["logits"][:] = 0
    arrays["boxes"][:], arrays["gt_boxes"][:] = [0.5, 0.5, 0.25, 0.25], [0.25, 0.5, 0.25, 0.5]


def _saturated(arrays, rng):
    values = np.array([0, -0.0, 15, 17.5, 90, 1e30, -15, -90, -100, -1e30, 1e-40], np.float32)
    arrays["logits"][:] = rng.choice(values, arrays["logits"].shape)


def _bad(arrays, rng):
    """Non-finite values everywhere."""
    for name, share in (("logits", 0.1), ("boxes", 0.05), ("gt_boxes", 0.05)):
        where = rng.random(arrays[name].shape) < share
        arrays[name][where] = rng.choice([np.nan, np.inf, -np.inf], where.sum())


def _hopeless(arrays, rng):
    """Most costs are not finite, so that some queries and objects have none."""
    where = rng.random(arrays["logits"].shape) < 0.85
    arrays["logits"][where] = rng.choice([np.nan, np.inf, -np.inf], where.sum())


def _degenerate(arrays, rng):
    """Empty, inverted and overflowing boxes on both sides."""
    arrays["boxes"][:, ::5, 2:] = 0
    arrays["boxes"][:, 1::5, 2] *= -1
    arrays["boxes"][:, 2::7] = [0.5, 0.5, 3e38, 3e38]
    arrays["boxes"][:, 3::7] = [3e38, -3e38, 1, 1]
    arrays["gt_boxes"][:, ::3, 2:] = 0
    arrays["gt_boxes"][:, 1::4, 3] *= -1
    arrays["gt_boxes"][:, 2::5] = [0.5, 0.5, 2e38, 1e30]


def _exact(arrays, rng):
    """Queries equal to objects."""
    images, queries = arrays["boxes"].shape[:2]
    rows = arrays["gt_boxes"].shape[1]
    arrays["boxes"][:] = arrays["gt_boxes"][np.arange(images)[:, None], rng.integers(0, rows, (images, queries))]


ODD = {
    "ties": _ties,
    "equal": _equal,
    "saturated": _saturated,
    "bad": _bad,
    "hopeless": _hopeless,
    "degenerate": _degenerate,
    "exact": _exact,
}
KINDS = ("plain", *ODD)


def matrices(seed=0, images=3, rows=9, columns=7, counts=None, kind="plain", dtype=np.float32):
    """Arguments of ``linear_sum_assignment``; columns past the count hold rubbish."""
    rng = np.random.default_rng(seed)
    cost = {
        "plain": lambda: rng.normal(0, 3, (images, rows, columns)),
        "integers": lambda: rng.integers(-4, 5, (images, rows, columns)),
        "equal": lambda: np.full((images, rows, columns), 1.5),
        "chain": lambda: np.multiply.outer(np.ones(images), np.outer(np.arange(rows) + 1, np.arange(columns) + 1)),
        "huge": lambda: rng.normal(0, 1, (images, rows, columns)) * (1e37 if dtype == np.float32 else 1e299),
        "holes": lambda: with_holes(rng, rng.integers(-4, 5, (images, rows, columns))),
        "hollow": lambda: np.stack([with_holes(rng, m) for m in rng.normal(0, 3, (images, rows, columns))]),
        "immense": lambda: with_holes(rng, rng.choice([-1, 1, 0.9, 1e-3], (images, rows, columns)) * TOP[dtype], 0.1),
    }[kind]().astype(dtype)  # fmt: skip
    counts = rng.integers(0, columns + 1, images) if counts is None else np.asarray(counts).reshape(images)
    for image, count in enumerate(counts.astype(int)):
        cost[image, :, count:] = np.nan if seed % 2 else -1e9
    return cost, counts.astype(np.int64)


TOP = {np.float32: 3.4e38, np.float64: 1.79e308}
MATRIX_KINDS = ("plain", "integers", "equal", "chain", "huge", "holes", "hollow", "immense")


def with_holes(rng, cost, share=None):
    """``cost`` in float64 with a share of its elements not finite, and sometimes whole rows and columns."""
    cost = cost.astype(np.float64)
    holes = rng.random(cost.shape) < (rng.choice([0, 0.1, 0.5, 0.9]) if share is None else share)
    for axis in (-2, -1):
        dead = rng.random(cost.shape[axis]) < rng.choice([0, 0, 0.2, 0.7])
        holes |= dead[:, None] if axis == -2 else dead
    cost[holes] = rng.choice([np.nan, np.inf, -np.inf], holes.sum())
    return cost


def remaining(cost):
    """Rows and columns of a matrix with a finite cost, and the costs among them, the largest finite for not finite."""
    rows = [i for i in range(cost.shape[0]) if np.isfinite(cost[i]).any()]
    columns = [j for j in range(cost.shape[1]) if np.isfinite(cost[:, j]).any()]
    rest = cost[rows][:, columns]
    return rows, columns, np.where(np.isfinite(rest), rest, max(rest[np.isfinite(rest)], default=0))


def published_cost(logits, boxes, gt, labels, class_weight, l1_weight, giou_weight, alpha, gamma):
    """[Q, M] float64 of one picture, as the reference of RT-DETR writes it."""
    logits, boxes, gt = (np.asarray(a, np.float64) for a in (logits, boxes, gt))
    p = 1 / (1 + np.exp(-logits[:, labels]))
    negative = (1 - alpha) * p**gamma * -np.log(1 - p + 1e-8)
    cls = alpha * (1 - p) ** gamma * -np.log(p + 1e-8) - negative
    l1 = np.abs(boxes[:, None] - gt[None]).sum(-1)
    a, b = (np.concatenate([v[:, :2] - v[:, 2:] / 2, v[:, :2] + v[:, 2:] / 2], 1) for v in (boxes, gt))
    inner = np.clip(np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]), 0, None)
    outer = np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2])
    inter, enclosing = inner.prod(-1), outer.prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None] - inter
    giou = inter / union - (enclosing - union) / enclosing
    return l1_weight * l1 + class_weight * cls - giou_weight * giou
