# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS: boxes are chosen one after the other, and each lowers the scores of those it overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import reals
from fastdet.ops._backend import Op
from fastdet.ops._numeric import exp_exact
from fastdet.ops.matrix_nms import Rescored, fake_rescored, found, overlap


def soft_nms(
    boxes: Any,
    scores: Any,
    *,
    idxs: Any = None,
    method: str = "gaussian",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
) -> Rescored:
    """Lower the scores of boxes that overlap a better one: Soft-NMS (Bodla et al., arXiv 1704.04503).

    Again and again the box of the greatest score, among equals the lowest index, is chosen, and the scores of the boxes
    of its class that are left are multiplied: gaussian by exp(-iou^2 / sigma), linear by 1 - iou where iou >=
    ``iou_threshold``. All in float32; formulas in docs/ops/soft_nms.md.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32, float16 or bfloat16; any strides. N up to 2^32 - 1.
        scores: (N,) of the same dtypes. A box with a NaN or infinite coordinate or score is left out and changes no
            other. Inverted boxes count as empty; an empty box overlaps nothing.
        idxs: (N,) int64 or int32 class ids: boxes of different classes do not change one another. None: one class.
        method: ``"gaussian"`` or ``"linear"``.
        iou_threshold: in [0, 1]; of the linear method.
        sigma: of the gaussian, in [1e-30, 1e30]; the greater, the higher the scores.
        score_threshold: not negative; a box whose score is not greater, at first or at last, is left out.

    Returns:
        Rescored: index (K,) int64 and scores (K,) float32, in the order of choice, which is by falling new score, ties
        by rising index; in the kind of ``boxes``. K depends on the values, so a CUDA call waits for the device.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, a number lies outside its range, an unknown word,
        or a torch input requires grad (there is none to give).

    Example:
        >>> kept = soft_nms(boxes, scores, idxs=labels)
        >>> boxes[kept.index], kept.scores

    Cost: O(N) memory, N K comparisons. Same result on every backend, bit for bit.
    """
    numbers = reals("soft_nms", iou_threshold=iou_threshold, sigma=sigma, score_threshold=score_threshold)
    return Rescored(*SOFT_NMS(boxes, scores, idxs, str(method), *numbers))


def soft_nms_reference(
    boxes: np.ndarray,
    scores: np.ndarray,
    idxs: np.ndarray | None,
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The rule of ``soft_nms`` in NumPy: index (K,) int64, scores (K,) float32."""
    if method not in ("linear", "gaussian"):
        raise ValueError(f"soft_nms: method must be linear or gaussian, got {method!r}")
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    groups = np.zeros(len(boxes), np.int64) if idxs is None else np.asarray(idxs)
    left = np.flatnonzero(
        np.isfinite(scores) & np.isfinite(boxes).all(1) & (scores.astype(np.float64) > score_threshold)
    )
    index, new = [], []
    with np.errstate(all="ignore"):
        scores = scores + np.float32(0)
        while len(left):
            i = left[np.argmax(scores[left])]  # the first of equals
            index.append(i)
            new.append(scores[i])
            left = left[left != i]
            rest = left[groups[left] == groups[i]]
            iou = overlap(boxes[i], boxes[rest])
            if method == "linear":
                factor = np.where(iou.astype(np.float64) >= iou_threshold, np.float32(1) - iou, np.float32(1))
            else:
                factor = exp_exact(-((iou * iou) / np.float32(sigma)))
            scores[rest] = scores[rest] * factor
            left = left[scores[left].astype(np.float64) > score_threshold]
    return np.array(index, np.int64), np.array(new, np.float32)


SOFT_NMS = Op(
    name="soft_nms",
    schema="(Tensor boxes, Tensor scores, Tensor? idxs, str method, float iou_threshold, float sigma, "
    "float score_threshold) -> (Tensor, Tensor)",
    native=lambda *args: found(_core.soft_nms(*args)),
    reference=soft_nms_reference,
    fake=fake_rescored,
)
