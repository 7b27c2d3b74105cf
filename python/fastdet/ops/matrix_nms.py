# SPDX-License-Identifier: Apache-2.0
"""Matrix NMS: scores are lowered by how much better boxes overlap, in one step for all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastdet import _core
from fastdet.ops._attributes import reals
from fastdet.ops._backend import Op
from fastdet.ops._numeric import exp_exact


class Rescored(NamedTuple):
    """Boxes that are left, with their new scores, by falling score, ties by rising index."""

    index: Any  # (K,) int64, into N
    scores: Any  # (K,) float32


def matrix_nms(
    boxes: Any,
    scores: Any,
    *,
    idxs: Any = None,
    method: str = "gaussian",
    sigma: float = 2.0,
    score_threshold: float = 0.05,
) -> Rescored:
    """Lower the scores of boxes that better ones overlap: Matrix NMS (SOLOv2, arXiv 2003.10152, section 3.3) of boxes.

    Box j keeps the share min over better boxes i of its class of f(iou_ij) / f(c_i) of its score, at most all of it;
    c_i is the greatest IoU of i with a box better than i. f(x) is 1 - x (linear) or exp(-sigma x^2) (gaussian). Better
    is a greater score, among equals the lower index. All in float32; formulas in docs/ops/matrix_nms.md.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; float32, float16 or bfloat16; any strides. N up to 2^32 - 1.
        scores: (N,) of the same dtypes. A box with a NaN or infinite coordinate or score is left out and changes no
            other. Inverted boxes count as empty; an empty box overlaps nothing.
        idxs: (N,) int64 or int32 class ids: boxes of different classes do not change one another. None: one class.
        method: ``"gaussian"`` or ``"linear"``.
        sigma: of the gaussian, in [1e-30, 1e30]; the greater, the lower the scores.
        score_threshold: not negative; boxes whose new score is not greater are left out.

    Returns:
        Rescored: index (K,) int64 and scores (K,) float32, by falling new score, ties by rising index, in the kind of
        ``boxes``. K depends on the values, so a CUDA call waits for the device.

    Raises:
        TypeError: dtype not listed. ValueError: shapes do not agree, a number lies outside its range, an unknown word,
        or a torch input requires grad (there is none to give).

    Example:
        >>> kept = matrix_nms(boxes, scores, idxs=labels)
        >>> boxes[kept.index], kept.scores

    Cost: O(N) memory, N^2 comparisons. Same result on every backend, bit for bit.
    """
    numbers = reals("matrix_nms", sigma=sigma, score_threshold=score_threshold)
    return Rescored(*MATRIX_NMS(boxes, scores, idxs, str(method), *numbers))


def matrix_nms_reference(
    boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray | None, method: str, sigma: float, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The rule of ``matrix_nms`` in NumPy, with the N x N matrix: index (K,) int64, scores (K,) float32."""
    if method not in ("linear", "gaussian"):
        raise ValueError(f"matrix_nms: method must be linear or gaussian, got {method!r}")
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    groups = np.zeros(len(boxes), np.int64) if idxs is None else np.asarray(idxs)
    order = np.argsort(-scores, kind="stable")
    usable = np.isfinite(scores) & np.isfinite(boxes).all(1) & (scores.astype(np.float64) > score_threshold)
    order = order[usable[order]]
    boxes, groups = boxes[order], groups[order]
    one = np.float32(1)
    with np.errstate(all="ignore"):
        better = np.triu(groups[:, None] == groups, 1)  # [i, j]: i is better than j
        iou = np.where(better, overlap(boxes[:, None], boxes), np.float32(0))
        most = iou.max(0, initial=0)[:, None]
        if method == "linear":
            share = np.where(better, (one - iou) / (one - most), one)
            share = np.where(share < one, share, one).min(0, initial=1)
        else:
            loss = np.float32(sigma) * (iou * iou - most * most)
            share = exp_exact(-np.where(better, loss, np.float32(0)).max(0, initial=0))
    return by_score(order, scores[order] * share, score_threshold)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of float32 corners, broadcast; 0 where there is none or the areas leave the range of float32."""
    a, b = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    zero = np.float32(0)
    area = [np.maximum(c[2] - c[0], zero) * np.maximum(c[3] - c[1], zero) for c in (a, b)]
    w = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), zero)
    h = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]), zero)
    iou = w * h / (area[0] + area[1] - w * h)
    return np.where(iou > 0, iou, zero)


def by_score(index: np.ndarray, scores: np.ndarray, score_threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Those above the threshold, by falling score, ties by rising index: (K,) int64, (K,) float32."""
    above = scores.astype(np.float64) > score_threshold
    index, scores = index[above], scores[above]
    order = np.lexsort((index, -scores))
    return index[order].astype(np.int64), scores[order]


def found(result: tuple[Any, ...]) -> tuple[Any, Any]:
    """Index and scores of a native call; on a device their number comes beside them."""
    index, scores, *count = result
    kept = int(count[0][0]) if count else len(index)
    return index[:kept], scores[:kept]


def fake_rescored(boxes: Any, *_: Any) -> tuple[Any, Any]:
    """Shapes of the results, for torch."""
    import torch

    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept,), dtype=torch.int64), boxes.new_empty((kept,), dtype=torch.float32)


MATRIX_NMS = Op(
    name="matrix_nms",
    schema="(Tensor boxes, Tensor scores, Tensor? idxs, str method, float sigma, float score_threshold) "
    "-> (Tensor, Tensor)",
    native=lambda *args: found(_core.matrix_nms(*args)),
    reference=matrix_nms_reference,
    fake=fake_rescored,
)
