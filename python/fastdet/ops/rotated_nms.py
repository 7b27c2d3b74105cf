# SPDX-License-Identifier: Apache-2.0
"""Suppression of rotated boxes, by the IoU of the polygons or probabilistic IoU: one picture, batches by classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import real
from fastdet.ops._backend import Op
from fastdet.ops._iou import Rules, similarity
from fastdet.ops._multiclass import fake_kept, kept_numbers, multiclass_reference
from fastdet.ops._numeric import log_exact
from fastdet.ops._polygon import angles_of, circles_touch, in_degrees, overlap, polygons_of
from fastdet.ops.nms import Kept

_EPS = 1e-7  # of the probabilistic IoU, as its reference has it
_INFINITE = np.float32(np.inf)


def rotated_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    *,
    idxs: Any = None,
    measure: str = "polygon",
    semantics: str = "greedy",
    angle_unit: str = "radians",
) -> Any:
    """Keep the best rotated boxes of one picture.

    Boxes are visited by falling score, ties by rising index; one is dropped when its similarity to a better box is
    greater than ``iou_threshold``. The similarity is computed in float32 and compared as a double; formulas in
    docs/ops/rotated_nms.md.

    Args:
        boxes: (N, 5) centre x, centre y, width, height, angle that turns the side called width from the x axis towards
            the y axis (clockwise where y points down). float32, float16 or bfloat16; any strides. N up to 2^32 - 1.
        scores: (N,) of the same dtypes. A box with a NaN or infinite number or score, or an angle beyond 10^6, is never
            kept and never changes the fate of another. A box with a side not above 0 is empty.
        iou_threshold: in [0, 1].
        idxs: (N,) int64 or int32 class ids: boxes of different classes do not suppress one another. None: all compete.
        measure: ``"polygon"``, the IoU of the rectangles; an empty box overlaps nothing. ``"probiou"``, the similarity
            of the boxes as Gaussians (arXiv 2106.06072), without a floor on the variances, eps 1e-7.
        semantics: ``"greedy"``: a better box must itself have been kept to suppress. ``"fast"``: any better box
            suppresses, also one that was dropped; YOLO-OBB's rule, together with ``measure="probiou"``.
        angle_unit: ``"radians"`` or ``"degrees"``.

    Returns:
        (K,) int64 indices into N, by falling score, in the kind of ``boxes``. The shape depends on the values, so a
        CUDA call waits for the device.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, the threshold lies outside [0, 1], or an unknown
        word.

    Example:
        >>> keep = rotated_nms(boxes, scores, 0.7, idxs=labels, measure="probiou", semantics="fast")
        >>> boxes[keep]

    Cost: O(N) memory; at most N K comparisons (greedy) or N^2 / 2 (fast), of which those between boxes that are not
    near cost next to nothing. Same indices on every backend.
    """
    words = (str(measure), str(semantics), in_degrees("rotated_nms", angle_unit))
    return ROTATED_NMS(boxes, scores, idxs, real("rotated_nms", "iou_threshold", iou_threshold), *words)


def rotated_nms_reference(
    boxes: np.ndarray,
    scores: np.ndarray,
    idxs: np.ndarray | None,
    iou_threshold: float,
    measure: str,
    semantics: str,
    degrees: bool,
) -> np.ndarray:
    """The rule of ``rotated_nms`` in NumPy: (K,) int64."""
    if measure not in ("polygon", "probiou") or semantics not in ("greedy", "fast"):
        raise ValueError(f"rotated_nms: unknown measure or semantics, got {measure!r}, {semantics!r}")
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    groups = np.zeros(len(boxes), np.int64) if idxs is None else np.asarray(idxs)
    usable = np.isfinite(boxes).all(1) & np.isfinite(scores) & (np.abs(boxes[:, 4]) <= 1e6)
    order = np.argsort(-scores, kind="stable")
    order = order[usable[order]]
    kind: Any = _Polygons if measure == "polygon" else _Gaussians
    with np.errstate(all="ignore"):
        prepared = kind(boxes, degrees, iou_threshold)
        keep = []
        fallen = np.zeros(len(boxes), bool)
        for place, i in enumerate(order):
            if semantics == "greedy" and fallen[i]:
                continue
            if not fallen[i]:
                keep.append(i)
            rest = order[place + 1 :]
            rest = rest[groups[rest] == groups[i]]
            rest = rest[prepared.near(i, rest)]
            if len(rest):
                fallen[rest] |= prepared.similarity(i, rest).astype(np.float64) > iou_threshold
    return np.array(keep, np.int64)


def rotated_multiclass_nms(
    boxes: Any,
    scores: Any,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.5,
    max_det: int = 300,
    max_candidates: int = 30000,
    class_agnostic: bool = False,
    multi_label: bool = False,
    measure: str = "polygon",
    semantics: str = "greedy",
    angle_unit: str = "radians",
) -> Kept:
    """``multiclass_nms`` of rotated boxes: at most ``max_det`` of each picture, without waiting for the device.

    Candidates are the ``max_candidates`` best (box, class) pairs whose score is greater than ``score_threshold``; which
    of them fall is decided as by ``rotated_nms``, among those of one class.

    Args:
        boxes: (B, N, 5) centre x, centre y, width, height, angle; float32, float16 or bfloat16; any strides.
        scores: (B, N, C), one column per class, same dtypes; a transposed view is read without a copy. Pairs with a NaN
            or infinite score, and boxes that ``rotated_nms`` never keeps, are ignored. N x C up to 2^32 - 1.
        iou_threshold, measure, semantics, angle_unit: as for ``rotated_nms``.
        score_threshold, max_det, max_candidates, class_agnostic, multi_label: as for ``multiclass_nms``.

    Returns:
        Kept: boxes (B, D, 5) float32 as given, scores (B, D) float32, labels (B, D) int32, index (B, D) int32 into N,
        count (B,) int32, in the kind of ``boxes``. Rows past ``count`` hold 0, label and index -1.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, a threshold lies outside its range, an unknown
        word, or a torch input requires grad (there is none to give).

    Example:
        >>> kept = rotated_multiclass_nms(boxes, scores, iou_threshold=0.7, measure="probiou", semantics="fast")
        >>> kept.boxes[0, : kept.count[0]]

    Cost: O(N C) memory. Same result on every backend, bit for bit.
    """
    numbers = kept_numbers("rotated_multiclass_nms", score_threshold, iou_threshold, max_det, max_candidates)
    words = (str(measure), str(semantics), in_degrees("rotated_multiclass_nms", angle_unit))
    return Kept(*ROTATED_MULTICLASS_NMS(boxes, scores, *numbers, bool(class_agnostic), bool(multi_label), *words))


def rotated_multiclass_nms_reference(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    iou_threshold: float,
    max_det: int,
    max_candidates: int,
    class_agnostic: bool,
    multi_label: bool,
    measure: str,
    semantics: str,
    degrees: bool,
) -> tuple[np.ndarray, ...]:
    """The rule of ``rotated_multiclass_nms`` in NumPy; the fields of ``Kept`` in order."""
    return multiclass_reference(
        boxes,
        scores,
        score_threshold,
        max_det,
        max_candidates,
        class_agnostic,
        multi_label,
        lambda b, s, groups: rotated_nms_reference(b, s, groups, iou_threshold, measure, semantics, degrees),
        lambda boxes: np.isfinite(boxes).all(1) & (np.abs(boxes[:, 4].astype(np.float32)) <= 1e6),
    )


class _Polygons:
    """IoU of rectangles, in the better one's frame."""

    def __init__(self, boxes: np.ndarray, degrees: bool, iou_threshold: float) -> None:
        self.all = polygons_of(boxes, degrees)

    def near(self, a: int, b: np.ndarray) -> np.ndarray:
        return circles_touch(self.all.at(a), self.all.at(b))

    def similarity(self, a: int, b: np.ndarray) -> np.ndarray:
        return overlap(self.all.at(a), self.all.at(b))


