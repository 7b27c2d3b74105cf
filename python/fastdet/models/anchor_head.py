# SPDX-License-Identifier: Apache-2.0
"""Anchor-based head of YOLOv5 and YOLOv7: for each anchor of a cell a box, an objectness and class scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from fastdet.models.blocks import ConvNormAct, Upsample
from fastdet.models.heads import AnchorRaw, HeadMaps, cxcywh_to_xyxy, level_name
from fastdet.models.keys import shape_of
from fastdet.ops import HeadFormat

COCO_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)  # width, height in pixels; one row per level


class AnchorHead(nn.Module):
    """One 1x1 convolution per level.

    ``anchors`` [L, P, 2] (width, height) is in cells of its level, as in the checkpoints, and is loaded with the
    weights. With t the sigmoid of an attribute, g the cell, s the stride and a the anchor in pixels: centre
    (2 t - 0.5 + g) s, size (2 t)^2 a, score = objectness times class.

    Args:
        c_in: channels of the levels, finest first. num_classes: C. strides: input pixels per cell of the levels.
        anchors: P pairs (width, height) in pixels per level. extra: E, columns of the task.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("anchors",)
    single_class_objectness = False  # True: with one class a score is the objectness
    class_margin = 0.99999  # keeps the initial class bias finite where there is one class
    anchors: Tensor

    def __init__(
        self,
        c_in: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int],
        anchors: Sequence[Sequence[tuple[float, float]]] = COCO_ANCHORS,
        extra: int = 0,
    ):
        super().__init__()
        self.num_classes, self.extra, self.strides = num_classes, extra, tuple(strides)
        pixels = torch.tensor(anchors, dtype=torch.float32)
        self.register_buffer("anchors", pixels / torch.tensor(self.strides, dtype=torch.float32)[:, None, None])
        self._format: tuple[tuple[int, int], HeadFormat] | None = None
        self.per_cell = pixels.shape[1]
        self.columns = 5 + num_classes + extra
        self.m = nn.ModuleList(nn.Conv2d(c, self.per_cell * self.columns, 1) for c in c_in)
        self.start_biases(self.m)

    @torch.no_grad()
    def start_biases(self, convs: nn.ModuleList) -> None:
        """Add to the biases of ``convs``, one a level: 8 objects in a picture of 640 pixels, classes seldom."""
        for conv, stride in zip(convs, self.strides, strict=True):
            bias = cast(Tensor, conv.bias).view(self.per_cell, self.columns)
            bias[:, 4] += log(8 / (640 / stride) ** 2)
            bias[:, 5 : 5 + self.num_classes] += log(0.6 / (self.num_classes - self.class_margin))

    def forward(self, features: Sequence[Tensor]) -> AnchorRaw:
        """[B, c_in[i], H_i, W_i] per level -> AnchorRaw."""
        return AnchorRaw(tuple(conv(x) for conv, x in zip(self.m, features)))

    def maps(self, raw: AnchorRaw) -> list[Tensor]:
        """The levels as [B, P, H, W, 5 + C + E], views of what ``forward`` gave."""
        return [level.unflatten(1, (self.per_cell, self.columns)).movedim(2, -1) for level in raw.logits]

    def named_maps(self, raw: AnchorRaw) -> dict[str, Sequence[Tensor]]:
        """What ``forward`` gave, by name; beside it the objectness logits [B, P, H, W] of the levels."""
        objectness = tuple(level[..., 4] for level in self.maps(raw))
        return {"logits": raw.logits, "objectness": objectness, "prototypes": raw.prototypes}

    def predictions(self, raw: AnchorRaw) -> tuple[Tensor, Tensor, Tensor]:
        """All levels, in a level anchor by anchor, row-major: float32.

        Returns:
            Boxes [B, A, 4] (centre, size) in input pixels; objectness and class scores [B, A, 1 + C] in [0, 1], not
            multiplied; the task's columns [B, A, E] as they are.
        """
        boxes, scores, extras = [], [], []
        for level, stride, anchors in zip(self.maps(raw), self.strides, self.anchors.float(), strict=True):
            box, score, extra = level.float().split((4, 1 + self.num_classes, self.extra), -1)
            height, width = level.shape[2:4]
            y = torch.arange(height, device=level.device, dtype=torch.float32)
            x = torch.arange(width, device=level.device, dtype=torch.float32)
            cells = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)
            t = box.sigmoid()
            centre = (t[..., :2] * 2 - 0.5 + cells) * stride
            size = (t[..., 2:] * 2) ** 2 * (anchors * stride)[:, None, None]
            boxes.append(torch.cat((centre, size), -1).flatten(1, 3))
            scores.append(score.sigmoid().flatten(1, 3))
            extras.append(extra.flatten(1, 3))
        return torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(extras, 1)

    def head_maps(self, raw: AnchorRaw) -> HeadMaps:
        """Views of the maps; of the anchors, which come with the weights, a copy for as long as they stay the same."""
        version = (self.anchors.data_ptr(), self.anchors._version)
        if self._format is None or self._format[0] != version:
            pixels = self.anchors.float() * torch.tensor(self.strides, device=self.anchors.device)[:, None, None]
            anchors = tuple(tuple((w, h) for w, h in level) for level in pixels.tolist())
            self._format = version, HeadFormat("anchors", self.strides, anchors=anchors)
        alone = self.single_class_objectness and self.num_classes == 1
        levels = [level.unflatten(1, (self.per_cell, self.columns)) for level in raw.logits[: len(self.strides)]]
        logits = [level[:, :, 4:5] if alone else level[:, :, 5 : 5 + self.num_classes] for level in levels]
        return HeadMaps(logits, [level[:, :, : 4 if alone else 5] for level in levels], self._format[1])

    def decode(self, raw: AnchorRaw) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C]: objectness times class; float32."""
        boxes, scores, _ = self.predictions(raw)
        return cxcywh_to_xyxy(boxes), scores[..., 1:] * scores[..., :1]

    def case_outputs(self, raw: AnchorRaw) -> dict[str, Tensor]:
        """All outputs under the names of parity cases."""
        boxes, scores, extra = self.predictions(raw)
        levels = zip(self.strides, self.maps(raw))
        outputs = {f"raw_{level_name(stride).lower()}": level for stride, level in levels}
        outputs |= {"pred_box": boxes, "pred_score": scores}
        return outputs | ({"pred_mask": extra, "proto": raw.prototypes[0]} if raw.prototypes else {})

    @classmethod
    def read(cls, state: Mapping[str, Any], prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Class count and options that a state dict shows of a head whose keys begin with ``prefix``, or None."""
        anchors, rows = (shape_of(state, prefix + name) for name in ("anchors", "m.0.weight"))
        masks = shape_of(state, f"{prefix}proto.cv3.conv.weight")
        if len(anchors) != 3 or not anchors[1] or not rows or cls is not (AnchorSegmentHead if masks else AnchorHead):
            return None
        options: dict[str, Any] = {"masks": masks[0], "prototype_width": masks[1]} if masks else {}
        if anchors[1] != len(COCO_ANCHORS[0]):  # only their number counts here: their values come with the weights
            options["anchors"] = (((1.0, 1.0),) * anchors[1],) * anchors[0]
        return rows[0] // anchors[1] - 5 - options.get("masks", 0), options


