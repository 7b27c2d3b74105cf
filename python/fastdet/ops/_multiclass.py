# SPDX-License-Identifier: Apache-2.0
"""Suppression of a batch by classes, whatever the boxes: the rule in NumPy around one picture's, shapes for torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastdet.ops._attributes import real, whole


def kept_numbers(
    op: str, score_threshold: Any, iou_threshold: Any, max_det: Any, max_candidates: Any
) -> tuple[float, float, int, int]:
    """What every suppression of a batch is asked with, in the order of the schemas."""
    thresholds = real(op, "score_threshold", score_threshold), real(op, "iou_threshold", iou_threshold)
    return *thresholds, whole(op, "max_det", max_det), whole(op, "max_candidates", max_candidates)


def multiclass_reference(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    max_det: int,
    max_candidates: int,
    class_agnostic: bool,
    multi_label: bool,
    suppress: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    usable: Callable[[np.ndarray], np.ndarray] = lambda boxes: np.isfinite(boxes).all(1),
) -> tuple[np.ndarray, ...]:
    """The fields of ``Kept`` in order.

    Args:
        boxes: (B, N, k). scores: (B, N, C). The rest as for ``multiclass_nms``.
        suppress: of candidates' boxes, scores and classes, by falling score, the places of those kept.
        usable: which boxes may be candidates.
    """
    images, columns = len(boxes), scores.shape[2]
    out_boxes = np.zeros((images, max_det, boxes.shape[2]), np.float32)
    out_scores = np.zeros((images, max_det), np.float32)
    out_labels = np.full((images, max_det), -1, np.int32)
    out_index = np.full((images, max_det), -1, np.int32)
    count = np.zeros(images, np.int32)
    for b in range(images):
        table = np.where(np.isfinite(scores[b]), scores[b].astype(np.float32), -np.inf)
        if multi_label:
            anchor, label = (a.ravel() for a in np.indices(table.shape))
        else:
            anchor = np.arange(len(table) if columns else 0)
            label = table.argmax(1) if columns else anchor
        score = table[anchor, label]
        above = (score.astype(np.float64) > score_threshold) & usable(boxes[b])[anchor]
        anchor, label, score = anchor[above], label[above], score[above]
        best = np.argsort(-score, kind="stable")[:max_candidates]
        anchor, label, score = anchor[best], label[best], score[best]
        group = np.zeros_like(label) if class_agnostic else label
        keep = suppress(boxes[b, anchor], score, group)[:max_det]
        count[b] = n = len(keep)
        out_boxes[b, :n] = boxes[b, anchor[keep]]
        out_scores[b, :n], out_labels[b, :n], out_index[b, :n] = score[keep], label[keep], anchor[keep]
    return out_boxes, out_scores, out_labels, out_index, count


def fake_kept(
    boxes: Any, scores: Any, score_threshold: float, iou_threshold: float, max_det: int, *_: Any
) -> tuple[Any, ...]:
    """Empty tensors of the shapes of ``Kept``."""
    import torch

    b = boxes.shape[0]
    return (
        boxes.new_empty((b, max_det, boxes.shape[2]), dtype=torch.float32),
        boxes.new_empty((b, max_det), dtype=torch.float32),
        boxes.new_empty((b, max_det), dtype=torch.int32),
        boxes.new_empty((b, max_det), dtype=torch.int32),
        boxes.new_empty((b,), dtype=torch.int32),
    )
