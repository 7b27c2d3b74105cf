# SPDX-License-Identifier: Apache-2.0
"""Parity vectors of task-aligned assignment: ``tal`` (Ultralytics family) and the assigner's part of ``yolov9_tal``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastdet.testing.vector_iou import iou_pairs

Arrays = dict[str, np.ndarray]


def task_aligned_groups(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of ``tal``: every group NAME with ``NAME/pd_scores``, and the similarities of group ``iou``."""
    outputs: Arrays = {}
    for key in arrays:
        name = key.removesuffix("/pd_scores")
        if name != key:
            outputs.update({f"{name}/{output}": value for output, value in _group(arrays, f"{name}/").items()})
    if "iou/box1" in arrays:
        outputs.update(iou_pairs(arrays))
    return outputs


def _group(arrays: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    from fastdet.ops import task_aligned_assign

    scores = np.asarray(arrays[f"{prefix}pd_scores"], np.float32)
    boxes = np.asarray(arrays[f"{prefix}pd_bboxes"], np.float32)
    gt = arrays.get(f"{prefix}gt_bboxes")
    if gt is None or gt.shape[1] == 0:
        return _nothing(scores, boxes)
    k, second, alpha, beta, eps = (float(v) for v in arrays[f"{prefix}params"][:5])
    real = np.asarray(arrays[f"{prefix}mask_gt"]).reshape(gt.shape[:2]) > 0
    order = np.argsort(~real, axis=1, kind="stable")  # real rows first
    gt = np.take_along_axis(np.asarray(gt, np.float32), order[..., None], 1)
    gt_labels = np.asarray(arrays[f"{prefix}gt_labels"]).reshape(real.shape)
    sorted_labels = np.take_along_axis(gt_labels, order, 1).astype(np.int64)
    levels = np.unique(arrays[f"{prefix}strides"])
    small = float(levels[min(1, len(levels) - 1)])
    found = task_aligned_assign(
        scores,
        boxes,
        np.asarray(arrays[f"{prefix}anc_points"], np.float32),
        gt,
        sorted_labels,
        real.sum(1),
        topk=int(k),
        second_topk=int(second) if second and second != k else None,
        alpha=alpha,
        beta=beta,
        small_below=small,
        small_size=small,
        eps=eps,
        iou_kind="probiou" if boxes.shape[2] == 5 else "ciou",
    )
    held = found.matched_gt >= 0
    row = np.maximum(found.matched_gt, 0)
    target_boxes = np.take_along_axis(gt, row[..., None], 1) * held[..., None]
    return {
        "fg_mask": held,
        "target_gt_idx": np.where(held, np.take_along_axis(order, row, 1), -1).astype(np.int32),
        "target_labels": np.where(held, found.labels, -1).astype(np.int32),
        "target_bboxes": target_boxes.astype(np.float32),
        "target_scores": _one_hot(found.labels, found.label_scores, scores.shape[2]),
    }


def _nothing(scores: np.ndarray, boxes: np.ndarray) -> Arrays:
    """What the reference returns where no picture of the batch has an object."""
    shape = scores.shape[:2]
    return {
        "fg_mask": np.zeros(shape, bool),
        "target_gt_idx": np.zeros(shape, np.float32),
        "target_labels": np.full(shape, scores.shape[2], np.float32),
        "target_bboxes": np.zeros_like(boxes),
        "target_scores": np.zeros_like(scores),
    }


def _one_hot(labels: np.ndarray, values: np.ndarray, num_classes: int) -> np.ndarray:
    """[B, A, C]: the value in the label's column, nothing for the label that is no class."""
    return ((labels[..., None] == np.arange(num_classes)) * values[..., None]).astype(np.float32)


def yolov9_assignments(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The assigner's outputs of ``yolov9_tal``: padded targets, decoded boxes, and both branches' assignments."""
    height, width = (int(v) for v in arrays["image_hw"])
    num_classes, strides = int(arrays["nc"]), [float(s) for s in arrays["stride"]]
    pictures = arrays["main_p0"].shape[0]
    gt_labels, gt_boxes, counts = _padded_targets(np.asarray(arrays["targets"]), pictures, width, height)
    points = []
    for level, stride in enumerate(strides):
        y, x = np.mgrid[0 : arrays[f"main_p{level}"].shape[2], 0 : arrays[f"main_p{level}"].shape[3]]
        points.append(((np.stack([x.ravel(), y.ravel()], 1) + 0.5) * stride).astype(np.float32))
    anchors = np.concatenate(points)
    outputs: Arrays = {
        "anchor_px": anchors,
        "gt_labels": gt_labels[..., None].astype(np.float32),
        "gt_boxes": gt_boxes,
        "mask_gt": (np.arange(gt_boxes.shape[1]) < counts[:, None]).astype(np.float32)[..., None],
    }
    for tag in ("aux", "main"):
        boxes, scores = _decoded([np.asarray(arrays[f"{tag}_p{i}"]) for i in range(len(strides))], strides, num_classes)
        found = _yolov9_branch(arrays, scores, boxes, anchors, gt_boxes, gt_labels, counts)
        outputs |= {f"{tag}_{name}": value for name, value in found.items()}
    return outputs


def _padded_targets(targets: np.ndarray, pictures: int, width: int, height: int) -> tuple[np.ndarray, ...]:
    """Rows (picture, class, cx, cy, w, h) normalised to labels [B, M], corners [B, M, 4] in pixels, counts [B]."""
    counts = np.bincount(targets[:, 0].astype(np.int64), minlength=pictures)
    most = int(counts.max()) if len(counts) else 0
    labels, boxes = np.zeros((pictures, most), np.int64), np.zeros((pictures, most, 4), np.float32)
    extent = np.array([width, height, width, height], np.float32)
    for b in range(pictures):
        own = targets[targets[:, 0] == b].astype(np.float32)
        centre, size = np.split(own[:, 2:6] * extent, 2, axis=1)
        labels[b, : len(own)] = own[:, 1]
        boxes[b, : len(own)] = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return labels, boxes, counts


def _decoded(maps: list[np.ndarray], strides: list[float], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners in pixels [B, N, 4] and class probabilities [B, N, C] of raw maps [B, 4 R + C, H, W]."""
    import torch

    boxes, scores = [], []
    for raw, stride in zip(map(torch.from_numpy, maps), strides):
        b, channels, h, w = raw.shape
        bins = (channels - num_classes) // 4
        rows = raw.flatten(2).permute(0, 2, 1)  # [B, H W, 4 R + C]
        logits = rows[..., : 4 * bins].reshape(b, h * w, 4, bins)
        distance = logits.softmax(3).matmul(torch.arange(bins, dtype=raw.dtype))
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        centre = torch.stack([x.flatten(), y.flatten()], 1)
        boxes.append(torch.cat([centre - distance[..., :2], centre + distance[..., 2:]], -1) * stride)
        scores.append(rows[..., 4 * bins :].sigmoid())
    return torch.cat(boxes, 1).numpy(), torch.cat(scores, 1).contiguous().numpy()


def _yolov9_branch(arrays, scores, boxes, anchors, gt_boxes, gt_labels, counts) -> Arrays:
    from fastdet.ops import task_aligned_assign, task_aligned_cost

    given = (scores, boxes, anchors, gt_boxes, gt_labels, counts)
    topk, alpha, beta = int(arrays["topk"]), float(arrays["alpha"]), float(arrays["beta"])
    pairs = task_aligned_cost(*given, topk=topk, alpha=alpha, beta=beta)
    found = task_aligned_assign(*given, topk=topk, alpha=alpha, beta=beta, conflict="overlap_anywhere")
    held, row = found.matched_gt >= 0, np.maximum(found.matched_gt, 0)
    if gt_boxes.shape[1]:
        labels, target = np.take_along_axis(gt_labels, row, 1), np.take_along_axis(gt_boxes, row[..., None], 1)
    else:
        labels, target = np.full(row.shape, scores.shape[2]), np.zeros_like(boxes)
    return {
        "pred_boxes_px": boxes,
        "align": pairs.metric.transpose(0, 2, 1),
        "overlaps": pairs.overlap.transpose(0, 2, 1),
        "mask_pos": pairs.chosen.transpose(0, 2, 1).astype(np.uint8),
        "labels": labels.astype(np.int64),
        "boxes": target.astype(np.float32),
        "scores": _one_hot(found.labels, found.label_scores, scores.shape[2]),
        "fg": held,
    }
