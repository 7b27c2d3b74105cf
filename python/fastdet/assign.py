# SPDX-License-Identifier: Apache-2.0
"""Label assigners on torch tensors, for batches whose pictures have different numbers of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdet.ops.aligned_ota import Assignment, aligned_ota_assign
from fastdet.ops.hungarian_assign import HungarianAssignment, hungarian_assign
from fastdet.ops.task_aligned import task_aligned_assign


class PaddedTargets(NamedTuple):
    """Ground truth of a batch in fixed shapes: boxes [B, M, 4] float32 xyxy, labels [B, M] int64, counts [B] int32.

    Rows past the count are zero. M is at least 1.
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor


def pad_targets(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int, *, device: torch.device | str | None = None
) -> PaddedTargets:
    """Pad ragged ground truth to the longest picture and move it to ``device``.

    Args:
        boxes: [M_i, 4] xyxy per picture. labels: [M_i] class ids per picture. num_classes: labels are below it.

    Raises:
        ValueError: lists or pictures of different length, shapes other than these, or (for labels that are on the
            CPU, where looking costs nothing) a label outside [0, num_classes).
    """
    if len(boxes) != len(labels):
        raise ValueError(
            f"pad_targets: boxes and labels must have one entry per picture, got {len(boxes)}, {len(labels)}"
        )
    for i, (rows, ids) in enumerate(zip(boxes, labels, strict=True)):
        if rows.shape != (len(ids), 4) or ids.ndim != 1:
            raise ValueError(
                f"pad_targets: picture {i} must have boxes (M, 4) and labels (M,), got {tuple(rows.shape)} "
                f"and {tuple(ids.shape)}"
            )
        if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_classes:
            raise ValueError(f"pad_targets: labels must lie in [0, {num_classes}), picture {i} has {ids.tolist()}")
    longest = max([1, *map(len, labels)])
    source = boxes[0].device if len(boxes) else None
    padded_boxes = torch.zeros(len(boxes), longest, 4, dtype=torch.float32, device=source)
    padded_labels = torch.zeros(len(boxes), longest, dtype=torch.int64, device=source)
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        padded_boxes[i, : len(box)] = box
        padded_labels[i, : len(label)] = label
    counts = torch.tensor([len(label) for label in labels], dtype=torch.int32)
    return PaddedTargets(*(t.to(device or source, non_blocking=True) for t in (padded_boxes, padded_labels, counts)))


def aligned_ota(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    truth: PaddedTargets,
    *,
    center_radius: float = 2.5,
    topk: int = 10,
    class_weight: float = 1.0,
    iou_weight: float = 3.0,
) -> Assignment:
    """AlignedOTA (DAMO-YOLO, arXiv 2211.15444) for a batch; the contract is ``fastdet.ops.aligned_ota_assign``'s.

    Args:
        scores: [B, A, C] in [0, 1]. boxes: [B, A, 4] decoded, xyxy input pixels. points: [A, 2]. strides: [A].
        truth: B pictures. All float32, on one device.
    """
    return aligned_ota_assign(
        scores, boxes, points, strides, truth.boxes, truth.labels, truth.counts,
        center_radius=center_radius, topk=topk, class_weight=class_weight, iou_weight=iou_weight,
    )  # fmt: skip


def task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    truth: PaddedTargets,
    *,
    topk: int = 10,
    second_topk: int | None = None,
    alpha: float = 0.5,
    beta: float = 6.0,
    small_size: float = 0.0,
    conflict: str = "overlap",
) -> Assignment:
    """Task-aligned assignment (TOOD, arXiv 2108.07755) for a batch; see ``fastdet.ops.task_aligned_assign``.

    Args:
        scores: [B, A, C] in [0, 1]. boxes: [B, A, 4] decoded, xyxy input pixels. points: [A, 2], pixels.
        truth: B pictures. All float32, on one device.
        small_size: sides of ground truths below it are widened to it when looking for anchors, pixels.
    """
    return task_aligned_assign(
        scores, boxes, points, truth.boxes, truth.labels, truth.counts,
        topk=topk, second_topk=second_topk, alpha=alpha, beta=beta,
        small_below=small_size, small_size=small_size, conflict=conflict,
    )  # fmt: skip


def hungarian(
    logits: Tensor,
    boxes_cxcywh: Tensor,
    truth: PaddedTargets,
    *,
    class_weight: float = 2.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> HungarianAssignment:
    """Hungarian matching (DETR, RT-DETR) for a batch; the contract is ``fastdet.ops.hungarian_assign``'s.

    Args:
        logits: [B, Q, C]. boxes_cxcywh: [B, Q, 4] normalised.
        truth: B pictures, their boxes as centre and size, normalised, too. All on one device.
    """
    return hungarian_assign(
        logits, boxes_cxcywh, truth.boxes, truth.labels, truth.counts,
        class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight, alpha=alpha, gamma=gamma,
    )  # fmt: skip
