# SPDX-License-Identifier: Apache-2.0
"""Assign, then lose: AlignedOTA, quality focal loss, GIoU and distribution focal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastdet.assign import PaddedTargets, aligned_ota
from fastdet.losses import distribution_focal_loss, giou_loss, quality_focal_loss
from fastdet.models.damo_yolo.head import FlatHead
from fastdet.models.heads import boxes_to_distances, distances_to_boxes


class Assigned(NamedTuple):
    """Training targets of every point of a batch.

    labels: [B, A] int64, C = background. label_scores: [B, A] float32, 0 for background. boxes: [B, A, 4] xyxy input
    pixels; distances: [B, A, 4] in strides, both zero for background. num_pos: [B] int32.
    """

    labels: Tensor
    label_scores: Tensor
    boxes: Tensor
    distances: Tensor
    num_pos: Tensor


@dataclass(frozen=True)
class Criterion:
    """DAMO-YOLO's training loss. All shapes depend on sizes known to the host, so no value is read back from a device.

    The published constants are the defaults. ``num_pos`` and the sum of box weights are at least 1 as divisors, so a
    batch without positives gives a finite loss and zero box gradients.
    """

    num_classes: int
    reg_max: int
    center_radius: float = 2.5
    topk: int = 10
    class_cost: float = 1.0
    iou_cost: float = 3.0
    cls_weight: float = 1.0
    bbox_weight: float = 2.0
    dfl_weight: float = 0.25

    def __call__(self, flat: FlatHead, truth: PaddedTargets) -> tuple[dict[str, Tensor], Assigned]:
        """Losses from flattened head outputs and ground truth on the same device.

        Returns:
            ``loss``, ``loss_cls``, ``loss_bbox``, ``loss_dfl`` (weighted scalars; only the first has a gradient) and
            ``num_pos``; and the targets they were computed with.
        """
        scores = flat.cls_logits.sigmoid()
        bins = torch.arange(self.reg_max + 1, dtype=torch.float32, device=scores.device)
        # As the reference computes it, to the bit, so that the assignment makes the same decisions.
        with torch.autocast(scores.device.type, enabled=False):
            distances = (flat.reg_logits.softmax(-1) @ bins) * flat.strides[:, None]
        boxes = distances_to_boxes(flat.points, distances)
        target = self.match(scores.detach(), boxes.detach(), flat.points, flat.strides, truth)

        num_pos = target.num_pos.sum()
        cls_sum = quality_focal_loss(scores, target.labels, target.label_scores).sum()
        loss_cls = self.cls_weight * cls_sum / num_pos.clamp(min=1)

        # Boxes count by how sure the point is of any class, not by the class of its target.
        weight = scores.detach().amax(-1) * (target.labels < self.num_classes)
        total_weight = weight.sum().clamp(min=1)
        loss_bbox = self.bbox_weight * (giou_loss(boxes, target.boxes) * weight).sum() / total_weight
        dfl_sum = (distribution_focal_loss(flat.reg_logits, target.distances) * weight.unsqueeze(-1)).sum()
        loss_dfl = self.dfl_weight * dfl_sum / (4 * total_weight)

        values = {
            "loss": loss_cls + loss_bbox + loss_dfl,
            "loss_cls": loss_cls.detach(),
            "loss_bbox": loss_bbox.detach(),
            "loss_dfl": loss_dfl.detach(),
            "num_pos": num_pos,
        }
        return values, target

    @torch.no_grad()
    def match(self, scores: Tensor, boxes: Tensor, points: Tensor, strides: Tensor, truth: PaddedTargets) -> Assigned:
        """Targets of all points; scores [B, A, C], boxes [B, A, 4] in input pixels, points [A, 2], strides [A]."""
        matched = aligned_ota(
            scores, boxes, points, strides, truth,
            center_radius=self.center_radius, topk=self.topk, class_weight=self.class_cost, iou_weight=self.iou_cost,
        )  # fmt: skip
        positive = (matched.matched_gt >= 0).unsqueeze(-1)
        index = matched.matched_gt.clamp(min=0).long().unsqueeze(-1).expand(-1, -1, 4)
        target_boxes = truth.boxes.gather(1, index) * positive
        distances = boxes_to_distances(points / strides[:, None], target_boxes / strides[:, None], self.reg_max - 0.1)
        return Assigned(
            matched.labels.long(), matched.label_scores, target_boxes, distances * positive, matched.num_pos
        )
