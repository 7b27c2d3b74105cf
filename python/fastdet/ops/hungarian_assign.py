# SPDX-License-Identifier: Apache-2.0
"""Hungarian matching (DETR, RT-DETR): one query for every object, at least total cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import reals
from fastdet.ops._backend import Op
from fastdet.ops._iou import Rules, similarity
from fastdet.ops._numeric import exp_exact, log_exact

_LOG_OFFSET = np.float32(1e-8)  # inside the logarithms of the class cost, as the reference has it
_ORDINARY, _SHRUNK = 2.0**960, 2.0**-64  # with a cost beyond the first all are multiplied, so that sums stay finite


class HungarianAssignment(NamedTuple):
    """Result of ``hungarian_assign``: the same pairs from both sides."""

    matched_gt: Any  # [B, Q] int32, row of the ground truth, -1 = background
    matched_query: Any  # [B, M] int32, query of the ground truth, -1 = none (padding among them)
    num_pos: Any  # [B] int32, pairs


class LinearSumAssignment(NamedTuple):
    """Result of ``linear_sum_assignment``: the same pairs from both sides."""

    column_of_row: Any  # [B, R] int32, -1 = none
    row_of_column: Any  # [B, C] int32, -1 = none (columns past the count among them)
    num_pairs: Any  # [B] int32


def hungarian_assign(
    logits: Any,
    boxes_cxcywh: Any,
    gt_boxes_cxcywh: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    class_weight: float = 2.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> HungarianAssignment:
    """Pair queries and objects one to one at least total cost, as RT-DETR does (arXiv 2304.08069, cost of 2010.04159).

    The cost of query q and object g with label l, p = sigmoid(logits[q, l]):
    ``l1_weight`` |q - g|_1 + ``class_weight`` (alpha (1 - p)^gamma (-ln(p + 1e-8)) - (1 - alpha) p^gamma
    (-ln(1 - p + 1e-8))) - ``giou_weight`` GIoU(q, g). Every object gets a query, or where there are more objects than
    queries, every query an object; the total is scipy's ``linear_sum_assignment``'s, for all pictures in one call.

    A cost is not finite where a number it is made of is NaN or infinite. A query or an object without a finite cost
    stays unmatched; among the others, a cost that is not finite counts as the largest finite cost of the picture.

    Args:
        logits: (B, Q, C) before the sigmoid; float32, float16 or bfloat16.
        boxes_cxcywh: (B, Q, 4) centre and size of the queries' boxes, normalised; float32, float16 or bfloat16.
        gt_boxes_cxcywh: (B, M, 4) float32, likewise; rows past ``gt_count`` are padding and never read.
        gt_labels: (B, M) int32 or int64 in [0, C).
        gt_count: (B,) int32 or int64 in [0, M].
        class_weight, l1_weight, giou_weight: finite and not negative.
        alpha: in [0, 1]. gamma: finite and not negative.

    Returns:
        HungarianAssignment: matched_gt (B, Q) int32, matched_query (B, M) int32, -1 for none, num_pos (B,) int32.
        Arrays are of the kind given.

    Several assignments of equal cost: the one that ``docs/ops/hungarian_assign.md`` describes, the same on every
    device. Costs are float32, sums of costs float64.

    Raises:
        ValueError: shapes do not agree, or a label, count or attribute is out of range. TypeError: dtype not listed.
        On a CUDA device values are not looked at: counts are clamped, a label out of range matches nothing.

    Cost: O(B min(Q, M)^2 max(Q, M)) time at worst, O(B Q M) memory. Gradients: none.
    """
    arrays = (logits, boxes_cxcywh, gt_boxes_cxcywh, gt_labels, gt_count)
    weights = reals("hungarian_assign", class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight)
    attributes = (*weights, *reals("hungarian_assign", alpha=alpha, gamma=gamma))
    return HungarianAssignment(*HUNGARIAN_ASSIGN(*arrays, *attributes))


def hungarian_cost(
    logits: Any,
    boxes_cxcywh: Any,
    gt_boxes_cxcywh: Any,
    gt_labels: Any,
    gt_count: Any,
    *,
    class_weight: float = 2.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Any:
    """Cost of every pair, for inspection; arguments and errors of ``hungarian_assign``.

    Returns:
        (B, Q, M) float32; inf past ``gt_count``, and where the cost or a number it is made of is not finite.
    """
    arrays = (logits, boxes_cxcywh, gt_boxes_cxcywh, gt_labels, gt_count)
    weights = reals("hungarian_cost", class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight)
    attributes = (*weights, *reals("hungarian_cost", alpha=alpha, gamma=gamma))
    return HUNGARIAN_COST(*arrays, *attributes)


def linear_sum_assignment(cost: Any, count: Any) -> LinearSumAssignment:
    """Pair rows and columns of every matrix of a batch one to one at least total cost.

    For each matrix scipy's ``linear_sum_assignment`` on its first ``count`` columns, without leaving the device.

    Args:
        cost: (B, R, C) float32, float64, float16 or bfloat16; any strides.
        count: (B,) int32 or int64 in [0, C], how many columns each matrix has; the rest is never read.

    Returns:
        LinearSumAssignment: column_of_row (B, R) int32, row_of_column (B, C) int32, num_pairs (B,) int32: the smaller
        of R and the count; where costs are not finite, of the rows and columns with a finite one.

    Rows and columns without a finite cost stay unpaired; any other NaN, inf or -inf counts as the largest finite cost
    of its matrix. Ties as with ``hungarian_assign``. Sums are float64; a matrix with a finite cost beyond 2^960 in
    magnitude is solved with all its costs times 2^-64, so that no sum overflows.

    Raises:
        ValueError: shapes do not agree or a count is out of range (on a CUDA device it is clamped). TypeError: dtype.
    """
    return LinearSumAssignment(*LINEAR_SUM_ASSIGNMENT(cost, count))


def hungarian_assign_reference(
    logits: np.ndarray,
    boxes_cxcywh: np.ndarray,
    gt_boxes_cxcywh: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float,
    gamma: float,
) -> tuple[np.ndarray, ...]:
    """The rule of ``hungarian_assign`` in NumPy, with the same bits; the fields of ``HungarianAssignment`` in order."""
    cost = hungarian_cost_reference(
        logits,
        boxes_cxcywh,
        gt_boxes_cxcywh,
        gt_labels,
        gt_count,
        class_weight,
        l1_weight,
        giou_weight,
        alpha,
        gamma,
    )
    return linear_sum_assignment_reference(cost, gt_count)


def hungarian_cost_reference(
    logits: np.ndarray,
    boxes_cxcywh: np.ndarray,
    gt_boxes_cxcywh: np.ndarray,
    gt_labels: np.ndarray,
    gt_count: np.ndarray,
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float,
    gamma: float,
) -> np.ndarray:
    """The rule of ``hungarian_cost`` in NumPy, with the same bits."""
    one = np.float32
    images, queries, classes = logits.shape
    cost = np.full((images, queries, gt_boxes_cxcywh.shape[1]), np.inf, one)
    for b in range(images):
        count = int(gt_count[b])
        rows = np.nonzero((gt_labels[b, :count] >= 0) & (gt_labels[b, :count] < classes))[0]
        x = logits[b][:, gt_labels[b, rows]].astype(one)  # [Q, G]
        boxes, gt = boxes_cxcywh[b].astype(one)[:, None], gt_boxes_cxcywh[b, rows][None]
        with np.errstate(all="ignore"):
            e = exp_exact(-np.abs(x))
            large = one(1) / (one(1) + e)
            small = e * large
            p, rest = np.where(x < 0, small, large), np.where(x < 0, large, small)
            positive = (one(alpha) * _power(rest, one(gamma))) * -log_exact(p + _LOG_OFFSET)
            negative = ((one(1) - one(alpha)) * _power(p, one(gamma))) * -log_exact(rest + _LOG_OFFSET)
            away = np.abs(boxes - gt)
            l1 = ((away[..., 0] + away[..., 1]) + away[..., 2]) + away[..., 3]
            (giou,) = similarity(boxes, gt, Rules(kind="giou", fmt="cxcywh"), gradients=False)
            pair = (one(l1_weight) * l1 + one(class_weight) * (positive - negative)) - one(giou_weight) * giou
        cost[b][:, rows] = np.where(np.isfinite(x) & np.isfinite(pair), pair, one(np.inf))
    return cost


def _power(x: np.ndarray, gamma: np.float32) -> np.ndarray:
    """x^gamma for x in [0, 1]."""
    if gamma == 2:
        return x * x
    value = exp_exact(gamma * log_exact(x * np.float32(2**32), 32))
    return np.ones_like(x) if gamma == 0 else np.where(x > 0, value, np.float32(0))


def linear_sum_assignment_reference(cost: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, ...]:
    """The rule of ``linear_sum_assignment`` in NumPy; the fields of ``LinearSumAssignment`` in order."""
    images, rows, columns = cost.shape
    column_of_row = np.full((images, rows), -1, np.int32)
    row_of_column = np.full((images, columns), -1, np.int32)
    for b in range(images):
        row, column = _settled_pairs(cost[b, :, : int(count[b])].astype(np.float64))
        column_of_row[b, row] = column
        row_of_column[b, column] = row
    return column_of_row, row_of_column, (column_of_row >= 0).sum(axis=1).astype(np.int32)


def _settled_pairs(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of [R, C] float64, paired by the rule of costs that are not finite or very large."""
    finite = np.isfinite(cost)
    rows, columns = np.nonzero(finite.any(axis=1))[0], np.nonzero(finite.any(axis=0))[0]  # the others take no part
    if len(rows) == 0:
        return rows, columns
    settled = np.where(finite, cost, cost[finite].max())[np.ix_(rows, columns)]
    if np.abs(settled).max() > _ORDINARY:
        settled *= _SHRUNK
    if len(columns) > len(rows):  # the smaller side are the lines
        row, column = _pairs(settled)
    else:
        column, row = _pairs(settled.T)
    return rows[row], columns[column]


