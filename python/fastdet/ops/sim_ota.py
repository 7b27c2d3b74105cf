# SPDX-License-Identifier: Apache-2.0
"""SimOTA label assignment (YOLOX, YOLOv7): which candidate learns which ground truth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._backend import Op
from fastdet.ops._numeric import log_exact, sigmoid_exact
from fastdet.ops.aligned_ota import Assignment, AssignmentCost, _log, _log_one_minus, _numbers, _usable_rows

_MIN_UNION = np.float32(1e-12)
_IOU_OFFSET = np.float32(1e-8)  # inside the logarithm of the IoU cost
_MIN_LOG = np.float32(-100.0)  # logarithms of probabilities are clamped here, as binary cross-entropy does
_LANES, _FACTORS, _SHIFT = 8, 8, 70  # sums over classes: lane j has classes j, j + 8, ...; 8 of them share a logarithm


def sim_ota_assign(
    scores: Any,
    objectness: Any,
    boxes: Any,
    gt_boxes: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    points: Any = None,
    strides: Any = None,
    candidates: Any = None,
    center_radius: float = 2.5,
    topk: int = 10,
    class_weight: float = 1.0,
    iou_weight: float = 3.0,
) -> Assignment:
    """Assign candidates to ground truths by SimOTA (YOLOX, arXiv 2107.08430), also as YOLOv7 does (arXiv 2207.02696).

    With p = sqrt(sigmoid(class) sigmoid(objectness)), the cost of a pair is ``class_weight`` times the binary
    cross-entropy of p over all classes against the ground truth's, plus ``iou_weight * -log(IoU + 1e-8)``. Each ground
    truth takes its k cheapest candidates, k being the truncated sum of its ``topk`` largest IoUs, at least 1. A
    candidate taken more than once goes to its cheapest ground truth of all.

    Two ways to say who is a candidate. YOLOX: ``points`` and ``strides``; A = N, a prior is valid when its point lies
    strictly inside a ground-truth box or closer than ``center_radius`` strides to its centre (larger of the two axes),
    and pairs that are not inside both come after all that are. YOLOv7: ``candidates``, priors found by the anchors'
    shapes (``fastdet.assign.anchor_candidates``), each priced with every ground truth of its picture; a prior listed
    twice is two candidates. Its lead head sums ``topk`` 10 IoUs; with an auxiliary head both sum 20.

    Args:
        scores: (B, N, C) class logits; float32, float16 or bfloat16.
        objectness: (B, N) logits; float32, float16 or bfloat16.
        boxes: (B, N, 4) decoded boxes x1, y1, x2, y2 in pixels; float32, float16 or bfloat16.
        gt_boxes: (B, M, 4) float32 corners in pixels; rows past ``gt_count`` are padding and never read.
        gt_labels: (B, M) int32 or int64 in [0, C).
        gt_count: (B,) int32 or int64 in [0, M].
        points: (N, 2) float32, x and y of each prior in pixels. strides: (N,) float32, pixels.
        candidates: (B, A) int32 or int64 in [0, N); anything outside is no candidate.
        center_radius: half side of the centre window in strides.
        topk: how many IoUs are summed for k; 1 to 1024.
        class_weight, iou_weight: finite and not negative.

    Returns:
        Assignment: matched_gt (B, A) int32, labels (B, A) int32, label_scores (B, A) float32 (the IoU), num_pos (B,)
        int32; a candidate without ground truth has -1, C and 0. Arrays are of the kind given.

    Ties go to the lower candidate and to the lower ground-truth row. All arithmetic is float32 (the sum over classes
    and the sum of IoUs float64). A candidate with a non-finite logit, box, point or stride is never valid; a ground
    truth with a non-finite coordinate matches nothing; neither changes the others. Inverted boxes have no area.

    Raises:
        ValueError: shapes do not agree, a label, count or attribute is out of range, or not exactly one of candidates
        and points with strides is given. TypeError: dtype not listed. On a CUDA device values are not looked at: counts
        are clamped, a label out of range matches nothing.

    Cost: O(A C + pairs of valid candidates and ground truths) time, O(A + M topk) memory. Gradients: none.
    """
    arrays = (scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates)
    attributes = _numbers("sim_ota_assign", center_radius, topk, class_weight, iou_weight)
    return Assignment(*SIM_OTA_ASSIGN(*arrays, *attributes))


def sim_ota_cost(
    scores: Any,
    objectness: Any,
    boxes: Any,
    gt_boxes: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    points: Any = None,
    strides: Any = None,
    candidates: Any = None,
    center_radius: float = 2.5,
    topk: int = 10,
    class_weight: float = 1.0,
    iou_weight: float = 3.0,
) -> AssignmentCost:
    """Costs, IoUs, windows and k of every pair, for inspection; arguments and errors of ``sim_ota_assign``.

    Returns:
        AssignmentCost: cost (B, A, M) float32, iou (B, A, M) float32, inside (B, A, M) bool, valid (B, A) bool,
        dynamic_k (B, M) int32. Memory is O(B A M); ``sim_ota_assign`` never builds these.
    """
    arrays = (scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates)
    attributes = _numbers("sim_ota_cost", center_radius, topk, class_weight, iou_weight)
    return AssignmentCost(*SIM_OTA_COST(*arrays, *attributes))


class _Pairs(NamedTuple):
    rows: np.ndarray  # [G] ground truths that can match
    valid: np.ndarray  # [n] candidates that can be matched, rising
    cost: np.ndarray  # [n, G]
    iou: np.ndarray  # [n, G]
    inside: np.ndarray  # [n, G]
    dynamic_k: np.ndarray  # [G]


def sim_ota_assign_reference(
    scores: np.ndarray,
    objectness: np.ndarray,
    boxes: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    points: np.ndarray | None,
    strides: np.ndarray | None,
    candidates: np.ndarray | None,
    center_radius: float,
    topk: int,
    class_weight: float,
    iou_weight: float,
) -> tuple[np.ndarray, ...]:
    """The rule of ``sim_ota_assign`` in NumPy, with the same bits; the fields of ``Assignment`` in order."""
    shape = (scores.shape[0], scores.shape[1] if candidates is None else candidates.shape[1])
    matched = np.full(shape, -1, np.int32)
    labels = np.full(shape, scores.shape[2], np.int32)
    label_scores = np.zeros(shape, np.float32)
    arrays = (scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates)
    for b in range(shape[0]):
        pairs = _pairs(*arrays, b, center_radius, topk, class_weight, iou_weight)
        taken = np.zeros(pairs.cost.shape, bool)
        for g in range(len(pairs.rows)):  # lexsort: last key first; equal keys keep the order of candidates
            order = np.lexsort((pairs.cost[:, g], ~pairs.inside[:, g]))
            taken[order[: pairs.dynamic_k[g]], g] = True
        for i in np.nonzero(taken.any(axis=1))[0]:
            best = np.lexsort((pairs.cost[i], ~pairs.inside[i]))[0] if taken[i].sum() > 1 else np.argmax(taken[i])
            a, row = pairs.valid[i], pairs.rows[best]
            matched[b, a], labels[b, a], label_scores[b, a] = row, gt_labels[b, row], pairs.iou[i, best]
    return matched, labels, label_scores, (matched >= 0).sum(axis=1).astype(np.int32)


def sim_ota_cost_reference(
    scores: np.ndarray,
    objectness: np.ndarray,
    boxes: np.ndarray,
    gt_boxes: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    points: np.ndarray | None,
    strides: np.ndarray | None,
    candidates: np.ndarray | None,
    center_radius: float,
    topk: int,
    class_weight: float,
    iou_weight: float,
) -> tuple[np.ndarray, ...]:
    """The rule of ``sim_ota_cost`` in NumPy, with the same bits; the fields of ``AssignmentCost`` in order."""
    num_candidates = scores.shape[1] if candidates is None else candidates.shape[1]
    shape = (scores.shape[0], num_candidates, gt_boxes.shape[1])
    cost, iou = np.full(shape, np.inf, np.float32), np.zeros(shape, np.float32)
    inside, valid = np.zeros(shape, bool), np.zeros(shape[:2], bool)
    dynamic_k = np.zeros((shape[0], shape[2]), np.int32)
    arrays = (scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates)
    for b in range(shape[0]):
        pairs = _pairs(*arrays, b, center_radius, topk, class_weight, iou_weight)
        at = np.ix_(pairs.valid, pairs.rows)
        cost[b][at], iou[b][at], inside[b][at] = pairs.cost, pairs.iou, pairs.inside
        valid[b, pairs.valid] = True
        dynamic_k[b, pairs.rows] = pairs.dynamic_k
    return cost, iou, inside, valid, dynamic_k


def _pairs(
    scores, objectness, boxes, gt_boxes, gt_labels, gt_count, points, strides, candidates, b,
    center_radius, topk, class_weight, iou_weight,
) -> _Pairs:  # fmt: skip
    """All pairs of valid candidates and ground truths of one image."""
    rows = _usable_rows(gt_boxes[b], gt_labels[b], gt_count[b], scores.shape[2])
    gt, labels = gt_boxes[b, rows], gt_labels[b, rows]
    if candidates is None:
        source = np.arange(scores.shape[1])
        reached, inside = _windows(points, strides, gt, center_radius)
    else:
        listed = (candidates[b] >= 0) & (candidates[b] < scores.shape[1])
        source = np.where(listed, candidates[b], 0).astype(np.int64)
        inside = np.ones((len(source), len(rows)), bool)
        reached = listed & (len(rows) > 0)
    finite = np.isfinite(scores[b]).all(1) & np.isfinite(boxes[b]).all(1) & np.isfinite(objectness[b])
    known = finite[source] if len(finite) else np.zeros(len(source), bool)
    valid = np.nonzero(reached & known)[0]
    source = source[valid]

    obj = sigmoid_exact(objectness[b, source].astype(np.float32))[:, None]
    p = np.sqrt(sigmoid_exact(scores[b, source].astype(np.float32)) * obj)
    p = np.clip(p, 0, 1) + np.float32(0)  # [n, C]
    log_not = np.maximum(_log_one_minus(p), _MIN_LOG)
    iou = _iou(boxes[b, source].astype(np.float32), gt)
    log_label = np.maximum(_log(p[:, labels]), _MIN_LOG)
    exchange = log_not[:, labels].astype(np.float64) - log_label.astype(np.float64)
    class_cost = (_sum_others(p)[:, None] + exchange).astype(np.float32)
    class_cost = np.where(class_cost > 0, class_cost, np.float32(0))
    with np.errstate(over="ignore", invalid="ignore"):
        cost = np.float32(class_weight) * class_cost + np.float32(iou_weight) * -_log(iou + _IOU_OFFSET)

    total = np.zeros(len(gt), np.float64)
    for row in -np.sort(-iou, axis=0)[:topk].astype(np.float64):
        total = total + row
    dynamic_k = np.maximum(total.astype(np.int32), 1) if len(valid) else np.zeros(len(gt), np.int32)
    return _Pairs(rows, valid, cost, iou, inside[valid], dynamic_k)


def _sum_others(p: np.ndarray) -> np.ndarray:
    """[n, C] -> [n] float64: the sum of -log(1 - p) by logarithms of products; 100 where p is 1."""
    n, num_classes = p.shape
    groups = -(-num_classes // (_LANES * _FACTORS))
    rests = np.ones((n, groups * _LANES * _FACTORS), np.float32)
    rests[:, :num_classes] = np.float32(1) - p
    rests = rests.reshape(n, groups, _FACTORS, _LANES)
    saturated = rests == 0
    product = np.full((n, groups, _LANES), 2.0**_SHIFT, np.float32)
    for factor in range(_FACTORS):
        product = product * np.where(saturated, np.float32(1), rests)[:, :, factor]
    lanes = np.zeros((n, _LANES), np.float64)
    for group in range(groups):
        lanes = lanes + -log_exact(product[:, group], _SHIFT).astype(np.float64)
    lanes = lanes - np.float64(_MIN_LOG) * saturated.sum(axis=(1, 2))
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes[:, 0]


def _windows(points, strides, gt, center_radius) -> tuple[np.ndarray, np.ndarray]:
    """[N]: in the box or centre window of any ground truth; [N, G]: in both of this one."""
    x, y = points[:, :1], points[:, 1:]
    half = np.float32(0.5)
    with np.errstate(over="ignore", invalid="ignore"):
        reach = np.float32(center_radius) * strides[:, None]
        in_box = (x > gt[:, 0]) & (y > gt[:, 1]) & (gt[:, 2] > x) & (gt[:, 3] > y)
        center_x, center_y = (gt[:, 0] + gt[:, 2]) * half, (gt[:, 1] + gt[:, 3]) * half
        in_center = (np.abs(x - center_x) < reach) & (np.abs(y - center_y) < reach)
    reached = (in_box | in_center).any(axis=1) & np.isfinite(points).all(axis=1) & np.isfinite(strides)
    return reached, in_box & in_center


def _iou(boxes: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """[n, 4] x [G, 4] -> [n, G] float32; areas beyond float32 and unions below 1e-12 give 0 or nearly."""
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


def _num_candidates(arrays: tuple[Any, ...]) -> Any:
    scores, candidates = arrays[0], arrays[8]
    return scores.shape[1] if candidates is None else candidates.shape[1]


def _fake_assignment(*arrays: Any) -> tuple[Any, ...]:
    import torch

    scores = arrays[0]
    shape = (scores.shape[0], _num_candidates(arrays))
    dtypes = (torch.int32, torch.int32, torch.float32)
    return (*(scores.new_empty(shape, dtype=d) for d in dtypes), scores.new_empty(shape[:1], dtype=torch.int32))


def _fake_cost(*arrays: Any) -> tuple[Any, ...]:
    import torch

    scores = arrays[0]
    b, a, m = scores.shape[0], _num_candidates(arrays), arrays[3].shape[1]
    pairs = tuple(scores.new_empty((b, a, m), dtype=d) for d in (torch.float32, torch.float32, torch.bool))
    return (*pairs, scores.new_empty((b, a), dtype=torch.bool), scores.new_empty((b, m), dtype=torch.int32))


_ARGUMENTS = (
    "Tensor scores, Tensor objectness, Tensor boxes, Tensor gt_boxes, Tensor gt_labels, Tensor gt_count, "
    "Tensor? points, Tensor? strides, Tensor? candidates, "
    "float center_radius, int topk, float class_weight, float iou_weight"
)
SIM_OTA_ASSIGN = Op(
    name="sim_ota_assign",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    native=_core.sim_ota_assign,
    reference=sim_ota_assign_reference,
    fake=_fake_assignment,
    drop_grad=True,
)
SIM_OTA_COST = Op(
    name="sim_ota_cost",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_core.sim_ota_cost,
    reference=sim_ota_cost_reference,
    fake=_fake_cost,
    drop_grad=True,
)
