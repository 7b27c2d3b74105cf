# SPDX-License-Identifier: Apache-2.0
"""Exact greedy non-maximum suppression: single, per class, and batched with fixed shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real
from fastdet.ops._backend import Op
from fastdet.ops._multiclass import fake_kept, kept_numbers, multiclass_reference


class Kept(NamedTuple):
    """What suppression leaves of a batch. Rows past ``count`` hold 0, label and index -1."""

    boxes: Any  # (B, D, 4) float32, x1 y1 x2 y2; (B, D, 5) of rotated boxes
    scores: Any  # (B, D) float32
    labels: Any  # (B, D) int32
    index: Any  # (B, D) int32, into N
    count: Any  # (B,) int32


def nms(boxes: Any, scores: Any, iou_threshold: float, *, measure: str = "iou") -> Any:
    """Keep the best boxes of one picture: torchvision's signature and result, without its N x N mask.

    Greedy: boxes are visited by falling score, ties by rising index; one is dropped when its IoU with a kept box is
    greater than ``iou_threshold``. IoU is intersection / union, rounded to float32, compared as a double.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32, float16 or bfloat16; any strides. N up to 2^32 - 1.
        scores: (N,) of the same dtypes. A box with a NaN or infinite coordinate or score is never kept and never
            changes the fate of another. Inverted boxes count as empty; an empty box overlaps nothing.
        iou_threshold: in [0, 1].
        measure: ``"iou"``, or ``"diou"``: IoU minus the squared distance between the centres over the squared diagonal
            of the enclosing box (arXiv 1911.08287), so that a neighbour farther away survives more overlap.

    Returns:
        (K,) int64 indices into N, by falling score, in the kind of ``boxes``. The shape depends on the values, so a
        CUDA call waits for the device; ``multiclass_nms`` does not.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, or the threshold lies outside [0, 1].

    Example:
        >>> keep = nms(boxes, scores, 0.5)
        >>> boxes[keep]

    Cost: O(N) memory, O(N K) comparisons at most. Same indices on every backend.
    """
    return NMS(boxes, scores, real("nms", "iou_threshold", iou_threshold), str(measure))


def nms_reference(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, measure: str = "iou") -> np.ndarray:
    """The rule of ``nms`` in NumPy: (K,) int64."""
    return _greedy(boxes, scores, np.zeros(len(boxes), np.int64), iou_threshold, measure)


def batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float, *, measure: str = "iou") -> Any:
    """``nms`` inside each class: boxes of different classes never suppress one another.

    Class ids are compared as integers; coordinates are never shifted, so nothing is lost far from the origin.

    Args:
        boxes, scores, iou_threshold, measure: as for ``nms``.
        idxs: (N,) int64 or int32 class ids, any values.

    Returns:
        (K,) int64 indices into N over all classes, by falling score, ties by rising index.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, or the threshold lies outside [0, 1].
    """
    threshold = real("batched_nms", "iou_threshold", iou_threshold)
    return BATCHED_NMS(boxes, scores, idxs, threshold, str(measure))


def batched_nms_reference(
    boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray, iou_threshold: float, measure: str = "iou"
) -> np.ndarray:
    """The rule of ``batched_nms`` in NumPy: (K,) int64."""
    return _greedy(boxes, scores, np.asarray(idxs), iou_threshold, measure)


def multiclass_nms(
    boxes: Any,
    scores: Any,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
    max_det: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
    multi_label: bool = False,
    measure: str = "iou",
) -> Kept:
    """Keep the best boxes of each picture, at most ``max_det``, without waiting for the device.

    Candidates are the ``max_candidates`` best (box, class) pairs whose score is greater than ``score_threshold``,
    visited by falling score, ties by rising box and then class; one is dropped when its IoU with a kept box of the same
    class is greater than ``iou_threshold`` (see ``nms`` for the arithmetic).

    Args:
        boxes: (B, N, 4) corners x1, y1, x2, y2; float32, float16 or bfloat16; any strides.
        scores: (B, N, C), one column per class, same dtypes; a transposed view is read without a copy. Pairs with a NaN
            or infinite score, and boxes with such a coordinate, are ignored. N x C up to 2^32 - 1.
        score_threshold: candidates with a score not greater than this are ignored.
        iou_threshold: in [0, 1].
        max_det: D, rows of the result; fixed, so the result can be captured in a CUDA graph.
        max_candidates: the best this many enter the comparison.
        class_agnostic: compare boxes of different classes too.
        multi_label: every class above the threshold makes a candidate (validation); otherwise only a box's best class,
            the lowest one among equals.
        measure: as for ``nms``.

    Returns:
        Kept: boxes (B, D, 4) float32, scores (B, D) float32, labels (B, D) int32, index (B, D) int32 into N, count (B,)
        int32, in the kind of ``boxes``. Rows past ``count`` hold 0, label and index -1.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, a threshold lies outside its range, or a torch
        input requires grad (there is none to give).

    Example:
        >>> kept = multiclass_nms(boxes, scores, iou_threshold=0.7)
        >>> kept.boxes[0, : kept.count[0]]

    Cost: O(N C) memory. Same result on every backend, bit for bit.
    """
    numbers = kept_numbers("multiclass_nms", score_threshold, iou_threshold, max_det, max_candidates)
    return Kept(*MULTICLASS_NMS(boxes, scores, *numbers, bool(class_agnostic), bool(multi_label), str(measure)))


def multiclass_nms_reference(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    iou_threshold: float,
    max_det: int,
    max_candidates: int,
    class_agnostic: bool,
    multi_label: bool,
    measure: str = "iou",
) -> tuple[np.ndarray, ...]:
    """The rule of ``multiclass_nms`` in NumPy; the fields of ``Kept`` in order."""
    return multiclass_reference(
        boxes,
        scores,
        score_threshold,
        max_det,
        max_candidates,
        class_agnostic,
        multi_label,
        lambda b, s, groups: _greedy(b, s, groups, iou_threshold, measure),
    )


def _greedy(
    boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou_threshold: float, measure: str
) -> np.ndarray:
    if measure not in ("iou", "diou"):
        raise ValueError(f"nms: measure must be iou or diou, got {measure!r}")
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    x1, y1, x2, y2 = boxes.T
    with np.errstate(all="ignore"):
        area = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
        order = np.argsort(-scores, kind="stable")
        order = order[np.isfinite(scores[order]) & np.isfinite(boxes[order]).all(1)]
        keep = []
        while len(order):
            i, rest = order[0], order[1:]
            keep.append(i)
            w = np.maximum(np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]), 0)
            h = np.maximum(np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]), 0)
            value = w * h / (area[i] + area[rest] - w * h)
            if measure == "diou":
                dx = ((x1[rest] + x2[rest]) - (x1[i] + x2[i])) * np.float32(0.5)
                dy = ((y1[rest] + y2[rest]) - (y1[i] + y2[i])) * np.float32(0.5)
                w = np.maximum(x2[i], x2[rest]) - np.minimum(x1[i], x1[rest])
                h = np.maximum(y2[i], y2[rest]) - np.minimum(y1[i], y1[rest])
                value = value - (dx * dx + dy * dy) / (w * w + h * h)
            order = rest[~((value.astype(np.float64) > iou_threshold) & (groups[rest] == groups[i]))]
    return np.array(keep, np.int64)


# torch leaves out trailing arguments that have their default value; the extension wants them all.
def _native_nms(boxes: Any, scores: Any, iou_threshold: float, *rest: Any) -> Any:
    return _cut(_core.nms(boxes, scores, iou_threshold, *_measure_first(rest)))


def _native_batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float, *rest: Any) -> Any:
    return _cut(_core.batched_nms(boxes, scores, idxs, iou_threshold, *_measure_first(rest)))


def _native_multiclass_nms(*args: Any) -> Any:
    return _core.multiclass_nms(*args[:8], *_measure_first(args[8:]))


def _measure_first(rest: tuple[Any, ...]) -> tuple[Any, ...]:
    return rest if len(rest) == 2 else ("iou", *rest)


def _cut(result: Any) -> Any:
    """On a device the extension gives all N indices and how many of them count."""
    if not isinstance(result, tuple):
        return result
    index, count = result
    return index[: int(count[0])]


def _fake_index(boxes: Any, *_: Any) -> Any:
    import torch

    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


NMS = Op(
    name="nms",
    schema="(Tensor boxes, Tensor scores, float iou_threshold, str measure='iou') -> Tensor",
    native=_native_nms,
    reference=nms_reference,
    fake=_fake_index,
    drop_grad=True,
)
BATCHED_NMS = Op(
    name="batched_nms",
    schema="(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold, str measure='iou') -> Tensor",
    native=_native_batched_nms,
    reference=batched_nms_reference,
    fake=_fake_index,
    drop_grad=True,
)
MULTICLASS_NMS = Op(
    name="multiclass_nms",
    schema="(Tensor boxes, Tensor scores, float score_threshold, float iou_threshold, int max_det, int max_candidates, "
    "bool class_agnostic, bool multi_label, str measure='iou') -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_native_multiclass_nms,
    reference=multiclass_nms_reference,
    fake=fake_kept,
)