class _Gaussians:
    """Probabilistic IoU; a pair is looked at only if the distance of the centres leaves it a chance."""

    def __init__(self, boxes: np.ndarray, degrees: bool, iou_threshold: float) -> None:
        self.boxes, self.angle = boxes, angles_of(boxes, degrees)
        sides = np.where(boxes[:, 2:4] > 0, boxes[:, 2:4], np.float32(0))
        variances = sides * sides * np.float32(1 / 12)
        sound = variances[:, 0] * variances[:, 1] >= 1
        self.reach = np.where(sound, variances.max(1, initial=0), _INFINITE)
        apart = 1.0 - iou_threshold
        limit = -log_exact(np.array([(1.0 - apart * apart) + _EPS], np.float32))[0]
        self.limit = np.float32(4) * (limit * np.float32(1.001) + np.float32(0.001))
        self.rules = Rules("probiou", "cxcywha", _EPS)

    def near(self, a: int, b: np.ndarray) -> np.ndarray:
        dx, dy = self.boxes[b, 0] - self.boxes[a, 0], self.boxes[b, 1] - self.boxes[a, 1]
        return dx * dx + dy * dy <= self.limit * (self.reach[a] + self.reach[b])

    def similarity(self, a: int, b: np.ndarray) -> np.ndarray:
        ours, theirs = self.boxes[a], self.boxes[b]
        return similarity(ours, theirs, self.rules, gradients=False, angles=(self.angle[a], self.angle[b]))[0]


def _native(*args: Any) -> Any:
    index, _, *count = _core.rotated_nms(*args)
    return index[: int(count[0][0])] if count else index


def _fake(boxes: Any, *_: Any) -> Any:
    import torch

    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


ROTATED_NMS = Op(
    name="rotated_nms",
    schema="(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, str measure, str semantics, bool degrees) "
    "-> Tensor",
    native=_native,
    reference=rotated_nms_reference,
    fake=_fake,
    drop_grad=True,
)
ROTATED_MULTICLASS_NMS = Op(
    name="rotated_multiclass_nms",
    schema="(Tensor boxes, Tensor scores, float score_threshold, float iou_threshold, int max_det, int max_candidates, "
    "bool class_agnostic, bool multi_label, str measure, str semantics, bool degrees) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    native=_core.rotated_multiclass_nms,
    reference=rotated_multiclass_nms_reference,
    fake=fake_kept,
)
