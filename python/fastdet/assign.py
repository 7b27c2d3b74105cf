# SPDX-License-Identifier: Apache-2.0
"""Label assigners on torch tensors, for batches whose pictures have different numbers of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdet.ops.aligned_ota import Assignment, aligned_ota_assign
from fastdet.ops.hungarian_assign import HungarianAssignment, hungarian_assign
from fastdet.ops.sim_ota import sim_ota_assign
from fastdet.ops.task_aligned import task_aligned_assign


class PaddedTargets(NamedTuple):
    """Ground truth of a batch in fixed shapes: boxes [B, M, 4] float32 xyxy, labels [B, M] int64, counts [B] int32.

    Rows past the count are zero. M is at least 1.
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor


def pad_targets(
    boxes: Sequence[Any], labels: Sequence[Any], num_classes: int, *, device: torch.device | str | None = None
) -> PaddedTargets:
    """Pad ragged ground truth to the longest picture and move it to ``device``.

    Args:
        boxes: [M_i, 4] xyxy per picture, tensors or NumPy arrays, such as those of a ``Batch`` of ``fastdet.data``.
        labels: [M_i] integer class ids per picture. num_classes: labels are below it.
        device: of the result; by default that of the first boxes.

    Raises:
        TypeError: labels that are no integers.
        ValueError: lists or pictures of different length, shapes other than these, or (for labels that are on the
            CPU, where looking costs nothing) a label outside [0, num_classes).
    """
    if len(boxes) != len(labels):
        raise ValueError(
            f"pad_targets: boxes and labels must have one entry per picture, got {len(boxes)}, {len(labels)}"
        )
    boxes, labels = [torch.as_tensor(rows) for rows in boxes], [torch.as_tensor(ids) for ids in labels]
    for i, (rows, ids) in enumerate(zip(boxes, labels, strict=True)):
        if len(ids) and (ids.is_floating_point() or ids.is_complex()):
            raise TypeError(f"pad_targets: labels must be integers, picture {i} has {ids.dtype}")
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


def anchor_candidates(
    truth: PaddedTargets,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    *,
    ratio: float = 4.0,
    coarse: bool = False,
) -> Tensor:
    """Priors near each ground truth by the rule of anchor-based YOLOs, for ``sim_ota``; nothing waits for the device.

    An anchor shape fits a ground truth if neither side is ``ratio`` times the other's or more. Where it fits, the cell
    of the centre is a candidate, and those neighbours (left, up, right, down) towards which the centre lies in its
    cell; with ``coarse``, the form of auxiliary heads, all four, as far as the map reaches.

    Args:
        truth: B pictures, pixels. anchors: [L, K, 2] width and height in pixels, on the truth's device.
        sizes: (height, width) of each level's map. strides: pixels per cell of each level.

    Returns:
        [B, 5 L K M] int32: index of the prior, levels in order, within a level [K, height, width]; -1 for none. In the
        order level, cell (own, left, up, right, down), anchor, ground truth. A prior can occur more than once.
    """
    low, high = truth.boxes[..., :2], truth.boxes[..., 2:]
    real = torch.arange(low.shape[1], device=low.device) < truth.counts[:, None]
    return candidates_of_centres(
        (low + high) / 2, high - low, real, anchors, sizes, strides, ratio=ratio, coarse=coarse
    )


def candidates_of_centres(
    centres: Tensor,
    sides: Tensor,
    real: Tensor,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    *,
    ratio: float = 4.0,
    coarse: bool = False,
) -> Tensor:
    """``anchor_candidates`` of boxes given by centres and sides [B, M, 2], pixels; ``real`` [B, M] says which exist."""
    found, before = [], 0
    kinds = torch.arange(anchors.shape[1], device=centres.device)[:, None]  # [K, 1]
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        shape = anchors[level] / stride
        relative = sides[:, None] / stride / shape[:, None]  # [B, K, M, 2]
        fits = torch.maximum(relative, 1 / relative).amax(-1) < ratio
        x, y = (centres / stride)[:, None].unbind(-1)  # [B, 1, M]
        limit, step = (1.0, 1.0) if coarse else (0.5, 0.5)
        left, up = (x % 1 < limit) & (x > 1), (y % 1 < limit) & (y > 1)
        right, down = ((width - x) % 1 < limit) & (width - x > 1), ((height - y) % 1 < limit) & (height - y > 1)
        moves = ((torch.ones_like(left), 0, 0), (left, step, 0), (up, 0, step), (right, -step, 0), (down, 0, -step))
        for wanted, dx, dy in moves:
            column = (x - dx).trunc().clamp(0, width - 1).long()
            row = (y - dy).trunc().clamp(0, height - 1).long()
            index = before + (kinds * height + row) * width + column
            found.append(torch.where(fits & wanted & real[:, None], index, -1).flatten(1))
        before += anchors.shape[1] * height * width
    return torch.cat(found, 1).int()


def sim_ota(
    scores: Tensor,
    objectness: Tensor,
    boxes: Tensor,
    truth: PaddedTargets,
    *,
    points: Tensor | None = None,
    strides: Tensor | None = None,
    candidates: Tensor | None = None,
    center_radius: float = 2.5,
    topk: int = 10,
    class_weight: float = 1.0,
    iou_weight: float = 3.0,
) -> Assignment:
    """SimOTA (YOLOX, arXiv 2107.08430; YOLOv7) for a batch; the contract is ``fastdet.ops.sim_ota_assign``'s.

    Args:
        scores: [B, N, C] class logits. objectness: [B, N] logits. boxes: [B, N, 4] decoded, xyxy input pixels.
        truth: B pictures. All float32, on one device.
        points, strides: [N, 2], [N] for YOLOX's windows; or candidates: [B, A] of ``anchor_candidates``.
    """
    return sim_ota_assign(
        scores, objectness, boxes, truth.boxes, truth.labels, truth.counts,
        points=points, strides=strides, candidates=candidates,
        center_radius=center_radius, topk=topk, class_weight=class_weight, iou_weight=iou_weight,
    )  # fmt: skip
