# SPDX-License-Identifier: Apache-2.0
"""Anchor-free head of YOLOv8 and what came after it: distances to the four sides, class scores, and the tasks' extras.

Names of the parts are those of the checkpoints: ``cv2`` boxes, ``cv3`` classes, ``cv4`` the task, ``dfl``, ``proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import cast

import torch
from torch import Tensor, nn

from fastdet.models.blocks import ConvNormAct
from fastdet.models.heads import (
    RawHead,
    distances_to_boxes,
    expected_distances,
    flatten_levels,
    grid_points,
    level_name,
    xyxy_to_cxcywh,
)


def branch(c_in: int, middle: int, c_out: int) -> nn.Sequential:
    """Two 3x3 convolutions of ``middle`` channels and a plain 1x1 convolution."""
    return nn.Sequential(
        ConvNormAct(c_in, middle, kernel=3), ConvNormAct(middle, middle, kernel=3), nn.Conv2d(middle, c_out, 1)
    )


def depthwise_branch(c_in: int, middle: int, c_out: int) -> nn.Sequential:
    """``branch`` with each 3x3 convolution split into a depthwise 3x3 and a 1x1."""
    return nn.Sequential(
        nn.Sequential(ConvNormAct(c_in, c_in, kernel=3, groups=c_in), ConvNormAct(c_in, middle)),
        nn.Sequential(ConvNormAct(middle, middle, kernel=3, groups=middle), ConvNormAct(middle, middle)),
        nn.Conv2d(middle, c_out, 1),
    )


class Projection(nn.Module):
    """The bins 0, 1, ... of a distance as the constant that checkpoints keep: ``conv.weight`` [1, bins, 1, 1]."""

    def __init__(self, bins: int):
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1)

    def forward(self, reg_logits: Tensor) -> Tensor:
        """[..., 4, bins] logits -> [..., 4] expected distances, float32."""
        return expected_distances(reg_logits.float(), self.conv.weight.flatten().float())


class DistanceHead(nn.Module):
    """Class logits and box-side distances per level.

    Args:
        c_in: channels of the levels, finest first. num_classes: C. strides: input pixels per cell of the levels.
        reg_max: bins of a distance; 1 for a distance that is given directly.
        depthwise: class branches with depthwise convolutions.
    """

    def __init__(
        self,
        c_in: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int],
        reg_max: int = 16,
        depthwise: bool = False,
    ):
        super().__init__()
        self.num_classes, self.reg_max, self.strides = num_classes, reg_max, tuple(strides)
        box_width = max(16, c_in[0] // 4, 4 * reg_max)
        class_width = max(c_in[0], min(num_classes, 100))
        class_branch = depthwise_branch if depthwise else branch
        self.cv2 = nn.ModuleList(branch(c, box_width, 4 * reg_max) for c in c_in)
        self.cv3 = nn.ModuleList(class_branch(c, class_width, num_classes) for c in c_in)
        self.dfl = Projection(reg_max) if reg_max > 1 else nn.Identity()
        self.start_biases(self.cv2, self.cv3)

    def start_biases(self, boxes: nn.ModuleList, classes: nn.ModuleList) -> None:
        """Initial biases of the last convolutions: boxes 2, classes as if 5 objects lay in a picture of 640 pixels."""
        for box, scores, stride in zip(boxes, classes, self.strides, strict=True):
            nn.init.constant_(cast(nn.Sequential, box)[-1].bias, 2.0)
            nn.init.constant_(cast(nn.Sequential, scores)[-1].bias, log(5 / self.num_classes / (640 / stride) ** 2))

    def forward(self, features: Sequence[Tensor]) -> RawHead:
        """[B, c_in[i], H_i, W_i] per level -> RawHead."""
        reg_logits = tuple(conv(x) for conv, x in zip(self.cv2, features))
        return RawHead(tuple(conv(x) for conv, x in zip(self.cv3, features)), reg_logits)

    def distances(self, raw: RawHead) -> Tensor:
        """Distances [B, A, 4] of left, top, right, bottom sides from each point, in strides, float32."""
        flat = flatten_levels(raw.reg_logits)
        return self.dfl(flat.unflatten(-1, (4, self.reg_max))) if self.reg_max > 1 else flat.float()

    def points(self, raw: RawHead) -> tuple[Tensor, Tensor]:
        """Cell centres [A, 2] in input pixels and strides [A, 1]."""
        points, strides = grid_points(raw.cls_logits, self.strides, offset=0.5)
        return points, strides[:, None]

    def scores(self, raw: RawHead) -> Tensor:
        """Scores [B, A, C] in [0, 1], float32."""
        return flatten_levels(raw.cls_logits).float().sigmoid()

    def decode(self, raw: RawHead) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C] in [0, 1]; float32."""
        points, strides = self.points(raw)
        return distances_to_boxes(points, self.distances(raw) * strides), self.scores(raw)

    def rows(self, raw: RawHead) -> Tensor:
        """The reference's decoded rows [B, 4 + C + E, A]: centre, size, scores, and the task's columns; float32."""
        boxes, scores = self.decode(raw)
        return torch.cat((xyxy_to_cxcywh(boxes), scores, *self.extras(raw)), -1).transpose(1, 2)

    def extras(self, raw: RawHead) -> tuple[Tensor, ...]:
        """The task's decoded columns [B, A, E], in a tuple; () for detection."""
        return ()

    extra_name = "extra"

    def case_outputs(self, raw: RawHead) -> dict[str, Tensor]:
        """All outputs under the names of parity cases."""
        outputs = {"decoded": self.rows(raw)}
        for kind, levels in (("box", raw.reg_logits), ("cls", raw.cls_logits), (self.extra_name, raw.extra)):
            outputs |= {f"{kind}.{level_name(stride)}": level for stride, level in zip(self.strides, levels)}
        return outputs
