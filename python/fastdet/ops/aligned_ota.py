# SPDX-License-Identifier: Apache-2.0
"""AlignedOTA label assignment (DAMO-YOLO): which prior learns which ground truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real, whole
from fastdet.ops._backend import Op

_MIN_UNION = np.float32(1e-6)  # as the reference of the paper clamps the union
_IOU_OFFSET = np.float32(1e-7)  # inside the logarithm of the IoU cost
_MIN_LOG = np.float32(-100.0)  # logarithms of probabilities are clamped here, as binary cross-entropy does
_LANES = 8  # class sums are made of this many interleaved partial sums


class Assignment(NamedTuple):
    """Result of the assigners of priors: ``aligned_ota_assign``, ``sim_ota_assign``, ``task_aligned_assign``."""

    matched_gt: Any  # [B, A] int32, row of the ground truth, -1 = background
    labels: Any  # [B, A] int32, class of the ground truth, C = background
    label_scores: Any  # [B, A] float32, IoU with the ground truth (or the target score), 0 = background
    num_pos: Any  # [B] int32, priors that are not background


class AssignmentCost(NamedTuple):
    """Result of ``aligned_ota_cost``. Where a prior is not valid or a row matches nothing: inf, 0, False, 0."""

    cost: Any  # [B, A, M] float32, without the penalty of pairs that are not inside
    iou: Any  # [B, A, M] float32
    inside: Any  # [B, A, M] bool, prior in the box and in the centre window of this ground truth
    valid: Any  # [B, A] bool, prior in the box or the centre window of any ground truth
    dynamic_k: Any  # [B, M] int32, priors that the ground truth asks for


def aligned_ota_assign(
    scores: Any,
    boxes: Any,
    points: Any,
    strides: Any,
    gt_boxes: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    center_radius: float = 2.5,
    topk: int = 10,
    class_weight: float = 1.0,
    iou_weight: float = 3.0,
) -> Assignment:
    """Assign priors to ground truths by the AlignedOTA rule of DAMO-YOLO (arXiv 2211.15444).

    A prior is valid when its point lies strictly inside a ground-truth box or closer than ``center_radius`` strides
    (larger of the two axes) to its centre. The cost of a pair is ``class_weight`` times the quality focal loss of all
    classes with the pair's IoU as target, plus ``iou_weight * -log(IoU + 1e-7)``; pairs that are not inside both
    regions come after all that are. Each ground truth takes its k cheapest valid priors, k being the truncated sum of
    its ``topk`` largest IoUs, at least 1. A prior taken more than once goes to its cheapest ground truth of all.

    Args:
        scores: (B, A, C) class probabilities in [0, 1] (values outside are clamped); float32, float16 or bfloat16.
        boxes: (B, A, 4) decoded boxes x1, y1, x2, y2 in pixels; float32, float16 or bfloat16.
        points: (A, 2) float32, x and y of each prior in pixels.
        strides: (A,) float32, pixels.
        gt_boxes: (B, M, 4) float32 corners in pixels; rows past ``gt_count`` are padding and never read.
        gt_labels: (B, M) int32 or int64 in [0, C).
        gt_count: (B,) int32 or int64 in [0, M].
        center_radius: half side of the centre window in strides.
        topk: how many IoUs are summed for k; 1 to 1024.
        class_weight, iou_weight: finite and not negative.

    Returns:
        Assignment: matched_gt (B, A) int32, labels (B, A) int32, label_scores (B, A) float32, num_pos (B,) int32; a
        prior without ground truth has -1, C and 0. Arrays are of the kind given.

    Ties go to the lower prior index and to the lower ground-truth row. All arithmetic is float32 (the sum over classes
    and the sum of IoUs float64). A prior with a non-finite score, box, point or stride is never valid; a ground truth
    with a non-finite coordinate matches nothing; neither changes the others. Inverted boxes have no area.

    Raises:
        ValueError: shapes do not agree, or a label, count or attribute is out of range. TypeError: dtype not listed.
        On a CUDA device values are not looked at: counts are clamped, a label out of range matches nothing.

    Cost: O(A C + sum over pairs of valid priors and ground truths) time, O(A + M topk) memory. Gradients: none.
    """
    arrays = (scores, boxes, points, strides, gt_boxes, gt_labels, gt_count)
    attributes = _numbers("aligned_ota_assign", center_radius, topk, class_weight, iou_weight)
    return Assignment(*ALIGNED_OTA_ASSIGN(*arrays, *attributes))


def aligned_ota_cost(
    scores: Any,
    boxes: Any,
    points: Any,
    strides: Any,
    gt_boxes: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    center_radius: float = 2.5,
    topk: int = 10,
    class_weight: float = 1.0,
    iou_weight: float = 3.0,
) -> AssignmentCost:
    """Costs, IoUs, windows and k of every pair, for inspection; arguments and errors of ``aligned_ota_assign``.

    Returns:
        AssignmentCost: cost (B, A, M) float32, iou (B, A, M) float32, inside (B, A, M) bool, valid (B, A) bool,
        dynamic_k (B, M) int32. Memory is O(B A M); ``aligned_ota_assign`` never builds these.
    """
    arrays = (scores, boxes, points, strides, gt_boxes, gt_labels, gt_count)
    attributes = _numbers("aligned_ota_cost", center_radius, topk, class_weight, iou_weight)
    return AssignmentCost(*ALIGNED_OTA_COST(*arrays, *attributes))


def _numbers(
    op: str, center_radius: Any, topk: Any, class_weight: Any, iou_weight: Any
) -> tuple[float, int, float, float]:
    """Attributes of the assigners by dynamic k, in the order of their schemas."""
    weights = real(op, "class_weight", class_weight), real(op, "iou_weight", iou_weight)
    return real(op, "center_radius", center_radius), whole(op, "topk", topk), *weights


def aligned_ota_assign_reference(
    scores: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
    strides: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    center_radius: float,
    topk: int,
    class_weight: float,
    iou_weight: float,
) -> tuple[np.ndarray, ...]:
    """The rule of ``aligned_ota_assign`` in NumPy, with the same bits; the fields of ``Assignment`` in order."""
    batch, num_priors, num_classes = scores.shape
    matched = np.full((batch, num_priors), -1, np.int32)
    labels = np.full((batch, num_priors), num_classes, np.int32)
    label_scores = np.zeros((batch, num_priors), np.float32)
    for b in range(batch):
        rows = _usable_rows(gt_boxes[b], gt_labels[b], gt_count[b], num_classes)
        pairs = _pairs(
            scores[b],
            boxes[b],
            points,
            strides,
            gt_boxes[b, rows],
            gt_labels[b, rows],
            center_radius,
            topk,
            class_weight,
            iou_weight,
        )
        taken = np.zeros(pairs.cost.shape, bool)  # [n valid, G]
        for g in range(len(rows)):  # lexsort: last key first; equal keys keep the order of priors
            order = np.lexsort((pairs.cost[:, g], ~pairs.inside[:, g]))
            taken[order[: pairs.dynamic_k[g]], g] = True
        for i in np.nonzero(taken.any(axis=1))[0]:
            best = np.lexsort((pairs.cost[i], ~pairs.inside[i]))[0] if taken[i].sum() > 1 else np.argmax(taken[i])
            a = pairs.priors[i]
            matched[b, a], labels[b, a] = rows[best], gt_labels[b, rows[best]]
            label_scores[b, a] = pairs.iou[i, best]
    return matched, labels, label_scores, (matched >= 0).sum(axis=1).astype(np.int32)


def aligned_ota_cost_reference(
    scores: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
    strides: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    center_radius: float,
    topk: int,
    class_weight: float,
    iou_weight: float,
) -> tuple[np.ndarray, ...]:
    """The rule of ``aligned_ota_cost`` in NumPy, with the same bits; the fields of ``AssignmentCost`` in order."""
    batch, num_priors, num_classes = scores.shape
    shape = (batch, num_priors, gt_boxes.shape[1])
    cost, iou = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
    inside, valid = np.zeros(shape, bool), np.zeros(shape[:2], bool)
    dynamic_k = np.zeros((batch, shape[2]), np.int32)
    for b in range(batch):
        rows = _usable_rows(gt_boxes[b], gt_labels[b], gt_count[b], num_classes)
        pairs = _pairs(
            scores[b],
            boxes[b],
            points,
            strides,
            gt_boxes[b, rows],
            gt_labels[b, rows],
            center_radius,
            topk,
            class_weight,
            iou_weight,
        )
        at = np.ix_(pairs.priors, rows)
        cost[b][at], iou[b][at], inside[b][at] = pairs.cost, pairs.iou, pairs.inside
        valid[b, pairs.priors] = True
        dynamic_k[b, rows] = pairs.dynamic_k
    return cost, iou, inside, valid, dynamic_k


class _Pairs(NamedTuple):
    priors: np.ndarray  # [n] the valid ones, rising
    cost: np.ndarray  # [n, G]
    iou: np.ndarray  # [n, G]
    inside: np.ndarray  # [n, G]
    dynamic_k: np.ndarray  # [G]


def _usable_rows(gt_boxes: np.ndarray, gt_labels: np.ndarray, count: Any, num_classes: int) -> np.ndarray:
    """Ground-truth rows that can match: not padding, finite, label in [0, C)."""
    boxes, labels = gt_boxes[: int(count)], gt_labels[: int(count)]
    return np.nonzero(np.isfinite(boxes).all(axis=1) & (labels >= 0) & (labels < num_classes))[0]


def _pairs(scores, boxes, points, strides, gt, labels, center_radius, topk, class_weight, iou_weight) -> _Pairs:
    """All pairs of valid priors and ground truths of one image."""
    x, y = points[:, :1], points[:, 1:]
    reach = np.float32(center_radius) * strides[:, None]
    half = np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):
        in_box = (x > gt[:, 0]) & (y > gt[:, 1]) & (gt[:, 2] > x) & (gt[:, 3] > y)
        center_x, center_y = (gt[:, 0] + gt[:, 2]) * half, (gt[:, 1] + gt[:, 3]) * half
        in_center = (np.abs(x - center_x) < reach) & (np.abs(y - center_y) < reach)
    finite = np.isfinite(scores).all(axis=1) & np.isfinite(boxes).all(axis=1)
    finite &= np.isfinite(points).all(axis=1) & np.isfinite(strides)
    index = np.nonzero((in_box | in_center).any(axis=1) & finite)[0]

    p = np.clip(scores[index].astype(np.float32), 0, 1) + np.float32(0)  # [n, C], -0 made +0
    iou = _iou(boxes[index].astype(np.float32), gt)
    log_not = np.maximum(_log_one_minus(p), _MIN_LOG)
    negative = -(log_not * (p * p))  # [n, C], the cost of a class that is not the target
    at_label = p[:, labels]  # [n, G]
    gap = iou - at_label
    entropy = (iou - np.float32(1)) * log_not[:, labels] - iou * np.maximum(_log(at_label), _MIN_LOG)
    positive = entropy * (gap * gap)  # replaces the term of the label's class in the sum
    exchange = positive.astype(np.float64) - negative[:, labels].astype(np.float64)
    class_cost = (_sum_classes(negative)[:, None] + exchange).astype(np.float32)
    iou_cost = -_log(iou + _IOU_OFFSET)
    with np.errstate(over="ignore"):
        cost = np.float32(class_weight) * class_cost + np.float32(iou_weight) * iou_cost

    largest = -np.sort(-iou, axis=0)[:topk].astype(np.float64)
    total = np.zeros(len(gt), np.float64)
    for row in largest:
        total = total + row
    dynamic_k = np.maximum(total.astype(np.int32), 1) if len(index) else np.zeros(len(gt), np.int32)
    return _Pairs(index, cost, iou, (in_box & in_center)[index], dynamic_k)


def _iou(boxes: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """[n, 4] x [G, 4] -> [n, G] float32; the union is at least 1e-6, areas beyond float32 give 0."""
    zero = np.float32(0)
    a, g = boxes[:, None, :], gt[None, :, :]
    with np.errstate(over="ignore", invalid="ignore"):
        width = np.maximum(np.minimum(a[..., 2], g[..., 2]) - np.maximum(a[..., 0], g[..., 0]), zero)
        height = np.maximum(np.minimum(a[..., 3], g[..., 3]) - np.maximum(a[..., 1], g[..., 1]), zero)
        area_a = np.maximum(a[..., 2] - a[..., 0], zero) * np.maximum(a[..., 3] - a[..., 1], zero)
        area_g = np.maximum(g[..., 2] - g[..., 0], zero) * np.maximum(g[..., 3] - g[..., 1], zero)
        inter = width * height
        union = (area_a + area_g) - inter
        iou = inter / np.where(union > _MIN_UNION, union, _MIN_UNION)
    return np.where(iou <= 1, iou, zero)


def _sum_classes(values: np.ndarray) -> np.ndarray:
    """Sum of [n, C] over classes in float64: lane j adds classes j, j + 8, ...; then lanes are added pairwise."""
    n, num_classes = values.shape
    steps = -(-num_classes // _LANES)
    lanes = np.zeros((n, steps * _LANES), np.float64)
    lanes[:, :num_classes] = values
    total = np.zeros((n, _LANES), np.float64)
    for step in range(steps):
        total = total + lanes[:, step * _LANES : (step + 1) * _LANES]
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    return total[:, 0]


# log(1 + f) = f - f^2 / 2 + f^3 P(f) for 1 + f in [sqrt(1/2), sqrt(2)); own weighted minimax fit, lowest degree first.
_LOG_POLYNOMIAL = np.array(
    [0.333333313, -0.250008196, 0.200012267, -0.166233599, 0.142017722, -0.131601736, 0.127614811, -0.0763440207],
    np.float32,
)


def _log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of float32 x >= 0 within 1 ulp, as ``portable_log`` in csrc/core/numeric.h, bit for bit."""
    tiny = x < np.float32(2.0**-126)
    bits = (x * np.where(tiny, np.float32(2.0**23), np.float32(1))).view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # of x / m, m in [sqrt(1/2), sqrt(2))
    f = (bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
    e = (exponent - np.where(tiny, np.int32(23), np.int32(0))).astype(np.float32)
    p = np.full_like(f, _LOG_POLYNOMIAL[-1])
    for c in _LOG_POLYNOMIAL[-2::-1]:
        p = p * f + c
    f2 = f * f
    y = (f * f2) * p + e * np.float32(-2.12194440e-4)  # ln 2 in two parts, the larger exact when multiplied by e
    y = (f + (y - np.float32(0.5) * f2)) + e * np.float32(0.693359375)
    return np.where(x > 0, y, np.float32(-np.inf))


def _log_one_minus(p: np.ndarray) -> np.ndarray:
    """log(1 - p) of float32 p in [0, 1] within 2 ulp, also for small p."""
    rest = np.float32(1) - p
    return _log(rest) + ((np.float32(1) - rest) - p)


def _fake_assignment(scores: Any, *_: Any) -> tuple[Any, ...]:
    import torch

    b, a = scores.shape[:2]
    return (
        scores.new_empty((b, a), dtype=torch.int32),
        scores.new_empty((b, a), dtype=torch.int32),
        scores.new_empty((b, a), dtype=torch.float32),
        scores.new_empty((b,), dtype=torch.int32),
    )


def _fake_cost(scores: Any, boxes: Any, points: Any, strides: Any, gt_boxes: Any, *_: Any) -> tuple[Any, ...]:
    import torch

    b, a, m = scores.shape[0], scores.shape[1], gt_boxes.shape[1]
    return (
        scores.new_empty((b, a, m), dtype=torch.float32),
        scores.new_empty((b, a, m), dtype=torch.float32),
        scores.new_empty((b, a, m), dtype=torch.bool),
        scores.new_empty((b, a), dtype=torch.bool),
        scores.new_empty((b, m), dtype=torch.int32),
    )


_ARGUMENTS = (
    "Tensor scores, Tensor boxes, Tensor points, Tensor strides, Tensor gt_boxes, Tensor gt_labels, Tensor gt_count, "
    "float center_radius, int topk, float class_weight, float iou_weight"
)
ALIGNED_OTA_ASSIGN = Op(
    name="aligned_ota_assign",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    native=_core.aligned_ota_assign,
    reference=aligned_ota_assign_reference,
    fake=_fake_assignment,
    drop_grad=True,
)
ALIGNED_OTA_COST = Op(
    name="aligned_ota_cost",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_core.aligned_ota_cost,
    reference=aligned_ota_cost_reference,
    fake=_fake_cost,
    drop_grad=True,
)
