# SPDX-License-Identifier: Apache-2.0
"""Task-aligned label assignment (TOOD; YOLOv8 to YOLO26): which anchor learns which ground truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import reals, whole
from fastdet.ops._backend import Op
from fastdet.ops._numeric import exp_exact, log_exact, sin_cos_exact
from fastdet.ops._overlap import overlap_exact
from fastdet.ops.aligned_ota import Assignment

_INSIDE_MARGIN = np.float32(1e-9)  # a point is inside an edge that it is farther from than this
_OVERLAP_EPS = 1e-7


class TaskAlignedCost(NamedTuple):
    """Result of ``task_aligned_cost``. Where a row matches nothing: 0, 0, False, False."""

    metric: Any  # [B, A, M] float32, score^alpha overlap^beta, of every pair
    overlap: Any  # [B, A, M] float32, not below 0, of every pair
    inside: Any  # [B, A, M] bool, the anchor's point lies in the region of this ground truth
    chosen: Any  # [B, A, M] bool, one of the topk of this ground truth, before conflicts


def task_aligned_assign(
    scores: Any,
    boxes: Any,
    points: Any,
    gt_boxes: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    topk: int = 10,
    second_topk: int | None = None,
    alpha: float = 0.5,
    beta: float = 6.0,
    small_below: float = 0.0,
    small_size: float = 0.0,
    eps: float = 1e-9,
    iou_kind: str = "ciou",
    conflict: str = "overlap",
    target_score: str = "normalized",
) -> Assignment:
    """Assign anchors to ground truths by task alignment (TOOD, arXiv 2108.07755) as the YOLO family uses it.

    An anchor is a candidate of a ground truth if its point lies inside the box, each side shorter than ``small_below``
    widened to ``small_size`` about its centre. With overlap u = max(similarity of the boxes, 0) and s the score of the
    ground truth's class, the metric is s^alpha u^beta. Each ground truth takes its ``topk`` candidates of largest
    metric, among those whose metric and overlap are above 0. An anchor taken more than once goes to one ground truth by
    ``conflict``; with ``second_topk`` each keeps only so many of the anchors it now has. YOLOv8, v9, 11 and
    one-to-many heads: the defaults (v9: ``conflict="overlap_anywhere"``); one-to-one heads: topk 7, second_topk 1, or
    topk 1; YOLO26: ``small_below`` and ``small_size`` 16, the second stride.

    Args:
        scores: (B, A, C) class probabilities in [0, 1] (values outside are clamped); float32, float16 or bfloat16.
        boxes: (B, A, 4) decoded boxes x1, y1, x2, y2 in pixels; for ``"probiou"`` (B, A, 5) centre, sides, angle in
            radians; float32, float16 or bfloat16.
        points: (A, 2) float32, x and y of each anchor in pixels.
        gt_boxes: (B, M, 4 | 5) float32 in the format of boxes; rows past ``gt_count`` are padding and never read.
        gt_labels: (B, M) int32 or int64 in [0, C).
        gt_count: (B,) int32 or int64 in [0, M].
        topk, second_topk: 1 to 1024.
        alpha, beta: in [0, 64].
        small_below, small_size: pixels, finite and not negative.
        eps: added to the largest metric in the target score; finite and not negative.
        iou_kind: ``"ciou"``, ``"iou"``, or ``"probiou"`` of rotated boxes; 1e-7 is added to heights and divisors.
        conflict: ``"overlap"``: largest overlap of all ground truths whose candidate the anchor is;
            ``"overlap_anywhere"``: of all ground truths; ``"metric"``: largest metric of those whose candidate it is.
        target_score: ``"normalized"``: metric times the largest overlap over the largest metric of all anchors that
            the ground truth keeps; ``"metric"`` or ``"overlap"`` as they are.

    Returns:
        Assignment: matched_gt (B, A) int32, labels (B, A) int32, label_scores (B, A) float32 (the target score in the
        label's column), num_pos (B,) int32; an anchor without ground truth has -1, C and 0. Arrays are of the kind
        given.

    Ties go to the lower anchor index and to the lower ground-truth row. All arithmetic is float32. A pair with a
    non-finite score, box or point has metric 0; a ground truth with a non-finite number matches nothing.

    Raises:
        ValueError: shapes do not agree, or a label, count or attribute is out of range. TypeError: dtype not listed.
        On a CUDA device values are not looked at: counts are clamped, a label out of range matches nothing.

    Cost: O(A + pairs of ground truths and candidates) time, O(B (A + M topk)) memory. Gradients: none.
    """
    arrays = (scores, boxes, points, gt_boxes, gt_labels, gt_count)
    op = "task_aligned_assign"
    counts = (whole(op, "topk", topk), _second(op, second_topk))
    numbers = reals(op, alpha=alpha, beta=beta, small_below=small_below, small_size=small_size, eps=eps)
    words = (str(iou_kind), str(conflict), str(target_score))
    return Assignment(*TASK_ALIGNED_ASSIGN(*arrays, *counts, *numbers, *words))


def task_aligned_cost(
    scores: Any,
    boxes: Any,
    points: Any,
    gt_boxes: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    small_below: float = 0.0,
    small_size: float = 0.0,
    iou_kind: str = "ciou",
) -> TaskAlignedCost:
    """Metric, overlap, region and choice of every pair, to look at; arguments and errors of ``task_aligned_assign``.

    Returns:
        TaskAlignedCost: metric, overlap (B, A, M) float32, inside, chosen (B, A, M) bool. Memory is O(B A M);
        ``task_aligned_assign`` never builds these.
    """
    arrays = (scores, boxes, points, gt_boxes, gt_labels, gt_count)
    op = "task_aligned_cost"
    numbers = reals(op, alpha=alpha, beta=beta, small_below=small_below, small_size=small_size)
    attributes = (whole(op, "topk", topk), 0, *numbers, 0.0, str(iou_kind), "overlap", "normalized")
    return TaskAlignedCost(*TASK_ALIGNED_COST(*arrays, *attributes))


def _second(op: str, second_topk: int | None) -> int:
    """0 stands for none in the operator's schema, so a caller's own 0 is refused here."""
    if second_topk is None:
        return 0
    second = whole(op, "second_topk", second_topk)
    if not 1 <= second <= 1024:
        raise ValueError(f"{op}: second_topk must lie in [1, 1024] or be None, got {second}")
    return second


def task_aligned_assign_reference(
    scores: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    topk: int,
    second_topk: int,
    alpha: float,
    beta: float,
    small_below: float,
    small_size: float,
    eps: float,
    iou_kind: str,
    conflict: str,
    target_score: str,
) -> tuple[np.ndarray, ...]:
    """The rule of ``task_aligned_assign`` in NumPy, with the same bits; the fields of ``Assignment`` in order."""
    batch, num_anchors, num_classes = scores.shape
    matched = np.full((batch, num_anchors), -1, np.int32)
    labels = np.full((batch, num_anchors), num_classes, np.int32)
    label_scores = np.zeros((batch, num_anchors), np.float32)
    rule = (topk, alpha, beta, small_below, small_size, iou_kind)
    for b in range(batch):
        rows, metric, overlap, inside, chosen = _pairs(scores, boxes, points, gt_boxes, gt_labels, gt_count, b, rule)
        if len(rows) == 0:
            continue
        value = metric if conflict == "metric" else overlap
        allowed = inside | (conflict == "overlap_anywhere")
        first = np.where(allowed, value, np.float32(-1)).argmax(1)  # equal values: the lower row
        takers = chosen.sum(1)
        owner = np.where(takers > 1, first, np.where(takers == 1, chosen.argmax(1), -1))  # [A] into rows
        for g, row in enumerate(rows):
            held = np.nonzero(owner == g)[0]
            if second_topk > 0:  # equal metrics: the lower anchor
                held = held[np.argsort(-metric[held, g], kind="stable")[:second_topk]]
            if len(held) == 0:
                continue
            matched[b, held], labels[b, held] = row, gt_labels[b, row]
            own, own_overlap = metric[held, g], overlap[held, g]
            label_scores[b, held] = _target_scores(target_score, own, own_overlap, np.float32(eps))
    return matched, labels, label_scores, (matched >= 0).sum(axis=1).astype(np.int32)


def task_aligned_cost_reference(
    scores: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    topk: int,
    second_topk: int,
    alpha: float,
    beta: float,
    small_below: float,
    small_size: float,
    eps: float,
    iou_kind: str,
    conflict: str,
    target_score: str,
) -> tuple[np.ndarray, ...]:
    """The rule of ``task_aligned_cost`` in NumPy, with the same bits; the fields of ``TaskAlignedCost`` in order."""
    shape = (*scores.shape[:2], gt_boxes.shape[1])
    metric, overlap = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    inside, chosen = np.zeros(shape, bool), np.zeros(shape, bool)
    rule = (topk, alpha, beta, small_below, small_size, iou_kind)
    for b in range(shape[0]):
        rows, *fields = _pairs(scores, boxes, points, gt_boxes, gt_labels, gt_count, b, rule)
        for every, field in zip((metric, overlap, inside, chosen), fields):
            every[b][:, rows] = field
    return metric, overlap, inside, chosen


def _pairs(scores, boxes, points, gt_boxes, gt_labels, gt_count, b, rule) -> tuple[np.ndarray, ...]:
    """Usable rows [G] of one image, and metric, overlap, inside, chosen [A, G] with them."""
    topk, alpha, beta, small_below, small_size, iou_kind = rule
    gt, gt_label = gt_boxes[b, : int(gt_count[b])], gt_labels[b, : int(gt_count[b])]
    usable = np.isfinite(gt).all(1) & (gt_label >= 0) & (gt_label < scores.shape[2])
    if iou_kind == "probiou":
        usable &= np.abs(gt[:, 4]) <= 1e6
    rows = np.nonzero(usable)[0]
    gt = gt[rows]
    inside = _inside(points, gt, np.float32(small_below), np.float32(small_size), iou_kind == "probiou")
    overlap = overlap_exact(iou_kind, gt[None], boxes[b].astype(np.float32)[:, None], _OVERLAP_EPS)
    overlap = np.where(overlap > 0, overlap, np.float32(0))
    score = scores[b].astype(np.float32)[:, gt_label[rows]]
    term = np.where(score > 0, np.minimum(score, np.float32(1)), np.float32(0))
    metric = np.where(np.isfinite(score), _power(term, alpha) * _power(overlap, beta), np.float32(0))
    chosen = np.zeros(metric.shape, bool)
    candidate = inside & (metric > 0) & (overlap > 0)
    for g in range(len(rows)):  # equal metrics: the lower anchor
        order = np.argsort(-metric[:, g], kind="stable")
        chosen[order[candidate[order, g]][:topk], g] = True
    return rows, metric, overlap, inside, chosen


def _inside(points, gt, small_below, small_size, rotated) -> np.ndarray:
    """[A, G]: the point lies in the box, small sides widened; the edges belong to a rotated box only."""
    half = np.float32(0.5)
    x, y = points[:, :1], points[:, 1:]
    with np.errstate(over="ignore", invalid="ignore"):
        if rotated:
            sine, cosine = sin_cos_exact(gt[:, 4])
            half_w, half_h = (np.where(gt[:, i] < small_below, small_size, gt[:, i]) * half for i in (2, 3))
            dx, dy = x - gt[:, 0], y - gt[:, 1]
            along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
            return (np.abs(along) <= half_w) & (np.abs(across) <= half_h)
        sides = []
        for low, high in ((gt[:, 0], gt[:, 2]), (gt[:, 1], gt[:, 3])):
            small, middle = high - low < small_below, (low + high) * half
            reach = small_size * half
            sides.append((np.where(small, middle - reach, low), np.where(small, middle + reach, high)))
        (x1, x2), (y1, y2) = sides
        nearest = [x - x1, y - y1, x2 - x, y2 - y]
    return np.logical_and.reduce([side > _INSIDE_MARGIN for side in nearest])


def _power(x: np.ndarray, exponent: float) -> np.ndarray:
    """x^exponent of float32 x in [0, 1] by squaring, as ``power_of`` in csrc/ops/task_aligned; 0^0 is 1."""
    whole, fraction = int(exponent), np.float32(exponent - int(exponent))
    if fraction == 1:
        whole, fraction = whole + 1, np.float32(0)
    if fraction == 0:
        power = np.ones_like(x)
    elif fraction == np.float32(0.5):
        power = np.sqrt(x)
    else:
        power = exp_exact(fraction * log_exact(x * np.float32(4294967296.0), 32))
        power = np.where(x > 0, power, np.float32(0))
    with np.errstate(under="ignore"):
        while whole > 0:
            power = power * x if whole & 1 else power
            x = x * x
            whole >>= 1
    return power


def _target_scores(rule: str, metric: np.ndarray, overlap: np.ndarray, eps: np.float32) -> np.ndarray:
    """Of all anchors that one ground truth keeps."""
    if rule != "normalized":
        return metric if rule == "metric" else overlap
    divisor = metric.max() + eps
    return metric * overlap.max() / divisor if divisor > 0 else np.zeros_like(metric)


def _fake_assignment(scores: Any, *_: Any) -> tuple[Any, ...]:
    import torch

    b, a = scores.shape[:2]
    return (
        scores.new_empty((b, a), dtype=torch.int32),
        scores.new_empty((b, a), dtype=torch.int32),
        scores.new_empty((b, a), dtype=torch.float32),
        scores.new_empty((b,), dtype=torch.int32),
    )


def _fake_cost(scores: Any, boxes: Any, points: Any, gt_boxes: Any, *_: Any) -> tuple[Any, ...]:
    import torch

    shape = (scores.shape[0], scores.shape[1], gt_boxes.shape[1])
    return tuple(scores.new_empty(shape, dtype=d) for d in (torch.float32, torch.float32, torch.bool, torch.bool))


_ARGUMENTS = (
    "Tensor scores, Tensor boxes, Tensor points, Tensor gt_boxes, Tensor gt_labels, Tensor gt_count, "
    "int topk, int second_topk, float alpha, float beta, float small_below, float small_size, float eps, "
    "str iou_kind, str conflict, str target_score"
)
TASK_ALIGNED_ASSIGN = Op(
    name="task_aligned_assign",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    native=_core.task_aligned_assign,
    reference=task_aligned_assign_reference,
    fake=_fake_assignment,
    drop_grad=True,
)
TASK_ALIGNED_COST = Op(
    name="task_aligned_cost",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    native=_core.task_aligned_cost,
    reference=task_aligned_cost_reference,
    fake=_fake_cost,
    drop_grad=True,
)
