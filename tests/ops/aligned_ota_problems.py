# SPDX-License-Identifier: Apache-2.0
"""Problems for the AlignedOTA tests and benchmark, and the published formula over all classes in float64."""

from __future__ import annotations

import numpy as np

ARGUMENTS = ("scores", "boxes", "points", "strides", "gt_boxes", "gt_labels", "gt_count")
DEFAULTS = (2.5, 10, 1.0, 3.0)  # center_radius, topk, class_weight, iou_weight


def grid(height, width, strides=(8, 16, 32)):
    """Prior points at cell corners of every level, and their strides."""
    points, steps = [np.zeros((0, 2), np.float32)], [np.zeros(0, np.float32)]
    for stride in strides:
        y, x = np.mgrid[0 : height // stride, 0 : width // stride]
        points.append(np.stack([x.ravel(), y.ravel()], 1).astype(np.float32) * stride)
        steps.append(np.full(x.size, stride, np.float32))
    return np.concatenate(points), np.concatenate(steps)


def problem(seed=0, images=2, size=(96, 128), classes=5, rows=6, counts=None, kind="plain", labels=np.int64):
    """Arguments of the operator without attributes; ``kind`` names what is odd about it.

    About half of the decoded boxes lie near a ground truth, as in training; rows past the count hold rubbish.
    """
    rng = np.random.default_rng(seed)
    points, strides = grid(*size)
    priors = len(points)
    extent = np.array([size[1], size[0]])
    sides = rng.uniform(0.05, 0.6, (images, rows, 2)) * extent
    centres = rng.uniform(0, 1, (images, rows, 2)) * extent
    if kind == "tiny":
        sides = rng.uniform(0.5, 7, (images, rows, 2))
    if kind == "small":
        sides = np.exp(rng.uniform(np.log(8), np.log(64), (images, rows, 2)))
    if kind == "large":
        sides = np.full((images, rows, 2), 1.2) * extent
    gt = np.concatenate([centres - sides / 2, centres + sides / 2], 2)
    gt_labels = rng.integers(0, max(classes, 1), (images, rows))
    if counts is None:
        counts = rng.integers(0, rows + 1, images) if rows else np.zeros(images)
    counts = np.asarray(counts).reshape(images)

    half = rng.uniform(4, 5 + 0.3 * extent.max(), (images, priors, 2))
    boxes = np.concatenate([points - half, points + half], 2)
    if rows:
        near = gt[np.arange(images)[:, None], rng.integers(0, rows, (images, priors))]
        jitter = rng.normal(0, 0.1, (images, priors, 4)) * np.tile(near[..., 2:] - near[..., :2], 2)
        boxes = np.where(rng.random((images, priors, 1)) < 0.5, near + jitter, boxes)
    scores = rng.random((images, priors, classes)) ** 3
    arrays = {"scores": scores, "boxes": boxes, "points": points, "strides": strides, "gt_boxes": gt}
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    arrays["gt_labels"], arrays["gt_count"] = gt_labels.astype(labels), counts.astype(labels)
    ODD.get(kind, lambda *_: None)(arrays, rng)
    for image, count in enumerate(counts.astype(int)):  # padding is never looked at
        arrays["gt_boxes"][image, count:] = np.nan if seed % 2 else 1e9
        arrays["gt_labels"][image, count:] = -7
    return tuple(arrays[key] for key in ARGUMENTS)


def _ties(arrays, rng):
    """Few distinct scores and boxes, so that costs and IoUs are equal in many places."""
    arrays["scores"][:] = np.round(arrays["scores"] * 2) / 2
    arrays["boxes"][:] = arrays["boxes"][:, :1]
    arrays["gt_boxes"][:, ::2] = arrays["gt_boxes"][:, :1]


def _twins(arrays, rng):
    """All ground truths of an image are the same one."""
    arrays["gt_boxes"][:] = arrays["gt_boxes"][:, :1]
    arrays["gt_labels"][:] = arrays["gt_labels"][:, :1]


def _saturated(arrays, rng):
    """Scores of exactly 0 and 1, next to them, subnormal, and outside."""
    values = np.array([0, 1, 1 - 2.0**-24, 2.0**-24, 1e-40, 1e-45, -0.5, 1.5, 0.5, -0.0], np.float32)
    arrays["scores"][:] = rng.choice(values, arrays["scores"].shape)


def _bad(arrays, rng):
    """Non-finite values everywhere, each alone in its box, row or point."""
    for name, share in (("scores", 0.02), ("boxes", 0.05), ("gt_boxes", 0.1), ("points", 0.03), ("strides", 0.03)):
        array = arrays[name]
        where = rng.random(array.shape) < share
        array[where] = rng.choice([np.nan, np.inf, -np.inf], where.sum())


def _degenerate(arrays, rng):
    """Inverted, empty and overflowing boxes on both sides."""
    arrays["boxes"][:, ::5] = arrays["boxes"][:, ::5][..., [2, 3, 0, 1]]
    arrays["boxes"][:, 1::5, 2:] = arrays["boxes"][:, 1::5, :2]
    arrays["boxes"][:, 2::7] = np.array([-3e38, -3e38, 3e38, 3e38], np.float32)
    arrays["gt_boxes"][:, ::3] = arrays["gt_boxes"][:, ::3][..., [2, 3, 0, 1]]
    arrays["gt_boxes"][:, 1::4] = np.array([-1e30, -2e30, 1e30, 2e30], np.float32)


def _far(arrays, rng):
    """No ground truth near any prior."""
    arrays["gt_boxes"] += 1e5


def _exact(arrays, rng):
    """Decoded boxes equal to ground truths: IoU 1, sums of IoUs that are whole numbers."""
    images, priors = arrays["boxes"].shape[:2]
    rows = arrays["gt_boxes"].shape[1]
    arrays["boxes"][:] = arrays["gt_boxes"][np.arange(images)[:, None], rng.integers(0, rows, (images, priors))]


ODD = {
    "ties": _ties,
    "twins": _twins,
    "saturated": _saturated,
    "bad": _bad,
    "degenerate": _degenerate,
    "far": _far,
    "exact": _exact,
}
KINDS = ("plain", "tiny", "small", "large", *ODD)


def published_costs(scores, boxes, points, strides, gt, labels, center_radius, class_weight, iou_weight):
    """Cost and IoU of valid priors and ground truths of one image: [n, M, C] binary cross-entropy, in float64."""
    scores, boxes, gt = (np.asarray(a, np.float64) for a in (scores, boxes, gt))
    x, y, reach = points[:, :1], points[:, 1:], center_radius * strides[:, None]
    in_box = np.min([x - gt[:, 0], y - gt[:, 1], gt[:, 2] - x, gt[:, 3] - y], axis=0) > 0
    centre = (gt[:, :2] + gt[:, 2:]) / 2
    in_centre = (np.abs(x - centre[:, 0]) < reach) & (np.abs(y - centre[:, 1]) < reach)
    valid = np.nonzero((in_box | in_centre).any(1))[0]
    p, b = scores[valid][:, None, :], boxes[valid][:, None, :]
    side = np.clip(np.minimum(b[..., 2:], gt[:, 2:]) - np.maximum(b[..., :2], gt[:, :2]), 0, None)
    inter = side.prod(-1)
    union = (b[..., 2:] - b[..., :2]).prod(-1) + (gt[:, 2:] - gt[:, :2]).prod(-1) - inter
    iou = inter / np.maximum(union, 1e-6)
    target = np.zeros((*iou.shape, scores.shape[1]))
    np.put_along_axis(target, np.broadcast_to(labels[None, :, None], (*iou.shape, 1)), iou[..., None], 2)
    with np.errstate(divide="ignore"):
        entropy = -(target * np.maximum(np.log(p), -100) + (1 - target) * np.maximum(np.log1p(-p), -100))
    class_cost = (entropy * np.abs(target - p) ** 2).sum(-1)
    cost = class_weight * class_cost + iou_weight * -np.log(iou + 1e-7)
    return valid, cost, iou, (in_box & in_centre)[valid]


def published_assignment(image, center_radius, topk, class_weight, iou_weight):
    """Matched ground truth and IoU per prior of one image (arguments without the batch), by the published rule."""
    *arrays, count = image
    *priors, gt, labels = arrays
    gt, labels = gt[:count], labels[:count]
    matched, matched_iou = np.full(len(priors[0]), -1), np.zeros(len(priors[0]))
    if count == 0:
        return matched, matched_iou
    valid, cost, iou, inside = published_costs(*priors, gt, labels, center_radius, class_weight, iou_weight)
    if len(valid) == 0:
        return matched, matched_iou
    cost = cost + 1e8 * ~inside
    k = np.maximum(np.sort(iou, axis=0)[::-1][:topk].sum(0).astype(int), 1)
    takes = np.zeros(cost.shape, bool)
    for g in range(count):
        takes[np.argsort(cost[:, g], kind="stable")[: k[g]], g] = True
    takers = takes.sum(1)
    winner = np.where(takers > 1, cost.argmin(1), takes.argmax(1))
    positive = takers > 0
    matched[valid[positive]] = winner[positive]
    matched_iou[valid[positive]] = iou[positive, winner[positive]]
    return matched, matched_iou