class NearestPrototypes(nn.Module):
    """Mask prototypes at twice the size of the finest level. Keys ``cv1``, ``cv2``, ``cv3``."""

    def __init__(self, c_in: int, width: int, masks: int):
        super().__init__()
        self.cv1 = ConvNormAct(c_in, width, kernel=3)
        self.upsample = Upsample(width)
        self.cv2 = ConvNormAct(width, width, kernel=3)
        self.cv3 = ConvNormAct(width, masks)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, masks, 2 H, 2 W]."""
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class AnchorSegmentHead(AnchorHead):
    """Adds mask coefficients to each box, and prototypes to each picture: mask = coefficients . prototypes > 0."""

    OPTIONS = (*AnchorHead.OPTIONS, "masks", "prototype_width")

    def __init__(self, c_in: Sequence[int], num_classes: int, *, masks: int = 32, prototype_width: int, **options: Any):
        super().__init__(c_in, num_classes, extra=masks, **options)
        self.proto = NearestPrototypes(c_in[0], prototype_width, masks)

    def forward(self, features: Sequence[Tensor]) -> AnchorRaw:
        """[B, c_in[i], H_i, W_i] per level -> AnchorRaw with ``prototypes``."""
        return super().forward(features)._replace(prototypes=(self.proto(features[0]),))
