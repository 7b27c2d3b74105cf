# SPDX-License-Identifier: Apache-2.0
"""Anchor-free head of YOLOv8 and what came after it: distances to the four sides, class scores, and the tasks' extras.

Names of the parts are those of the checkpoints: ``cv2`` boxes, ``cv3`` classes, ``cv4`` the task, ``dfl``, ``proto``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log
from typing import Any, cast

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


def branch(c_in: int, middle: int, c_out: int, *, groups: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions of ``middle`` channels and a plain 1x1 convolution; the last two in ``groups``."""
    return nn.Sequential(
        ConvNormAct(c_in, middle, kernel=3),
        ConvNormAct(middle, middle, kernel=3, groups=groups),
        nn.Conv2d(middle, c_out, 1, groups=groups),
    )


def depthwise_branch(c_in: int, middle: int, c_out: int) -> nn.Sequential:
    """``branch`` with each 3x3 convolution split into a depthwise 3x3 and a 1x1."""
    return nn.Sequential(
        nn.Sequential(ConvNormAct(c_in, c_in, kernel=3, groups=c_in), ConvNormAct(c_in, middle)),
        nn.Sequential(ConvNormAct(middle, middle, kernel=3, groups=middle), ConvNormAct(middle, middle)),
        nn.Conv2d(middle, c_out, 1),
    )


def class_width(c_in: int, num_classes: int, limit: tuple[int, int] = (1, 100)) -> int:
    """Width of class branches: ``limit[0]`` times the classes, at most ``limit[1]``; at least the finest level's."""
    return max(c_in, min(limit[0] * num_classes, limit[1]))


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
        depthwise: class branches with depthwise convolutions. box_groups: groups inside a box branch.
        class_limit: see the function ``class_width``; class_width: the width itself, where a checkpoint has another.
        box_start: initial bias of the distances.
    """

    def __init__(
        self,
        c_in: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int],
        reg_max: int = 16,
        depthwise: bool = False,
        box_groups: int = 1,
        class_limit: tuple[int, int] = (1, 100),
        class_width: int | None = None,
        box_start: float = 2.0,
    ):
        super().__init__()
        self.num_classes, self.reg_max, self.strides = num_classes, reg_max, tuple(strides)
        self.box_groups, self.box_start, self.class_limit, self.class_width = (
            box_groups, box_start, class_limit, class_width,
        )  # fmt: skip
        self.class_branch = depthwise_branch if depthwise else branch
        self.cv2, self.cv3 = self.branches(c_in)
        self.dfl = Projection(reg_max) if reg_max > 1 else nn.Identity()

    def branches(self, c_in: Sequence[int]) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Box and class branches for levels of ``c_in`` channels.

        Initial biases of their last convolutions: classes as if 5 objects lay in a picture of 640 pixels.
        """
        groups = self.box_groups
        box_width = groups * ceil(max(16, c_in[0] // 4, 4 * self.reg_max) / groups)
        classes_width = self.class_width or class_width(c_in[0], self.num_classes, self.class_limit)
        boxes = [branch(c, box_width, 4 * self.reg_max, groups=groups) for c in c_in]
        classes = [self.class_branch(c, classes_width, self.num_classes) for c in c_in]
        for box, scores, stride in zip(boxes, classes, self.strides, strict=True):
            nn.init.constant_(cast(Any, box)[-1].bias, self.box_start)
            nn.init.constant_(cast(Any, scores)[-1].bias, log(5 / self.num_classes / (640 / stride) ** 2))
        return nn.ModuleList(boxes), nn.ModuleList(classes)

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
