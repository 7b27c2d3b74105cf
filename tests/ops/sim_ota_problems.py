# SPDX-License-Identifier: Apache-2.0
"""Problems for the SimOTA tests and benchmark, and the published rule over all classes in float64."""

from __future__ import annotations

import numpy as np
from aligned_ota_problems import problem as corner_problem

DEFAULTS = (2.5, 10, 1.0, 3.0)  # center_radius, topk, class_weight, iou_weight
KINDS = ("plain", "tiny", "small", "large", "ties", "twins", "saturated", "bad", "degenerate", "far", "exact")


def problem(seed=0, listed=False, entries=40, certain=False, **options):
    """Arguments of the operator without attributes: windows, or a list of candidates with repetitions and gaps.

    ``certain``: the objectness of half of the priors is 1: where a logit is large too, the score is exactly 1.
    """
    scores, boxes, points, strides, gt, labels, count = corner_problem(seed, **options)
    rng = np.random.default_rng(seed + 1000)
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = (np.log(scores) - np.log1p(-scores)).astype(np.float32)
    if options.get("kind") != "bad":  # probabilities of exactly 0 and 1 become large logits
        logits = np.nan_to_num(logits, nan=-90.0, posinf=90.0, neginf=-90.0)
    objectness = rng.normal(0, 2, scores.shape[:2]).astype(np.float32)
    if options.get("kind") == "ties":
        objectness[:] = 0.5
    if certain:
        objectness[rng.random(objectness.shape) < 0.5] = 90.0
    if options.get("kind") == "bad":
        objectness[rng.random(objectness.shape) < 0.05] = np.nan
    front = (logits, objectness, boxes, gt, labels, count)
    if not listed:
        return (*front, points, strides, None)
    candidates = rng.integers(0, max(scores.shape[1], 1), (scores.shape[0], entries))
    candidates[rng.random(candidates.shape) < 0.2] = -1
    candidates[:, entries // 2 :] = candidates[:, : entries - entries // 2]  # every prior twice
    return (*front, None, None, candidates.astype(labels.dtype))


def published_costs(logits, objectness, boxes, gt, labels, class_weight, iou_weight):
    """Cost and IoU [n, M] of every candidate and ground truth of one image: [n, C] cross-entropy, in float64."""
    logits, objectness, b, gt = (np.asarray(a, np.float64) for a in (logits, objectness, boxes[:, None], gt))
    p = np.sqrt(1 / (1 + np.exp(-logits)) / (1 + np.exp(-objectness[:, None])))  # [n, C]
    entropy = -np.log1p(-p).sum(1, keepdims=True) + (np.log1p(-p) - np.log(p))[:, labels]
    side = np.clip(np.minimum(b[..., 2:], gt[:, 2:]) - np.maximum(b[..., :2], gt[:, :2]), 0, None)
    inter = side.prod(-1)
    iou = inter / ((b[..., 2:] - b[..., :2]).prod(-1) + (gt[:, 2:] - gt[:, :2]).prod(-1) - inter)
    return class_weight * entropy - iou_weight * np.log(iou + 1e-8), iou


def published_assignment(arguments, center_radius, topk, class_weight, iou_weight):
    """Matched ground truth and IoU per candidate of one image (arguments without the batch), by the published rule."""
    logits, objectness, boxes, gt, labels, count, points, strides, candidates = arguments
    gt, labels = gt[:count], labels[:count]
    length = len(logits) if candidates is None else len(candidates)
    matched, matched_iou = np.full(length, -1), np.zeros(length)
    if candidates is None:
        x, y, reach = points[:, :1], points[:, 1:], center_radius * strides[:, None]
        in_box = (x > gt[:, 0]) & (y > gt[:, 1]) & (gt[:, 2] > x) & (gt[:, 3] > y)
        centre = (gt[:, :2] + gt[:, 2:]) / 2
        in_centre = (np.abs(x - centre[:, 0]) < reach) & (np.abs(y - centre[:, 1]) < reach)
        valid = np.nonzero((in_box | in_centre).any(1))[0]
        source, outside = valid, ~(in_box & in_centre)[valid]
    else:
        valid = np.nonzero(candidates >= 0)[0]
        source, outside = candidates[valid], np.zeros((len(valid), count), bool)
    if count == 0 or len(valid) == 0:
        return matched, matched_iou
    cost, iou = published_costs(logits[source], objectness[source], boxes[source], gt, labels, class_weight, iou_weight)
    cost = cost + 1e5 * outside
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
