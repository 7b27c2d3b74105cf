# SPDX-License-Identifier: Apache-2.0
"""YOLOv5: C3 blocks with the anchor-based head it was published with, or (names ending in u) YOLOv8's.

The tables are those of release v7.0; files of v5.0 and before have other rows.
"""

from __future__ import annotations

from fastdet.models.anchor_head import COCO_ANCHORS, AnchorHead, AnchorSegmentHead
from fastdet.models.blocks import C3, SPPF, Concat, ConvNormAct, Upsample
from fastdet.models.classify_head import ClassifyHead
from fastdet.models.distance_head import DistanceHead
from fastdet.models.graph import Row
from fastdet.models.graph_model import GraphSpec

__all__ = ["SPECS"]

STEM = (
    Row(ConvNormAct, 64, kernel=6, stride=2),
    Row(ConvNormAct, 128, kernel=3, stride=2),
    Row(C3, 128, repeat=3),
    Row(ConvNormAct, 256, kernel=3, stride=2),
    Row(C3, 256, repeat=6),
    Row(ConvNormAct, 512, kernel=3, stride=2),
    Row(C3, 512, repeat=9),
)
BACKBONE = (
    *STEM,
    Row(ConvNormAct, 1024, kernel=3, stride=2),
    Row(C3, 1024, repeat=3),
)
NECK = (
    Row(SPPF, 1024),
    Row(ConvNormAct, 512),
    Row(Upsample),
    Row(Concat, source=(-1, 6)),
    Row(C3, 512, repeat=3, shortcut=False),
    Row(ConvNormAct, 256),
    Row(Upsample),
    Row(Concat, source=(-1, 4)),
    Row(C3, 256, repeat=3, shortcut=False, tap="P3"),
    Row(ConvNormAct, 256, kernel=3, stride=2),
    Row(Concat, source=(-1, 14)),
    Row(C3, 512, repeat=3, shortcut=False, tap="P4"),
    Row(ConvNormAct, 512, kernel=3, stride=2),
    Row(Concat, source=(-1, 10)),
    Row(C3, 1024, repeat=3, shortcut=False, tap="P5"),
)
FOUR_LEVELS = (
    *STEM,
    Row(ConvNormAct, 768, kernel=3, stride=2),
    Row(C3, 768, repeat=3),
    Row(ConvNormAct, 1024, kernel=3, stride=2),
    Row(C3, 1024, repeat=3),
    Row(SPPF, 1024),
    Row(ConvNormAct, 768),
    Row(Upsample),
    Row(Concat, source=(-1, 8)),
    Row(C3, 768, repeat=3, shortcut=False),
    Row(ConvNormAct, 512),
    Row(Upsample),
    Row(Concat, source=(-1, 6)),
    Row(C3, 512, repeat=3, shortcut=False),
    Row(ConvNormAct, 256),
    Row(Upsample),
    Row(Concat, source=(-1, 4)),
    Row(C3, 256, repeat=3, shortcut=False, tap="P3"),
    Row(ConvNormAct, 256, kernel=3, stride=2),
    Row(Concat, source=(-1, 20)),
    Row(C3, 512, repeat=3, shortcut=False, tap="P4"),
    Row(ConvNormAct, 512, kernel=3, stride=2),
    Row(Concat, source=(-1, 16)),
    Row(C3, 768, repeat=3, shortcut=False, tap="P5"),
    Row(ConvNormAct, 768, kernel=3, stride=2),
    Row(Concat, source=(-1, 12)),
    Row(C3, 1024, repeat=3, shortcut=False, tap="P6"),
)
FOUR_LEVEL_ANCHORS = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
# depth, width
SIZES = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}


def _specs(size: str) -> tuple[GraphSpec, ...]:
    depth, width = SIZES[size]
    plain = GraphSpec(
        name=f"yolov5{size}",
        family="yolov5",
        input_size=(640, 640),
        rows=BACKBONE + NECK,
        head=AnchorHead,
        anchors=COCO_ANCHORS,
        depth=depth,
        width=width,
        iou_threshold=0.65,
        predict_iou_threshold=0.45,
        predict_max_det=1000,
        ideal_ratio=True,
        license="AGPL-3.0 (GPL-3.0 up to release v7.0)",
    )
    return (
        plain,
        plain.variant(
            "6",
            input_size=(1280, 1280),
            strides=(8, 16, 32, 64),
            rows=FOUR_LEVELS,
            anchors=FOUR_LEVEL_ANCHORS,
        ),
        plain.variant(
            "-seg",
            task="segment",
            head=AnchorSegmentHead,
            prototype_width=plain.channels(256),
        ),
        plain.variant(
            "-cls",
            task="classify",
            num_classes=1000,
            input_size=(224, 224),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            rows=(*BACKBONE[:-1], Row(C3, 1024, repeat=3, tap="P5")),
            head=ClassifyHead,
            anchors=(),
        ),
        plain.variant(
            "u",
            head=DistanceHead,
            anchors=(),
            iou_threshold=0.7,
            predict_iou_threshold=0.7,
            predict_max_det=300,
            ideal_ratio=False,
            license="AGPL-3.0",
        ),
    )


SPECS = {spec.name: spec for size in SIZES for spec in _specs(size)}
