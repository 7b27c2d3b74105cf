# SPDX-License-Identifier: Apache-2.0
"""The best (query, class) pairs of heads that need no suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real, whole
from fastdet.ops._backend import Op
from fastdet.ops._numeric import sigmoid_exact
from fastdet.ops.nms import Kept

BOX_FORMATS = ("xyxy", "cxcywh")


def topk_detections(
    logits: Any,
    boxes: Any,
    *,
    max_det: int = 300,
    score_threshold: float | None = None,
    box_format: str = "xyxy",
    image_size: Any = None,
    sigmoid: bool = True,
    multi_label: bool = True,
) -> Kept:
    """Keep the ``max_det`` best (query, class) pairs of each picture: sigmoid, top-k over Q x C and gather in one pass.

    RT-DETR's selection (arXiv 2304.08069, flattened over queries and classes), and that of YOLOv10's and YOLO26's
    one-to-one head, which first takes the best k anchors by their best class and then the best k pairs of those: any
    pair among the best k belongs to one of these anchors, so both select the same pairs (only the order among equal
    scores differs). Equal scores come by rising query, then class.

    Args:
        logits: (B, Q, C) before the sigmoid; float32, float16 or bfloat16; any strides. A NaN is never kept.
        boxes: (B, Q, 4) of these dtypes; a box with a coordinate that is not finite is never kept.
        max_det: D, rows of the result; fixed. At most min(D, Q C) are filled (two-stage heads: pass min(D, Q)).
        score_threshold: pairs have a greater score; None takes all.
        box_format: ``"xyxy"`` corners or ``"cxcywh"`` centre and size.
        image_size: None if boxes are in pixels; else they are fractions of pictures of (height, width), or of (B, 2)
            heights and widths, a float32 array of the kind of ``logits``.
        sigmoid: False if ``logits`` are scores already.
        multi_label: False keeps each query at most once, with its best class, the lowest one among equal scores.

    Returns:
        Kept: boxes (B, D, 4) float32 corners in pixels, scores (B, D) float32, labels (B, D) int32, index (B, D) int32
        into Q, count (B,) int32. Rows past ``count`` hold 0, label and index -1.

    Raises:
        ValueError: shapes do not agree, unknown format, a negative size, a threshold that is no number, or a torch
        input that requires grad. TypeError: dtype not listed.

    Example:
        >>> kept = topk_detections(logits, boxes, box_format="cxcywh", image_size=(480, 640))

    Cost: O(Q C), exponentials only for what may be among the best. No host synchronisation, capturable. Same result on
    every backend, bit for bit.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"topk_detections: box_format must be xyxy or cxcywh, got {box_format!r}")
    op = "topk_detections"
    threshold = -float("inf") if score_threshold is None else real(op, "score_threshold", score_threshold)
    sizes, height, width = image_size, 1.0, 1.0
    if image_size is not None and not hasattr(image_size, "ndim"):
        if not isinstance(image_size, Sequence) or len(image_size) != 2:
            raise ValueError(f"topk_detections: image_size must be (height, width), got {image_size!r}")
        sizes, (height, width) = None, (real(op, "image_size", side) for side in image_size)
    format_flags = (box_format == "cxcywh", image_size is not None)
    flags = (*format_flags, bool(sigmoid), bool(multi_label))
    return Kept(*TOPK_DETECTIONS(logits, boxes, sizes, height, width, whole(op, "max_det", max_det), threshold, *flags))


def topk_detections_reference(
    logits: np.ndarray,
    boxes: np.ndarray,
    image_sizes: np.ndarray | None,
    height: float,
    width: float,
    max_det: int,
    score_threshold: float,
    cxcywh: bool,
    normalized: bool,
    sigmoid: bool,
    multi_label: bool,
) -> tuple[np.ndarray, ...]:
    """The rule of ``topk_detections`` in NumPy; the fields of ``Kept`` in order."""
    images, _, columns = logits.shape
    out_boxes = np.zeros((images, max_det, 4), np.float32)
    out_scores = np.zeros((images, max_det), np.float32)
    out_labels = np.full((images, max_det), -1, np.int32)
    out_index = np.full((images, max_det), -1, np.int32)
    count = np.zeros(images, np.int32)
    for b in range(images):
        values = logits[b].astype(np.float32)
        scores = sigmoid_exact(values) if sigmoid else values
        table = np.where(np.isfinite(scores), scores, -np.inf)
        corners = boxes[b].astype(np.float32)
        with np.errstate(all="ignore"):
            if cxcywh:
                half = corners[:, 2:] * np.float32(0.5)
                corners = np.concatenate([corners[:, :2] - half, corners[:, :2] + half], 1)
            if normalized:
                h, w = (height, width) if image_sizes is None else image_sizes[b]
                corners = corners * np.array([w, h, w, h], np.float32)
        if multi_label:
            query, label = (a.ravel() for a in np.indices(table.shape))
        else:
            query = np.arange(len(table) if columns else 0)
            label = table.argmax(1) if columns else query
        score = table[query, label]
        passing = np.isfinite(score) & (score.astype(np.float64) > score_threshold)
        number = np.flatnonzero(passing & np.isfinite(corners).all(1)[query])
        number = number[np.argsort(-score[number], kind="stable")][:max_det]
        count[b] = n = len(number)
        out_boxes[b, :n], out_scores[b, :n] = corners[query[number]], score[number]
        out_labels[b, :n], out_index[b, :n] = label[number], query[number]
    return out_boxes, out_scores, out_labels, out_index, count


def _fake(logits: Any, boxes: Any, image_sizes: Any, height: float, width: float, max_det: int, *_: Any) -> Any:
    import torch

    b = logits.shape[0]
    return (
        logits.new_empty((b, max_det, 4), dtype=torch.float32),
        logits.new_empty((b, max_det), dtype=torch.float32),
        logits.new_empty((b, max_det), dtype=torch.int32),
        logits.new_empty((b, max_det), dtype=torch.int32),
        logits.new_empty((b,), dtype=torch.int32),
    )


TOPK_DETECTIONS = Op(
    name="topk_detections",
    schema="(Tensor logits, Tensor boxes, Tensor? image_sizes, float height, float width, int max_det, "
    "float score_threshold, bool cxcywh, bool normalized, bool sigmoid, bool multi_label) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_core.topk_detections,
    reference=topk_detections_reference,
    fake=_fake,
)
