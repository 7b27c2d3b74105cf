# SPDX-License-Identifier: Apache-2.0
"""ZeroHead: one convolution per task and level, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdet.models.heads import RawHead, distances_to_boxes, expected_distances, flatten_levels, grid_points


class FlatHead(NamedTuple):
    """A head's output with all levels joined, float32.

    cls_logits: [B, A, C]. reg_logits: [B, A, 4, reg_max + 1]. points: [A, 2] top-left corners of the cells, in input
    pixels. strides: [A].
    """

    cls_logits: Tensor
    reg_logits: Tensor
    points: Tensor
    strides: Tensor


class ZeroHead(nn.Module):
    """Class logits and box-side distributions per level.

    Args:
        c_in: channels of the levels. num_classes: C. kernel: of the convolutions. reg_max: last distance bin.
        strides: input pixels per cell of the levels.
    """

    bins: Tensor

    def __init__(
        self, c_in: Sequence[int], num_classes: int, *, kernel: int, reg_max: int, strides: Sequence[int] = (8, 16, 32)
    ):
        super().__init__()
        self.num_classes, self.reg_max, self.strides = num_classes, reg_max, tuple(strides)
        self.register_buffer("bins", torch.arange(reg_max + 1, dtype=torch.float32))
        self.cls = nn.ModuleList(nn.Conv2d(c, num_classes, kernel, padding=kernel // 2) for c in c_in)
        self.reg = nn.ModuleList(nn.Conv2d(c, 4 * (reg_max + 1), kernel, padding=kernel // 2) for c in c_in)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in c_in)
        for convs, bias in ((self.cls, -log(99)), (self.reg, 0.0)):  # every class starts at a score of 0.01
            for name, parameter in convs.named_parameters():
                if name.endswith("weight"):
                    nn.init.normal_(parameter, 0, 0.01)
                else:
                    nn.init.constant_(parameter, bias)

    def forward(self, features: Sequence[Tensor]) -> RawHead:
        """[B, c_in[i], H_i, W_i] per level -> RawHead."""
        cls_logits = tuple(conv(x) for conv, x in zip(self.cls, features, strict=True))
        reg_logits = tuple(conv(x) * scale for conv, scale, x in zip(self.reg, self.scales, features, strict=True))
        return RawHead(cls_logits, reg_logits)

    def flatten(self, raw: RawHead) -> FlatHead:
        """Join the levels, finest first, row-major inside a level."""
        points, strides = grid_points(raw.cls_logits, self.strides, offset=0.0)
        reg_logits = flatten_levels(raw.reg_logits).float().unflatten(-1, (4, self.reg_max + 1))
        return FlatHead(flatten_levels(raw.cls_logits).float(), reg_logits, points, strides)

    def distances(self, raw: RawHead) -> Tensor:
        """Expected distances [B, A, 4] of left, top, right, bottom sides from each point, in strides."""
        return expected_distances(self.flatten(raw).reg_logits, self.bins)

    def decode(self, raw: RawHead) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] xyxy in input pixels, not clipped, and scores [B, A, C] in [0, 1]; float32."""
        flat = self.flatten(raw)
        distances = expected_distances(flat.reg_logits, self.bins) * flat.strides[:, None]
        return distances_to_boxes(flat.points, distances), flat.cls_logits.sigmoid()
