# SPDX-License-Identifier: Apache-2.0
"""YOLO26: YOLO11's table with attention in the last block, distances without bins, and two heads, one NMS-free."""

from __future__ import annotations

from torch import nn

from fastdet.models.blocks import SPPF, Bottleneck, C2f, C3k, PSABlock
from fastdet.models.c3k2_tables import SIZES, backbone, neck
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphSpec
from fastdet.models.two_head import TwoHeads

__all__ = ["SPECS"]


def attentive(c_in: int, c_out: int) -> nn.Sequential:
    """A unit of the last block: a bottleneck, then attention with 64 channels a head."""
    return nn.Sequential(Bottleneck(c_in, c_out), PSABlock(c_out, max(c_out // 64, 1)))


POOLING = Row(SPPF, 1024, act=None, shortcut=True)
LAST = Row(C2f, 1024, unit=attentive, tap="P5")


def _spec(size: str) -> GraphSpec:
    depth, width, most, wide = SIZES[size]
    return GraphSpec(
        name=f"yolo26{size}",
        family="yolo26",
        input_size=(640, 640),
        rows=backbone(wide) + neck(POOLING, C3k, LAST),
        head=TwoHeads,
        depthwise=True,
        reg_max=1,
        nms_free=True,
        depth=depth,
        width=width,
        max_channels=most,
        license="AGPL-3.0",
    )


SPECS = {spec.name: spec for spec in map(_spec, SIZES)}
