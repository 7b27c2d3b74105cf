# SPDX-License-Identifier: Apache-2.0
"""Problems for the task-aligned assignment's tests and benchmark, and the rule over all pairs in float64."""

from __future__ import annotations

import numpy as np
from aligned_ota_problems import problem as corner_problem

# topk, second_topk, alpha, beta, small_below, small_size, eps, iou_kind, conflict, target_score
DEFAULTS = (10, 0, 0.5, 6.0, 0.0, 0.0, 1e-9, "ciou", "overlap", "normalized")
RULES = {
    "default": DEFAULTS,
    "small": (10, 0, 0.5, 6.0, 16.0, 16.0, 1e-9, "ciou", "overlap", "normalized"),
    "one-to-one": (7, 1, 0.5, 6.0, 16.0, 16.0, 1e-9, "ciou", "overlap", "normalized"),
    "second": (13, 4, 1.0, 6.0, 8.0, 16.0, 1e-9, "ciou", "overlap", "normalized"),
    "anywhere": (10, 0, 0.5, 6.0, 0.0, 0.0, 1e-9, "ciou", "overlap_anywhere", "normalized"),
    "metric": (3, 0, 1.0, 2.5, 0.0, 0.0, 0.0, "iou", "metric", "metric"),
    "overlap": (1, 0, 0.3, 3.7, 0.0, 0.0, 1e-9, "iou", "overlap", "overlap"),
    "anything": (25, 2, 0.0, 0.0, 16.0, 32.0, 1e-9, "iou", "overlap_anywhere", "overlap"),
    "rotated": (10, 0, 0.5, 6.0, 16.0, 16.0, 1e-9, "probiou", "overlap", "normalized"),
    "rotated-anywhere": (12, 1, 0.5, 6.0, 0.0, 0.0, 1e-9, "probiou", "overlap_anywhere", "normalized"),
    "rotated-metric": (4, 3, 1.0, 4.0, 16.0, 16.0, 1e-9, "probiou", "metric", "normalized"),
}
KINDS = ("plain", "tiny", "small", "large", "ties", "twins", "saturated", "bad", "degenerate", "far", "exact")


def problem(seed=0, rule="default", **options):
    """Arguments without attributes. Points are cell centres; rotated rules get centre, sides and an angle."""
    scores, boxes, points, strides, gt, labels, count = corner_problem(seed, **options)
    with np.errstate(invalid="ignore"):
        points = points + strides[:, None] * np.float32(0.5)
    if not rule.startswith("rotated"):
        return scores, boxes, points, gt, labels, count
    rng = np.random.default_rng(seed + 1000)
    gt_angles = rng.uniform(-0.8, 2.4, gt.shape[:2])
    angles = rng.uniform(-0.8, 2.4, boxes.shape[:2])
    if gt.shape[1]:  # most predictions point nearly as some ground truth does
        near = gt_angles[np.arange(len(gt))[:, None], rng.integers(0, gt.shape[1], angles.shape)]
        angles = np.where(rng.random(angles.shape) < 0.7, near + rng.normal(0, 0.05, angles.shape), angles)
    if options.get("kind") in ("ties", "twins", "exact"):
        gt_angles, angles = np.zeros_like(gt_angles), np.zeros_like(angles)
    if options.get("kind") == "bad":
        angles[rng.random(angles.shape) < 0.05] = np.nan
        gt_angles[rng.random(gt_angles.shape) < 0.1] = 3e7
    return scores, _rotated(boxes, angles), points, _rotated(gt, gt_angles), labels, count


def _rotated(corners, angles):
    with np.errstate(all="ignore"):
        sides = corners[..., 2:] - corners[..., :2]
        centres = (corners[..., :2] + corners[..., 2:]) / 2
        return np.concatenate([centres, sides, angles[..., None]], -1).astype(np.float32)


def published_assignment(scores, boxes, points, gt, labels, topk, second_topk, small):
    """Ground truth per anchor, -1 for none, and target scores [A, C] of one image: CIoU in float64, all pairs."""
    scores, boxes, points, gt = (np.asarray(a, np.float64) for a in (scores, boxes, points, gt))
    matched, target = np.full(len(points), -1), np.zeros(scores.shape)
    if len(gt) == 0:
        return matched, target
    centre, side = (gt[:, :2] + gt[:, 2:]) / 2, gt[:, 2:] - gt[:, :2]
    wide = np.where(side < small, small, side)
    low, high = (
        np.where(side < small, centre - wide / 2, gt[:, :2]),
        np.where(side < small, centre + wide / 2, gt[:, 2:]),
    )
    inside = ((points[:, None] - low > 1e-9) & (high - points[:, None] > 1e-9)).all(-1)
    overlap = np.maximum(_ciou(gt[None], boxes[:, None]), 0) * inside
    metric = scores[:, labels] ** 0.5 * overlap**6
    chosen = np.zeros(metric.shape, bool)
    for g in range(len(gt)):
        chosen[np.argsort(-metric[:, g], kind="stable")[:topk], g] = True
    chosen &= inside & (metric > 0)
    several = chosen.sum(1) > 1
    chosen[several] = np.arange(len(gt)) == overlap[several].argmax(1)[:, None]
    if second_topk:
        for g in range(len(gt)):
            own = np.where(chosen[:, g], metric[:, g], -1.0)
            chosen[np.argsort(-own, kind="stable")[second_topk:], g] = False
    held = chosen.any(1)
    matched[held] = chosen[held].argmax(1)
    best = (metric * chosen).max(0), (overlap * chosen).max(0)
    value = (metric * chosen * best[1] / (best[0] + 1e-9)).max(1)
    target[held, labels[matched[held]]] = value[held]
    return matched, target


def _ciou(a, b):
    w1, h1 = a[..., 2] - a[..., 0], a[..., 3] - a[..., 1] + 1e-7
    w2, h2 = b[..., 2] - b[..., 0], b[..., 3] - b[..., 1] + 1e-7
    inter = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    iou = inter / (w1 * h1 + w2 * h2 - inter + 1e-7)
    outer = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    between = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]) / 2
    v = 4 / np.pi**2 * (np.arctan(w2 / h2) - np.arctan(w1 / h1)) ** 2
    return iou - (between**2).sum(-1) / ((outer**2).sum(-1) + 1e-7) - v * v / (1 - iou + v + 1e-7)
