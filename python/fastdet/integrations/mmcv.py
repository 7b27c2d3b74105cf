# SPDX-License-Identifier: Apache-2.0
"""mmcv's operators by fastdet's: under mmcv's names and signatures, or put in mmcv's place.

Covered: ``nms``, ``batched_nms``, ``soft_nms``, ``nms_rotated``, ``bbox_overlaps``, ``box_iou_rotated``,
``MultiScaleDeformableAttnFunction`` and ``multi_scale_deformable_attn_pytorch``, on CPU and CUDA, without mmcv's
compiled extension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdet import ops
from fastdet.integrations.exchange import Exchange

__all__ = [
    "MultiScaleDeformableAttnFunction",
    "batched_nms",
    "bbox_overlaps",
    "box_iou_rotated",
    "multi_scale_deformable_attn_pytorch",
    "nms",
    "nms_rotated",
    "patch",
    "patched",
    "soft_nms",
    "unpatch",
]


def nms(
    boxes: Any, scores: Any, iou_threshold: float, offset: int = 0, score_threshold: float = 0, max_num: int = -1
) -> tuple[Any, Any]:
    """``mmcv.ops.nms``: greedy suppression of one class.

    Args:
        boxes: (N, 4) corners, tensor or NumPy array. scores: (N,), likewise.
        iou_threshold: overlap above which the weaker box goes.
        offset: 0, or 1 for boxes whose last pixel is part of them: a width is x2 - x1 + 1.
        score_threshold: above 0, boxes with a score not greater than this are left out.
        max_num: above 0, at most this many are kept.

    Returns:
        (K, 5) boxes with scores and (K,) int64 indices, by falling score; tensors, or arrays for a boxes array.

    Raises:
        ValueError: a shape or an offset that mmcv does not take either.
    """
    _check_offset("nms", offset)
    is_array = isinstance(boxes, np.ndarray)
    boxes, scores = (torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in (boxes, scores))
    _check_boxes("nms", boxes, scores)
    keep = _keep(boxes, scores, None, iou_threshold, offset, score_threshold, max_num)
    found = torch.cat((boxes[keep], scores[keep, None]), 1)
    return (found.numpy(), keep.numpy()) if is_array else (found, keep)


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: Mapping[str, Any] | None, class_agnostic: bool = False
) -> tuple[Tensor, Tensor]:
    """``mmcv.ops.batched_nms``: suppression inside each class.

    Classes are compared; coordinates are not shifted, so that no boxes give no boxes, where mmcv fails unless
    ``class_agnostic``.

    Args:
        boxes: (N, 4) corners, or (N, 5) for ``"nms_rotated"``. scores: (N,). idxs: (N,) class of each box.
        nms_cfg: ``type`` (``"nms"``, ``"soft_nms"`` or ``"nms_rotated"``) with arguments of that function
            (``iou_threshold`` may be ``iou_thr``), ``max_num``, ``class_agnostic``. ``split_thr`` is not needed and
            without effect: memory grows with N. None sorts only.
        class_agnostic: boxes of different classes suppress one another too.

    Returns:
        (K, 5 | 6) boxes with scores, new ones for ``"soft_nms"``, and (K,) int64 indices, by falling score.

    Raises:
        ValueError: another type of suppression, or a key that is not known.
    """
    if nms_cfg is None:
        best, order = scores.sort(descending=True, stable=True)
        return torch.cat((boxes[order], best[:, None]), 1), order
    options = dict(nms_cfg)
    kind = options.pop("type", "nms")
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", kind)  # mmcv takes the function, too
    if kind not in _BATCHED:
        raise ValueError(f"batched_nms: type in nms_cfg must be one of {', '.join(_BATCHED)}, got {kind!r}")
    groups = None if options.pop("class_agnostic", class_agnostic) else idxs
    options.pop("split_thr", None)
    max_num = options.pop("max_num", -1)
    threshold = options.pop("iou_thr", None)
    if threshold is not None:
        options.setdefault("iou_threshold", threshold)
    suppress, known = _BATCHED[kind]
    unknown = [key for key in options if key not in known]
    if unknown or (kind != "soft_nms" and "iou_threshold" not in options):
        why = f"got the key {unknown[0]!r} too" if unknown else "got none"
        raise ValueError(f"batched_nms: nms_cfg must have iou_threshold and keys of {kind} only, {why}")
    keep, scores = suppress(boxes, scores, groups, **options)
    if max_num > 0:
        keep, scores = keep[:max_num], scores[:max_num]
    return torch.cat((boxes[keep], scores[:, None]), 1), keep


def _hard(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
) -> tuple[Tensor, Tensor]:
    _check_offset("batched_nms", offset)
    _check_boxes("batched_nms", boxes, scores)
    keep = _keep(boxes, scores, idxs, iou_threshold, offset, score_threshold, -1)
    return keep, scores[keep]


def soft_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Any, Any]:
    """``mmcv.ops.soft_nms``: scores fall where boxes overlap a better one.

    Args:
        boxes, scores, offset: as for ``nms``. iou_threshold: not of the gaussian method. sigma: of the gaussian one.
        min_score: boxes whose score does not stay above it are left out.
        method: ``"linear"``, ``"gaussian"``, or ``"naive"``: dropped from ``iou_threshold`` on, as mmcv has it.

    Returns:
        (K, 5) boxes with their new scores and (K,) int64 indices, by falling new score; tensors, or arrays for a boxes
        array.

    Raises:
        ValueError: a shape or an offset that mmcv does not take either, or another method.
    """
    is_array = isinstance(boxes, np.ndarray)
    boxes, scores = (torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in (boxes, scores))
    index, rescored = _soften(boxes, scores, None, iou_threshold, sigma, min_score, method, offset)
    found = torch.cat((boxes[index], rescored[:, None]), 1)
    return (found.numpy(), index.numpy()) if is_array else (found, index)


def _soften(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    _check_offset("soft_nms", offset)
    if method not in ("naive", "linear", "gaussian"):
        raise ValueError(f"soft_nms: method must be 'naive', 'linear' or 'gaussian', got {method!r}")
    _check_boxes("soft_nms", boxes, scores)
    if method == "naive":
        below = float(np.nextafter(np.float32(iou_threshold), np.float32(-1)))
        index = _keep(boxes, scores, idxs, below, offset, min_score, -1)
        return index, scores[index]
    ends, values = _single(_ends(boxes, offset)), _single(scores)
    numbers = {"iou_threshold": iou_threshold, "sigma": sigma, "score_threshold": min_score}
    index, rescored = ops.soft_nms(ends, values, idxs=_classes(idxs), method=method, **numbers)
    return index, rescored.to(boxes.dtype)


def nms_rotated(
    dets: Tensor, scores: Tensor, iou_threshold: float, labels: Tensor | None = None, clockwise: bool = True
) -> tuple[Tensor, Tensor | None]:
    """``mmcv.ops.nms_rotated``: greedy suppression by the IoU of rotated rectangles.

    Args:
        dets: (N, 5) centre, width, height, angle in radians. scores: (N,). labels: (N,) classes, which do not suppress
            one another. clockwise: angles turn from the x axis towards the y axis (clockwise where y points down);
            False: the other way.

    Returns:
        (K, 6) boxes with scores and (K,) int64 indices, by falling score. Of no boxes, as mmcv has it: ``dets`` itself,
        (0, 5), and None.
    """
    if len(dets) == 0:
        return dets, None
    keep, kept_scores = _turned(dets, scores, labels, iou_threshold, clockwise)
    return torch.cat((dets[keep], kept_scores[:, None]), 1), keep


def _turned(
    dets: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float, clockwise: bool = True
) -> tuple[Tensor, Tensor]:
    boxes = _single(dets) if clockwise else _mirrored(_single(dets))
    keep = ops.rotated_nms(boxes, _single(scores), iou_threshold, idxs=_classes(idxs))
    return keep, scores[keep]


# What batched_nms calls for a type, and with which keys.
_BATCHED: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], set[str]]] = {
    "nms": (_hard, {"iou_threshold", "offset", "score_threshold"}),
    "soft_nms": (_soften, {"iou_threshold", "sigma", "min_score", "method", "offset"}),
    "nms_rotated": (_turned, {"iou_threshold", "clockwise"}),
}


def bbox_overlaps(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", aligned: bool = False, offset: int = 0
) -> Tensor:
    """``mmcv.ops.bbox_overlaps``: intersection over union, or over the first box's area.

    Args:
        bboxes1: (M, 4) corners, or empty. bboxes2: (N, 4), or empty.
        mode: ``"iou"``, or ``"iof"`` for intersection over foreground.
        aligned: row by row (M = N) instead of all pairs.
        offset: as for ``nms``.

    Returns:
        (M, N), or (M,) with ``aligned``, of the dtype of ``bboxes1``. Without area: 0.

    Raises:
        ValueError: an unknown mode or offset, or shapes that do not agree.
    """
    _check_offset("bbox_overlaps", offset)
    if mode not in ("iou", "iof"):
        raise ValueError(f"bbox_overlaps: mode must be 'iou' or 'iof', got {mode!r}")
    if aligned and len(bboxes1) != len(bboxes2):
        raise ValueError(f"bbox_overlaps: aligned boxes must be as many, got {len(bboxes1)} and {len(bboxes2)}")
    if len(bboxes1) * len(bboxes2) == 0:
        return bboxes1.new_zeros(len(bboxes1) if aligned else (len(bboxes1), len(bboxes2)))
    a, b = (_ends(boxes, offset) for boxes in (bboxes1, bboxes2))
    if aligned:
        a, b = a[:, None], b[:, None]
    found = ops.box_iou(a, b) if mode == "iou" else _over_first(a, b)
    return (found[:, 0, 0] if aligned else found).to(bboxes1.dtype)


def box_iou_rotated(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", aligned: bool = False, clockwise: bool = True
) -> Tensor:
    """``mmcv.ops.box_iou_rotated``: overlap of rotated rectangles, ``fastdet.ops.rotated_box_iou``.

    Args:
        bboxes1: (M, 5) centre, width, height, angle in radians. bboxes2: (N, 5).
        mode: ``"iou"``, or ``"iof"`` for intersection over foreground, the area of the first.
        aligned: row by row (M = N) instead of all pairs.
        clockwise: as for ``nms_rotated``.

    Returns:
        (M, N), or (M,) with ``aligned``, of the dtype of ``bboxes1``, without gradient.

    Raises:
        ValueError: an unknown mode, or shapes that do not agree.
    """
    a, b = (boxes.detach() if clockwise else _mirrored(boxes.detach()) for boxes in (bboxes1, bboxes2))
    if a.dtype != b.dtype:
        a, b = a.to(torch.promote_types(a.dtype, b.dtype)), b.to(torch.promote_types(a.dtype, b.dtype))
    return ops.rotated_box_iou(a, b, mode=mode, aligned=aligned).to(bboxes1.dtype)


class MultiScaleDeformableAttnFunction:
    """``mmcv.ops.MultiScaleDeformableAttnFunction``, of which ``apply`` is used."""

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: Any = 64,
    ) -> Tensor:
        """``fastdet.ops.ms_deform_attn`` with its gradients.

        Args:
            value: (B, S, M, D). value_spatial_shapes: (L, 2). value_level_start_index: (L,).
            sampling_locations: (B, Q, M, L, P, 2). attention_weights: (B, Q, M, L, P).
            im2col_step: without effect.

        Returns:
            (B, Q, M D) of value's dtype; coordinates stay float32 where value is half precision.
        """
        wide = torch.float64 if value.dtype == torch.float64 else torch.float32
        tables = value_spatial_shapes, value_level_start_index
        return ops.ms_deform_attn(value, *tables, sampling_locations.to(wide), attention_weights.to(wide))


def multi_scale_deformable_attn_pytorch(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """``mmcv.ops.multi_scale_deform_attn.multi_scale_deformable_attn_pytorch``, what mmcv runs on the CPU.

    Args:
        value, value_spatial_shapes, sampling_locations, attention_weights: as for
            ``MultiScaleDeformableAttnFunction.apply``.
    """
    shapes = torch.as_tensor(value_spatial_shapes, device=value.device)
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, sampling_locations, attention_weights)


# ---- in mmcv's place -----------------------------------------------------------------------------------------------

_OURS = {
    each.__name__: each
    for each in (
        nms,
        batched_nms,
        soft_nms,
        nms_rotated,
        bbox_overlaps,
        box_iou_rotated,
        MultiScaleDeformableAttnFunction,
    )
}
_EXCHANGES = (
    Exchange("mmcv.ops", _OURS, ["mmcv", "mmdet", "mmrotate"]),
    Exchange(
        "mmcv.ops.multi_scale_deform_attn",
        {"multi_scale_deformable_attn_pytorch": multi_scale_deformable_attn_pytorch},
        ["mmcv", "mmdet", "mmrotate"],
    ),
)


def patch() -> None:
    """Put these functions into mmcv, for the whole process, until ``unpatch``.

    Every loaded module of mmcv, mmdet and mmrotate that holds one of mmcv's functions gets ours, among them the one of
    mmcv's ``MultiScaleDeformableAttention``; whatever imports them from mmcv later does too. Patching twice needs
    unpatching twice.

    Raises:
        ImportError: mmcv is not installed or does not load.
    """
    done = []
    try:
        for each in _EXCHANGES:
            each.patch()
            done.append(each)
    except ImportError:
        for each in done:
            each.unpatch()
        raise


def unpatch() -> None:
    """Undo ``patch``: mmcv's own functions stand where they stood. More calls than of ``patch`` do nothing."""
    for each in _EXCHANGES:
        each.unpatch()


