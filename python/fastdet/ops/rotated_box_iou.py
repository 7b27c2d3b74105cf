# SPDX-License-Identifier: Apache-2.0
"""Overlap of rotated boxes, of all pairs or row by row: exact IoU of the rectangles, or the probabilistic IoU."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet import _core
from fastdet.ops._backend import Op
from fastdet.ops._iou import Rules, arithmetic, over_leading, similarity
from fastdet.ops._polygon import Polygons, angles_of, circles_touch, in_degrees, overlap, polygons_of

_GAUSSIAN = Rules("probiou", "cxcywha", 1e-7)


def rotated_box_iou(
    boxes1: Any,
    boxes2: Any,
    *,
    measure: str = "polygon",
    mode: str = "iou",
    aligned: bool = False,
    angle_unit: str = "radians",
) -> Any:
    """Overlap of every rotated box of one set with every box of another, or row by row.

    The area that two rectangles have in common, exactly, divided by that of their union; formulas in
    docs/ops/rotated_box_iou.md. The similarity is that of ``rotated_nms``.

    Args:
        boxes1: (..., M, 5) centre x, centre y, width, height, angle that turns the side called width from the x axis
            towards the y axis (clockwise where y points down). float32, float16 or bfloat16 (computed in float32), or
            float64; any strides.
        boxes2: (..., N, 5) with the same leading dimensions; float64 only together with boxes1.
        measure: ``"polygon"``, the IoU of the rectangles, or ``"probiou"``, the similarity of the boxes as Gaussians
            (arXiv 2106.06072) with eps 1e-7: the numbers of ``probabilistic_box_iou``.
        mode: what the common area is divided by: ``"iou"``, the union; ``"iof"``, the area of the box of ``boxes1``
            (foreground); the latter for polygons only.
        aligned: row by row instead of all pairs; then N = M.
        angle_unit: ``"radians"`` or ``"degrees"``.

    Returns:
        (..., M, N), aligned (..., M); float32 (float64 for float64 boxes) in [0, 1], of the kind given. 0 for pairs
        with a number that is not finite, an angle beyond 10^6, or an area beyond the range of the dtype; a box with a
        side not above 0 overlaps nothing (as a Gaussian, its variance along that side is 0). Never NaN. No gradient:
        ``probabilistic_box_iou`` has one for both sets.

    Raises:
        ValueError: shapes do not agree, an unknown word, ``"iof"`` of Gaussians, or a torch input that requires grad.
        TypeError: dtype not listed.

    Example:
        >>> rotated_box_iou(boxes, anchors, angle_unit="degrees").max(-1)

    Cost: one pass; memory for the result only. Rectangles whose circumscribed circles do not touch are not looked at
    further. The same bits on every backend.
    """
    words = (str(measure), str(mode), bool(aligned), in_degrees("rotated_box_iou", angle_unit))
    return over_leading("rotated_box_iou", lambda a, b: ROTATED_BOX_IOU(a, b, *words), boxes1, boxes2)


def rotated_box_iou_reference(
    boxes1: np.ndarray, boxes2: np.ndarray, measure: str, mode: str, aligned: bool, degrees: bool
) -> np.ndarray:
    """The rule of ``rotated_box_iou`` in NumPy: (B, M, 5) and (B, N, 5) -> (B, M, N), or (B, M)."""
    if measure not in ("polygon", "probiou") or mode not in ("iou", "iof") or (measure, mode) == ("probiou", "iof"):
        raise ValueError(f"rotated_box_iou: unknown measure or mode, got {measure!r}, {mode!r}")
    a, b = arithmetic(boxes1, boxes2)
    if not aligned:
        a, b = a[:, :, None], b[:, None]
    if measure == "probiou":
        angles = (angles_of(a, degrees), angles_of(b, degrees))
        return similarity(a, b, _GAUSSIAN, gradients=False, angles=angles)[0]
    first, second = polygons_of(a, degrees), polygons_of(b, degrees)
    near = circles_touch(first, second)
    one, other = (Polygons(*(np.broadcast_to(field, near.shape)[near] for field in each)) for each in (first, second))
    found = np.zeros(near.shape, a.dtype)
    found[near] = overlap(one, other, mode == "iof")
    return found


def _fake(boxes1: Any, boxes2: Any, measure: str, mode: str, aligned: bool, *_: Any) -> Any:
    import torch

    dtype = torch.float64 if boxes1.dtype == torch.float64 else torch.float32
    shape = (boxes1.shape[0], boxes1.shape[1]) if aligned else (boxes1.shape[0], boxes1.shape[1], boxes2.shape[1])
    return boxes1.new_empty(shape, dtype=dtype)


ROTATED_BOX_IOU = Op(
    name="rotated_box_iou",
    schema="(Tensor boxes1, Tensor boxes2, str measure, str mode, bool aligned, bool degrees) -> Tensor",
    native=_core.rotated_box_iou,
    reference=rotated_box_iou_reference,
    fake=_fake,
)
