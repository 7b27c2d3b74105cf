# SPDX-License-Identifier: Apache-2.0
"""What the heads of several families share: their raw output, the grid of points, distances to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdet.ops import HeadFormat, Kept, decode_candidates, topk_detections


class RawHead(NamedTuple):
    """What a head returns: nothing decoded, one tensor per level, finest level first.

    cls_logits: [B, C, H, W] each, before the sigmoid.
    reg_logits: [B, 4 * bins, H, W] each, before the softmax; channels are side-major (left, top, right, bottom), bins
        within a side.
    extra: [B, E, H, W] each, what the task adds to a box: mask coefficients, keypoints, angle. Empty for detection.
    prototypes: of segmentation one tensor [B, E, H, W], half the stride of the finest level; else empty.
    other_cls_logits, other_reg_logits, other_extra: the same of a second head that does not predict: an auxiliary one
        (YOLOv9), or the one of two that was not chosen (YOLOv10, YOLO26). Empty in the deployed graph.
    """

    cls_logits: tuple[Tensor, ...]
    reg_logits: tuple[Tensor, ...]
    extra: tuple[Tensor, ...] = ()
    prototypes: tuple[Tensor, ...] = ()
    other_cls_logits: tuple[Tensor, ...] = ()
    other_reg_logits: tuple[Tensor, ...] = ()
    other_extra: tuple[Tensor, ...] = ()

    @property
    def other(self) -> RawHead:
        """What the second head returns."""
        return RawHead(self.other_cls_logits, self.other_reg_logits, self.other_extra)


class AnchorRaw(NamedTuple):
    """What an anchor-based head returns: nothing decoded, one tensor per level, finest level first.

    logits: [B, P * (5 + C + E), H, W] each: for each of P anchors x, y, width, height, objectness, C classes and E
        columns of the task.
    prototypes: as in RawHead.
    other_logits: the same of an auxiliary head, in training only.
    """

    logits: tuple[Tensor, ...]
    prototypes: tuple[Tensor, ...] = ()
    other_logits: tuple[Tensor, ...] = ()


class ClassLogits(NamedTuple):
    """What a classifier returns. logits: [B, C], before the softmax."""

    logits: Tensor


class HeadMaps(NamedTuple):
    """What ``ops.detect`` and ``ops.decode_boxes`` take: maps of logits and of box codes per level, views of what the
    head gave, and how the codes are to be read."""

    logits: list[Tensor]
    codes: list[Tensor]
    head: HeadFormat


class Targets(NamedTuple):
    """Ground truth of a batch, one entry per picture; entries may be empty.

    boxes: [M, 4] float32 xyxy in network-input pixels each. labels: [M] int64 class ids each.
    """

    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """[B, K, H, W] per level -> [B, A, K], row-major inside a level, levels in the order given."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)


def grid_points(levels: Sequence[Tensor], strides: Sequence[int], *, offset: float) -> tuple[Tensor, Tensor]:
    """Points [A, 2] (x, y) in input pixels and their strides [A], float32, of all cells of the levels [.., H, W].

    ``offset`` is where in its cell a point lies, in cells: 0 the top-left corner, 0.5 the centre.
    """
    points, per_point = [], []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        x = (torch.arange(width, device=level.device, dtype=torch.float32) + offset) * stride
        y = (torch.arange(height, device=level.device, dtype=torch.float32) + offset) * stride
        points.append(torch.stack((x.repeat(height), y.repeat_interleave(width)), 1))
        per_point.append(torch.full((height * width,), float(stride), device=level.device))
    return torch.cat(points), torch.cat(per_point)


def expected_distances(reg_logits: Tensor, bins: Tensor) -> Tensor:
    """[..., 4, R] logits over bins -> [..., 4] expected distances, in the units of ``bins`` [R]."""
    bins = bins.to(reg_logits.dtype)
    with torch.autocast(reg_logits.device.type, enabled=False):  # half precision would move a side by half a pixel
        # A softmax over so few bins is not vectorised on the CPU; this is, and its two sums are one product.
        weights = (reg_logits - reg_logits.detach().amax(-1, keepdim=True)).exp_()
        moments = weights @ torch.stack((bins, torch.ones_like(bins)), 1)
        return moments[..., 0] / moments[..., 1]


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes xyxy [..., A, 4] from points [A, 2] and distances to left, top, right, bottom [..., A, 4], same units."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)


def boxes_to_distances(points: Tensor, boxes: Tensor, limit: float) -> Tensor:
    """Inverse of ``distances_to_boxes``, clamped to [0, limit]."""
    distances = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), -1)
    return distances.clamp(0, limit)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners [..., 4] -> centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre x, centre y, width, height [..., 4] -> corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def level_name(stride: int) -> str:
    """``P3`` for stride 8, ``P4`` for 16, and so on."""
    return f"P{stride.bit_length() - 1}"


def top_detections(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float | None = None,
    max_det: int = 300,
    classes: Sequence[int] | None = None,
) -> Kept:
    """The best (box, class) pairs of each picture by falling score, without suppression; for heads trained one-to-one.

    Args:
        boxes: [B, A, 4]. scores: [B, A, C]. max_det, score_threshold: as of ``fastdet.ops.topk_detections``.
        classes: only these ids, of the ``max_det`` best pairs; None for all.

    Returns:
        Kept: boxes [B, D, 4], scores [B, D], labels and index [B, D] int32, count [B] int32; rows past ``count`` are 0,
        label and index -1.
    """
    kept = topk_detections(scores, boxes, max_det=max_det, score_threshold=score_threshold, sigmoid=False)
    if classes is None:
        return kept
    wanted = torch.isin(kept.labels, torch.as_tensor(list(classes), device=kept.labels.device))
    order = torch.argsort(wanted.int(), dim=1, descending=True, stable=True)
    rows = [torch.take_along_dim(column, order, 1) for column in (kept.scores, kept.labels, kept.index)]
    wanted = torch.take_along_dim(wanted, order, 1)
    ordered = torch.take_along_dim(kept.boxes, order[..., None], 1) * wanted[..., None]
    labels, index = (column.masked_fill(~wanted, -1) for column in rows[1:])
    return Kept(ordered, rows[0] * wanted, labels, index, wanted.sum(1, dtype=torch.int32))


def top_candidates(maps: HeadMaps, *, score_threshold: float, max_det: int = 300) -> Kept:
    """``top_detections`` from raw maps, with a threshold of at least 0: the same bits without dense scores.

    Never more pairs than there are cells, as YOLOv10's and YOLO26's own selection gives.
    """
    cells = sum(level[0, ..., 0, :, :].numel() for level in maps.logits)
    number = min(max_det, cells)
    kept = decode_candidates(*maps, score_threshold=score_threshold, max_candidates=number, multi_label=True)
    order = torch.argsort(kept.scores, dim=1, descending=True, stable=True)  # rows past the count hold 0
    boxes = torch.take_along_dim(kept.boxes, order[..., None], 1)
    scores, labels, index = (torch.take_along_dim(each, order, 1) for each in (kept.scores, kept.labels, kept.index))
    return Kept(boxes, scores, labels, index, kept.count)