@contextmanager
def patched() -> Iterator[None]:
    """``patch`` inside a ``with`` statement, for all threads."""
    patch()
    try:
        yield
    finally:
        unpatch()


def _keep(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    offset: int,
    score_threshold: float,
    max_num: int,
) -> Tensor:
    boxes, scores = _ends(boxes.detach(), offset), scores.detach()
    iou_threshold = float(np.float32(iou_threshold))  # mmcv compares in float32
    chosen = torch.where(scores > score_threshold)[0] if score_threshold > 0 else None
    if chosen is not None:
        boxes, scores, idxs = boxes[chosen], scores[chosen], None if idxs is None else idxs[chosen]
    classes = _classes(idxs)
    if classes is None:
        keep = ops.nms(_single(boxes), _single(scores), iou_threshold)
    else:
        keep = ops.batched_nms(_single(boxes), _single(scores), classes, iou_threshold)
    keep = keep[:max_num] if max_num > 0 else keep
    return keep if chosen is None else chosen[keep]


def _single(a: Tensor) -> Tensor:
    """Without gradient, and float64 in float32, in which boxes are suppressed."""
    return a.detach().float() if a.dtype == torch.float64 else a.detach()


def _classes(idxs: Tensor | None) -> Tensor | None:
    """Whole numbers; floating point classes are compared as they are."""
    if idxs is None or not idxs.is_floating_point():
        return None if idxs is None else idxs.long()
    return idxs.unique(return_inverse=True)[1]


def _ends(boxes: Tensor, offset: int) -> Tensor:
    """Corners whose difference is the size: with ``offset`` 1, boxes name their last pixel."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] + 1), -1) if offset else boxes


def _mirrored(boxes: Tensor) -> Tensor:
    """Angles that turn the other way."""
    return torch.cat((boxes[..., :4], -boxes[..., 4:]), -1)


def _over_first(a: Tensor, b: Tensor) -> Tensor:
    a, b = a[..., :, None, :].float(), b[..., None, :, :].float()
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    area = (a[..., 2:] - a[..., :2]).prod(-1)
    return torch.where(area > 0, sides.clamp(min=0).prod(-1) / area.clamp_min(torch.finfo(area.dtype).tiny), 0.0)


def _check_offset(op: str, offset: int) -> None:
    if offset not in (0, 1):
        raise ValueError(f"{op}: offset must be 0 or 1, got {offset}")


def _check_boxes(op: str, boxes: Tensor, scores: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or tuple(scores.shape) != (len(boxes),):
        raise ValueError(f"{op}: boxes and scores must be (N, 4) and (N,), got {(*boxes.shape,)}, {(*scores.shape,)}")
