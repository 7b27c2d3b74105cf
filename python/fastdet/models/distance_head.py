# SPDX-License-Identifier: Apache-2.0
"""Anchor-free head of YOLOv8 and what came after it: distances to the four sides, class scores, and the tasks' extras.

Names of the parts are those of the checkpoints: ``cv2`` boxes, ``cv3`` classes, ``cv4`` the task, ``dfl``, ``proto``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log, pi
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from fastdet.models.blocks import ConvNormAct
from fastdet.models.heads import (
    HeadMaps,
    RawHead,
    distances_to_boxes,
    expected_distances,
    flatten_levels,
    grid_points,
    level_name,
    xyxy_to_cxcywh,
)
from fastdet.models.keys import shape_of
from fastdet.ops import HeadFormat


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
        class_limit: see the function ``class_width``; class_width: the width itself, or 0.
        box_start: initial bias of the distances.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("reg_max", "depthwise")
    extra_name = "extra"

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
        class_width: int = 0,
        box_start: float = 2.0,
    ):
        super().__init__()
        self.num_classes, self.reg_max, self.strides = num_classes, reg_max, tuple(strides)
        self.format = HeadFormat("dfl" if reg_max > 1 else "distance", self.strides)
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

    def head_maps(self, raw: RawHead) -> HeadMaps:
        """The maps as they are."""
        return HeadMaps(list(raw.cls_logits), list(raw.reg_logits), self.format)

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

    def case_outputs(self, raw: RawHead) -> dict[str, Tensor]:
        """All outputs under the names of parity cases."""
        outputs = {"decoded": self.rows(raw)}
        for kind, levels in (("box", raw.reg_logits), ("cls", raw.cls_logits), (self.extra_name, raw.extra)):
            outputs |= {f"{kind}.{level_name(stride)}": level for stride, level in zip(self.strides, levels)}
        return outputs | ({"proto": raw.prototypes[0]} if raw.prototypes else {})

    @classmethod
    def read(cls, state: Mapping[str, Any], prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Class count and options that a state dict shows of a head whose keys begin with ``prefix``, or None."""
        boxes, scores = (shape_of(state, f"{prefix}{name}.0.2.weight") for name in ("cv2", "cv3"))
        if not boxes or not scores or f"{prefix}one2one_cv2.0.2.weight" in state:
            return None
        task = cls.read_task(state, prefix)
        if task is None:
            return None
        depthwise = f"{prefix}cv3.0.0.0.conv.weight" in state
        return scores[0], {"reg_max": boxes[0] // 4, "depthwise": depthwise, **task}

    @classmethod
    def read_task(cls, state: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
        """Options of the task that a state dict shows, or None if its head is for another task."""
        return None if f"{prefix}cv4.0.2.weight" in state else {}


class Prototypes(nn.Module):
    """Mask prototypes at twice the size of the finest level. Keys ``cv1``, ``upsample``, ``cv2``, ``cv3``."""

    def __init__(self, c_in: int, width: int, masks: int):
        super().__init__()
        self.cv1 = ConvNormAct(c_in, width, kernel=3)
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.cv2 = ConvNormAct(width, width, kernel=3)
        self.cv3 = ConvNormAct(width, masks)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, masks, 2 H, 2 W]."""
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class TaskHead(DistanceHead):
    """A DistanceHead with a third branch ``cv4`` of ``columns`` channels; what they mean is the subclass's.

    Args:
        c_in, num_classes, options: as of DistanceHead. columns: E.
    """

    def __init__(self, c_in: Sequence[int], num_classes: int, *, columns: int, **options: Any):
        super().__init__(c_in, num_classes, **options)
        self.columns = columns
        self.cv4 = nn.ModuleList(branch(c, max(c_in[0] // 4, columns), columns) for c in c_in)

    def forward(self, features: Sequence[Tensor]) -> RawHead:
        """[B, c_in[i], H_i, W_i] per level -> RawHead with ``extra``."""
        return super().forward(features)._replace(extra=tuple(conv(x) for conv, x in zip(self.cv4, features)))

    def columns_of(self, raw: RawHead) -> Tensor:
        """The third branch of all levels [B, A, E], float32, as it is."""
        return flatten_levels(raw.extra).float()


class SegmentHead(TaskHead):
    """Adds mask coefficients to each box, and prototypes to each picture: mask = coefficients . prototypes > 0."""

    OPTIONS = (*DistanceHead.OPTIONS, "masks", "prototype_width")
    extra_name = "coef"

    def __init__(self, c_in: Sequence[int], num_classes: int, *, masks: int = 32, prototype_width: int, **options: Any):
        super().__init__(c_in, num_classes, columns=masks, **options)
        branches = self.cv4
        del self.cv4  # stands behind the prototypes in checkpoints
        self.proto = Prototypes(c_in[0], prototype_width, masks)
        self.cv4 = branches

    def forward(self, features: Sequence[Tensor]) -> RawHead:
        """[B, c_in[i], H_i, W_i] per level -> RawHead with ``extra`` and ``prototypes``."""
        return super().forward(features)._replace(prototypes=(self.proto(features[0]),))

    def extras(self, raw: RawHead) -> tuple[Tensor, ...]:
        """Mask coefficients [B, A, masks], linear."""
        return (self.columns_of(raw),)

    @classmethod
    def read_task(cls, state: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
        """Number of masks and width of the prototypes, or None without prototypes."""
        masks, width = (shape_of(state, f"{prefix}{name}.weight") for name in ("cv4.0.2", "proto.upsample"))
        return {"masks": masks[0], "prototype_width": width[0]} if masks and width else None


class PoseHead(TaskHead):
    """Adds keypoints to each box. ``keypoints``: (K, D), D = 3 with visibility, 2 without."""

    OPTIONS = (*DistanceHead.OPTIONS, "keypoints")
    extra_name = "kpt"

    def __init__(self, c_in: Sequence[int], num_classes: int, *, keypoints: tuple[int, int] = (17, 3), **options: Any):
        super().__init__(c_in, num_classes, columns=keypoints[0] * keypoints[1], **options)
        self.keypoints = (keypoints[0], keypoints[1])

    def extras(self, raw: RawHead) -> tuple[Tensor, ...]:
        """Keypoints [B, A, K * D]: x, y in input pixels, and visibility in [0, 1] where D is 3."""
        points, strides = self.points(raw)
        values = self.columns_of(raw).unflatten(-1, self.keypoints)
        places = values[..., :2] * (2 * strides[:, None]) + (points - strides / 2)[:, None]
        return (torch.cat((places, values[..., 2:].sigmoid()), -1).flatten(2),)

    @classmethod
    def read_task(cls, state: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
        """Number of keypoints; three values each where their total allows it."""
        columns = shape_of(state, f"{prefix}cv4.0.2.weight")
        if not columns or columns[0] < 2 or f"{prefix}proto.cv1.conv.weight" in state:
            return None
        values = 3 if columns[0] % 3 == 0 else 2
        return {"keypoints": (columns[0] // values, values)}


class RotatedHead(TaskHead):
    """Adds an angle to each box; boxes are rotated about their own centre."""

    extra_name = "angle"

    def __init__(self, c_in: Sequence[int], num_classes: int, **options: Any):
        super().__init__(c_in, num_classes, columns=1, **options)

    def decode(self, raw: RawHead) -> tuple[Tensor, Tensor]:
        """Rotated boxes have no corners x1, y1, x2, y2: always NotImplementedError. See ``decode_rotated``."""
        raise NotImplementedError("decode: boxes of a rotated head are (x, y, w, h, angle); use head.decode_rotated")

    def decode_rotated(self, raw: RawHead) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 5]: centre, size in input pixels, angle in radians, in [-pi/4, 3 pi/4); scores [B, A, C]."""
        points, strides = self.points(raw)
        left, top, right, bottom = (self.distances(raw) * strides).unbind(-1)
        angle = (self.columns_of(raw).squeeze(-1).sigmoid() - 0.25) * pi
        cos, sin = angle.cos(), angle.sin()
        dx, dy = (right - left) / 2, (bottom - top) / 2
        x, y = points[:, 0] + dx * cos - dy * sin, points[:, 1] + dx * sin + dy * cos
        return torch.stack((x, y, left + right, top + bottom, angle), -1), self.scores(raw)

    def rows(self, raw: RawHead) -> Tensor:
        """The reference's decoded rows [B, 5 + C, A]: centre, size, scores, angle; float32."""
        boxes, scores = self.decode_rotated(raw)
        return torch.cat((boxes[..., :4], scores, boxes[..., 4:]), -1).transpose(1, 2)

    @classmethod
    def read_task(cls, state: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
        """{} where the third branch is one angle, else None."""
        return {} if shape_of(state, f"{prefix}cv4.0.2.weight")[:1] == (1,) else None