def _pairs(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines and columns of [n, m] float64, n <= m, all finite, paired at least total cost.

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987; Crouse, doi 10.1109/TAES.2016.140952).
    """
    lines, columns = cost.shape
    line_dual, column_dual = np.zeros(lines), np.zeros(columns)
    column_of, owner = np.full(lines, -1), np.full(columns, -1)
    for line in range(lines):
        distance, previous = np.full(columns, np.inf), np.full(columns, -1)  # paths from this line to all columns
        open_ = np.ones(columns, bool)  # not in the tree yet
        base, last, sink = 0.0, line, -1
        while sink < 0:
            length = ((base + cost[last]) - line_dual[last]) - column_dual
            shorter = open_ & (length < distance)
            distance[shorter], previous[shorter] = length[shorter], last
            base = distance[open_].min()
            nearest = np.nonzero(open_ & (distance == base))[0]
            column = min(map(int, nearest), key=lambda j: (owner[j] >= 0, j))  # a free one first, then the lowest
            if owner[column] < 0:
                sink = column
            else:
                open_[column] = False
                last = int(owner[column])
        tree = np.nonzero(~open_)[0]
        line_dual[owner[tree]] += base - distance[tree]
        column_dual[tree] -= base - distance[tree]
        line_dual[line] = base
        column, last = sink, -1
        while last != line:
            last = int(previous[column])
            owner[column] = last
            column_of[last], column = column, int(column_of[last])
    return np.arange(lines), column_of


def _fake_assignment(logits: Any, boxes: Any, gt_boxes: Any, *_: Any) -> tuple[Any, ...]:
    return _empty_pairs(logits, logits.shape[0], logits.shape[1], gt_boxes.shape[1])


def _fake_cost(logits: Any, boxes: Any, gt_boxes: Any, *_: Any) -> Any:
    import torch

    return logits.new_empty((logits.shape[0], logits.shape[1], gt_boxes.shape[1]), dtype=torch.float32)


def _fake_solution(cost: Any, count: Any) -> tuple[Any, ...]:
    return _empty_pairs(cost, *cost.shape)


def _empty_pairs(like: Any, images: int, rows: int, columns: int) -> tuple[Any, ...]:
    import torch

    return tuple(like.new_empty(shape, dtype=torch.int32) for shape in ((images, rows), (images, columns), (images,)))


_ARGUMENTS = (
    "Tensor logits, Tensor boxes_cxcywh, Tensor gt_boxes_cxcywh, Tensor gt_labels, Tensor gt_count, "
    "float class_weight, float l1_weight, float giou_weight, float alpha, float gamma"
)
HUNGARIAN_ASSIGN = Op(
    name="hungarian_assign",
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    native=_core.hungarian_assign,
    reference=hungarian_assign_reference,
    fake=_fake_assignment,
    drop_grad=True,
)
HUNGARIAN_COST = Op(
    name="hungarian_cost",
    schema=f"({_ARGUMENTS}) -> Tensor",
    native=_core.hungarian_cost,
    reference=hungarian_cost_reference,
    fake=_fake_cost,
    drop_grad=True,
)
LINEAR_SUM_ASSIGNMENT = Op(
    name="linear_sum_assignment",
    schema="(Tensor cost, Tensor count) -> (Tensor, Tensor, Tensor)",
    native=_core.linear_sum_assignment,
    reference=linear_sum_assignment_reference,
    fake=_fake_solution,
    drop_grad=True,
)
